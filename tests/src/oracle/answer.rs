//! What the oracle answers.

use super::Metrics;

/// Loss, metrics, token losses and gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The reduced loss.
    pub loss: f64,
    /// Row by row, 0 at masked positions.
    pub token_losses: Vec<f64>,
    /// d loss / d log_probs, row by row, 0 at masked positions.
    pub gradient: Vec<f64>,
    /// d loss / d entropies, row by row; all 0 without an entropy bonus.
    pub entropy_gradient: Vec<f64>,
    /// Every metric.
    pub metrics: Metrics,
    /// How near any number came to where a formula changes its branch.
    pub margin: f64,
}

impl Answer {
    pub(super) fn zeros(length: usize) -> Self {
        Self {
            loss: 0.0,
            token_losses: vec![0.0; length],
            gradient: vec![0.0; length],
            entropy_gradient: vec![0.0; length],
            metrics: Metrics::default(),
            margin: f64::INFINITY,
        }
    }
}

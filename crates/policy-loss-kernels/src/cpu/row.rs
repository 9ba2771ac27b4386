//! What the tokens of a row share.

use crate::{LOG_RATIO_BOUND, Objective, RatioLevel, Reduction, Weight};

use super::sums::Totals;

/// A row of the batch: first what is gathered over its tokens, then what follows from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// Number of valid tokens.
    pub valid: usize,
    /// Sum of `log_probs - base`, for the ratio of a sequence.
    pub log_ratio: f64,
    /// Sum of `old_log_probs - rollout_log_probs`, for the mask of a sequence.
    pub log_weight: f64,
    /// Sum of `A * weight` over tokens that are not clipped, for the gradient of a sequence.
    pub unclipped_advantage: f64,

    /// The ratio of the sequence.
    pub ratio: f64,
    /// Bounds of the weight.
    pub weight_low: f64,
    /// Bounds of the weight.
    pub weight_high: f64,
    /// What a weight below its bounds becomes.
    pub weight_below: f64,
    /// What a weight above its bounds becomes.
    pub weight_above: f64,
    /// The row's part of the reduction's factor: `1 / n_b`, or 1.
    pub loss_factor: f64,
    /// The whole factor of the reduction.
    pub gradient_factor: f64,
}

impl Row {
    /// Derives the ratio, the weight's bounds and the factors from what was gathered.
    /// `scale` is the batch's part of the reduction's factor.
    pub fn derive(&mut self, objective: &Objective, scale: f64) {
        let per_token = 1.0 / self.valid.max(1) as f64;
        let mean_log_ratio = self.log_ratio * per_token;
        // `clamp` keeps NaN.
        self.ratio = mean_log_ratio
            .clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
            .exp();
        (self.weight_low, self.weight_high) = match objective.weight {
            Weight::None => (0.0, 0.0),
            Weight::Truncate { low, high } | Weight::Mask { low, high } => (low, high),
            Weight::SequenceMask { low, high } => {
                let geometric_mean = (self.log_weight * per_token).exp();
                // Bounds that admit every weight or none; NaN is not rejected, so that it
                // reaches the loss.
                if geometric_mean < low || geometric_mean > high {
                    (f64::INFINITY, f64::NEG_INFINITY)
                } else {
                    (f64::NEG_INFINITY, f64::INFINITY)
                }
            }
        };
        (self.weight_below, self.weight_above) = match objective.weight {
            Weight::Truncate { low, high } => (low, high),
            _ => (0.0, 0.0),
        };
        self.loss_factor = match objective.reduction {
            Reduction::SequenceMean => per_token,
            _ => 1.0,
        };
        self.gradient_factor = self.loss_factor * scale;
    }

    /// The gradient of every valid token of a sequence that shares one ratio.
    pub fn shared_gradient(&self) -> f64 {
        let per_token = 1.0 / self.valid.max(1) as f64;
        if (self.log_ratio * per_token).abs() > LOG_RATIO_BOUND {
            return 0.0;
        }
        // Adding 0 turns -0 into 0.
        -self.ratio * self.unclipped_advantage * per_token * self.gradient_factor + 0.0
    }

    /// Whether an input that was gathered is not finite.
    pub fn is_finite(&self) -> bool {
        (self.log_ratio + self.log_weight).is_finite()
    }

    /// Adds the ratio of a sequence, once for each of its tokens.
    pub fn count_ratio(&self, objective: &Objective, totals: &mut Totals) {
        if objective.ratio_level == RatioLevel::Token || self.valid == 0 {
            return;
        }
        let excess = self.ratio - 1.0;
        totals.excess += self.valid as f64 * excess;
        totals.squared_excess += self.valid as f64 * excess * excess;
        totals.min_ratio = totals.min_ratio.min(self.ratio);
        totals.max_ratio = totals.max_ratio.max(self.ratio);
    }
}

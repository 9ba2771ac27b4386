//! The value loss as loops over `f64`, with its gradient by hand; no tensor in here.

use policy_loss::Reduction;

use super::case::Case;

/// What the value loss is.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Answer {
    pub loss: f64,
    /// `[B, T]`.
    pub gradient: Vec<f64>,
    /// `[B, T]`.
    pub token_losses: Vec<f64>,
    /// Name and value, in the order of the documentation.
    pub metrics: Vec<(&'static str, f64)>,
}

/// What comes of a batch; whatever stands at invalid tokens is not looked at. `total` is the size of the
/// global batch and the number of ranks, where they are given.
pub fn solve(batch: &Case, total: Option<(f64, f64)>) -> Answer {
    let clip = batch.config.clip;
    let sequence_mean = batch.config.reduction == Reduction::SequenceMean;
    let length = batch.sequences * batch.tokens;
    let valid: Vec<usize> = (0..length).filter(|i| batch.is_valid(*i)).collect();
    let in_row = |i: usize| {
        let row = i / batch.tokens;
        valid.iter().filter(|o| *o / batch.tokens == row).count() as f64
    };
    let sequences = (0..batch.sequences)
        .filter(|row| valid.iter().any(|i| i / batch.tokens == *row))
        .count() as f64;
    let count = valid.len() as f64;
    let local = if sequence_mean { sequences } else { count };
    let factor = match total {
        Some((total, world_size)) => world_size / total,
        None => 1.0 / local.max(1.0),
    };

    let mut answer = Answer {
        loss: 0.0,
        gradient: vec![0.0; length],
        token_losses: vec![0.0; length],
        metrics: Vec::new(),
    };
    let mut clipped = 0.0;
    for &i in &valid {
        let (v, r, old) = (batch.values[i], batch.returns[i], batch.old_values[i]);
        let weight = match sequence_mean {
            true => factor / in_row(i),
            false => factor,
        };
        let (mut loss, mut slope) = ((v - r).powi(2) / 2.0, v - r);
        if let Some(clip) = clip {
            // Only a value that left the bounds can be clipped.
            let edge = match v - old {
                d if d > clip => Some(old + clip),
                d if d < -clip => Some(old - clip),
                _ => None,
            };
            if let Some(edge) = edge {
                let bounded = (edge - r).powi(2) / 2.0;
                if bounded > loss {
                    (loss, slope) = (bounded, 0.0);
                    clipped += 1.0;
                }
            }
        }
        answer.token_losses[i] = loss;
        answer.loss += loss * weight;
        answer.gradient[i] = slope * weight;
    }

    let mean =
        |of: &dyn Fn(usize) -> f64| valid.iter().map(|i| of(*i)).sum::<f64>() / count.max(1.0);
    let variance = |of: &dyn Fn(usize) -> f64| {
        let center = mean(of);
        mean(&|i| (of(i) - center).powi(2))
    };
    let spread = variance(&|i| batch.returns[i]);
    let finite = |i: usize| {
        let old = clip.is_none() || batch.old_values[i].is_finite();
        batch.values[i].is_finite() && batch.returns[i].is_finite() && old
    };
    answer.metrics = vec![
        ("clip_fraction", clipped / count.max(1.0)),
        ("value_mean", mean(&|i| batch.values[i])),
        ("return_mean", mean(&|i| batch.returns[i])),
        (
            "squared_error",
            mean(&|i| (batch.values[i] - batch.returns[i]).powi(2)),
        ),
        (
            "explained_variance",
            match spread == 0.0 {
                true => 0.0,
                false => 1.0 - variance(&|i| batch.returns[i] - batch.values[i]) / spread,
            },
        ),
        ("valid_tokens", count),
        ("valid_sequences", sequences),
        (
            "non_finite",
            valid.iter().filter(|i| !finite(**i)).count() as f64,
        ),
    ];
    answer
}

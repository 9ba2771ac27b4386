//! From the totals of a batch to its summary.

use crate::{Objective, Summary};

use super::counts::Counts;
use super::sums::Totals;

/// Makes the summary of the sums.
pub fn summary(objective: &Objective, counts: &Counts, scale: f64, totals: &Totals) -> Summary {
    let valid = counts.tokens as f64;
    // Without a correction, tokens that may be dropped pass a weight of 1.
    let of_weights = |sum: f64| match objective.correction {
        None => 0.0,
        Some(_) => sum,
    };
    let (min_ratio, max_ratio) = match (counts.tokens, totals.min_ratio > totals.max_ratio) {
        (0, _) => (0.0, 0.0),
        // No ratio was a number.
        (_, true) => (f64::NAN, f64::NAN),
        (_, false) => (totals.min_ratio, totals.max_ratio),
    };
    Summary {
        // Subtracted from 0, not negated: no sum becomes -0.
        loss: (0.0 - totals.surrogate + totals.kl_loss) * scale,
        valid_tokens: valid,
        valid_sequences: counts.sequences as f64,
        clipped_above: totals.clipped_above,
        clipped_below: totals.clipped_below,
        dual_clipped: totals.dual_clipped,
        negative_log_ratio: 0.0 - totals.log_ratio,
        squared_log_ratio: totals.squared_log_ratio,
        k3: totals.k3,
        ratio: totals.ratio,
        squared_ratio: totals.squared_ratio,
        min_ratio,
        max_ratio,
        rollout_log_ratio: of_weights(0.0 - totals.log_weight),
        weight: of_weights(totals.weight),
        squared_weight: of_weights(totals.squared_weight),
        truncated: of_weights(totals.truncated_weight),
        zeroed: of_weights(totals.zeroed_weight),
        dropped: totals.dropped,
        kl: totals.kl,
        non_finite: totals.non_finite,
    }
}

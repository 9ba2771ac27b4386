//! What comes back: shared by all kernels.

#[cfg(doc)]
use crate::{Objective, Penalty};

/// The loss and the sums that its metrics are made of, over the valid tokens of a batch.
///
/// Counts are exact integers. Without a valid token everything is 0.
/// `log_ratio` is `log_probs - old_log_probs`, whatever the ratio is taken against.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// The reduced loss.
    pub loss: f64,
    /// Number of valid tokens.
    pub valid_tokens: f64,
    /// Number of sequences with a valid token.
    pub valid_sequences: f64,
    /// Tokens clipped while `A > 0`.
    pub clipped_above: f64,
    /// Tokens clipped while `A < 0`.
    pub clipped_below: f64,
    /// Tokens whose surrogate was replaced by the dual clip.
    pub dual_clipped: f64,
    /// Sum of `-log_ratio`, not clamped.
    pub negative_log_ratio: f64,
    /// Sum of `log_ratio²`, not clamped.
    pub squared_log_ratio: f64,
    /// Sum of `expm1(c) - c`, where `c = clamp(log_ratio, -20, 20)`.
    pub k3: f64,
    /// Sum of the ratio.
    pub ratio: f64,
    /// Sum of the ratio's square.
    pub squared_ratio: f64,
    /// Smallest ratio; unspecified if one is NaN.
    pub min_ratio: f64,
    /// Largest ratio; unspecified if one is NaN.
    pub max_ratio: f64,
    /// Sum of `rollout_log_probs - old_log_probs`; 0 without a correction.
    pub rollout_log_ratio: f64,
    /// Sum of the weights; 0 without a correction.
    pub weight: f64,
    /// Sum of the weights' squares; 0 without a correction.
    pub squared_weight: f64,
    /// Tokens whose weight was moved to a bound.
    pub truncated: f64,
    /// Tokens whose weight was set to 0.
    pub zeroed: f64,
    /// Tokens that [`Objective::off_policy`] dropped.
    pub dropped: f64,
    /// Sum of the estimate of the [`Penalty`], times the ratio where it is multiplied by it.
    pub kl: f64,
    /// Valid tokens at which an input that takes part is not finite.
    pub non_finite: f64,
}

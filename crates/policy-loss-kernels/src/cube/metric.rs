//! The order of the metrics.

use cubecl::prelude::*;

/// A metric, and its place among the packed metrics. With `n` valid tokens,
/// `d = log_probs - old_log_probs`, the ratio `r` of the objective and its weights `w`.
#[derive_cube_comptime]
pub enum Metric {
    /// Fraction of tokens whose clipped branch was taken.
    ClipRatio,
    /// Mean of `-d`.
    PpoKl,
    /// Fraction of tokens clipped while `A > 0`.
    ClippedAbove,
    /// Fraction of tokens clipped while `A < 0`.
    ClippedBelow,
    /// Fraction of tokens whose surrogate was replaced by the dual clip.
    DualClipped,
    /// Mean of `r`.
    RatioMean,
    /// Smallest `r`; NaN is left out.
    RatioMin,
    /// Largest `r`; NaN is left out.
    RatioMax,
    /// `sum(r)² / (n * sum(r²))`.
    RatioEffectiveSampleSize,
    /// Mean of `-d`.
    KlK1,
    /// Mean of `d² / 2`.
    KlK2,
    /// Mean of `expm1(d) - d`, with `d` clamped to ±20.
    KlK3,
    /// `n`.
    ValidTokens,
    /// Number of sequences with a valid token.
    ValidSequences,
    /// Number of valid tokens at which an input that takes part is not finite.
    NonFinite,
    /// Mean of `rollout_log_probs - old_log_probs`. This and what follows is absent without a
    /// weight.
    RolloutKl,
    /// Mean of `w`.
    WeightMean,
    /// `sum(w)² / (n * sum(w²))`.
    WeightEffectiveSampleSize,
    /// Fraction of weights that were moved to a bound.
    WeightTruncated,
    /// Fraction of weights that were set to 0.
    WeightZeroed,
}

/// The number of packed metrics, with or without those of the weights.
#[must_use]
pub const fn metric_count(weighted: bool) -> usize {
    match weighted {
        true => Metric::WeightZeroed as usize + 1,
        false => Metric::NonFinite as usize + 1,
    }
}

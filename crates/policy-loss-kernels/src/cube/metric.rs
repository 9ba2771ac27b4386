//! The order of the metrics.

use cubecl::prelude::*;

use crate::Objective;

/// A metric. With `n` valid tokens,
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
    /// Fraction of tokens that [`Objective::off_policy`] dropped; absent without it.
    OffPolicyDropped,
    /// Mean of the estimate of the [`Penalty`](crate::Penalty), times the ratio where it is
    /// multiplied by it; absent without one.
    Kl,
}

/// The packed metrics of an objective, in their order.
#[must_use]
pub fn metrics(objective: &Objective) -> Vec<Metric> {
    let weighted = objective.correction.is_some();
    let drops = objective.off_policy.is_some();
    packed(weighted, drops, objective.penalty.is_some())
}

/// The packed metrics of an objective with these parts.
pub(super) fn packed(weighted: bool, drops: bool, penalized: bool) -> Vec<Metric> {
    use Metric::*;
    let mut metrics = vec![
        ClipRatio,
        PpoKl,
        ClippedAbove,
        ClippedBelow,
        DualClipped,
        RatioMean,
        RatioMin,
        RatioMax,
        RatioEffectiveSampleSize,
        KlK1,
        KlK2,
        KlK3,
        ValidTokens,
        ValidSequences,
        NonFinite,
    ];
    if weighted {
        metrics.extend([
            RolloutKl,
            WeightMean,
            WeightEffectiveSampleSize,
            WeightTruncated,
            WeightZeroed,
        ]);
    }
    if drops {
        metrics.push(OffPolicyDropped);
    }
    if penalized {
        metrics.push(Kl);
    }
    metrics
}

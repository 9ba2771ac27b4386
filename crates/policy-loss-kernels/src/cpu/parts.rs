//! The ratio and the weight: each type is one choice, and costs nothing where it is not chosen.

use super::exp::exp;
use super::lanes::Lanes;
use super::output::{Output, OwnGradient, SharedGradient};
use super::sums::LaneSums;
use super::token::{BoundedRatio, Constants, Inputs, RowConstants, Surrogate, TokenRatio};

/// Where a token's ratio comes from.
pub trait Ratio: 'static {
    /// Whether `rollout_log_probs` is read for it.
    const READS_ROLLOUT: bool = false;
    /// What a token contributes to the gradient.
    type Gradient: Output;

    /// The ratio, given `log_probs - old_log_probs` and its exponential.
    fn ratio<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        against_old: (L::Vector, BoundedRatio<L>),
        sums: &mut LaneSums<L>,
    ) -> TokenRatio<L>;
}

/// `exp(log_probs - old_log_probs)`, which the KL estimate has at hand already.
pub struct AgainstOld;

/// `exp(log_probs - rollout_log_probs)`.
pub struct AgainstRollout;

/// The ratio of the sequence, with a gradient that its tokens share.
pub struct OfSequence;

/// The ratio of the sequence, with the gradient of each token alone.
pub struct OfSequenceAndToken;

impl Ratio for AgainstOld {
    type Gradient = OwnGradient;

    #[inline(always)]
    fn ratio<L: Lanes>(
        lanes: L,
        _constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        (log_ratio, against_old): (L::Vector, BoundedRatio<L>),
        sums: &mut LaneSums<L>,
    ) -> TokenRatio<L> {
        let base = inputs.old_log_probs;
        token_ratio(lanes, inputs.valid, (log_ratio, base), against_old, sums)
    }
}

impl Ratio for AgainstRollout {
    const READS_ROLLOUT: bool = true;
    type Gradient = OwnGradient;

    #[inline(always)]
    fn ratio<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        _against_old: (L::Vector, BoundedRatio<L>),
        sums: &mut LaneSums<L>,
    ) -> TokenRatio<L> {
        let difference = lanes.sub(inputs.log_probs, inputs.rollout_log_probs);
        let log_ratio = lanes.keep(inputs.valid, difference);
        sums.rollout_difference = lanes.add(sums.rollout_difference, log_ratio);
        let against_rollout = BoundedRatio::new(lanes, &constants.log_ratio_bounds, log_ratio);
        let base = inputs.rollout_log_probs;
        token_ratio(
            lanes,
            inputs.valid,
            (log_ratio, base),
            against_rollout,
            sums,
        )
    }
}

impl Ratio for OfSequence {
    type Gradient = SharedGradient;

    #[inline(always)]
    fn ratio<L: Lanes>(
        lanes: L,
        _constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        (log_ratio, _): (L::Vector, BoundedRatio<L>),
        _sums: &mut LaneSums<L>,
    ) -> TokenRatio<L> {
        TokenRatio {
            value: row.ratio,
            log_ratio,
            base: inputs.old_log_probs,
            // The row counts its ratio once for all its tokens, and stops a gradient at the
            // bounds itself.
            saturated: lanes.never(),
        }
    }
}

impl Ratio for OfSequenceAndToken {
    type Gradient = OwnGradient;

    #[inline(always)]
    fn ratio<L: Lanes>(
        lanes: L,
        _constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        (log_ratio, _): (L::Vector, BoundedRatio<L>),
        _sums: &mut LaneSums<L>,
    ) -> TokenRatio<L> {
        TokenRatio {
            value: row.ratio,
            log_ratio,
            base: inputs.old_log_probs,
            saturated: lanes.greater(row.saturated, lanes.zero()),
        }
    }
}

/// A ratio of its own for each token: counted here.
#[inline(always)]
fn token_ratio<L: Lanes>(
    lanes: L,
    valid: L::Mask,
    (log_ratio, base): (L::Vector, L::Vector),
    bounded: BoundedRatio<L>,
    sums: &mut LaneSums<L>,
) -> TokenRatio<L> {
    let ratio = bounded.exponential.value(lanes);
    let kept = lanes.keep(valid, ratio);
    sums.ratio = lanes.add(sums.ratio, kept);
    sums.squared_ratio = lanes.mul_add(kept, kept, sums.squared_ratio);
    let (min_ratio, max_ratio) = (sums.min_ratio, sums.max_ratio);
    sums.min_ratio = lanes.select(valid, lanes.min(ratio, min_ratio), min_ratio);
    sums.max_ratio = lanes.select(valid, lanes.max(ratio, max_ratio), max_ratio);
    TokenRatio {
        value: ratio,
        log_ratio,
        base,
        saturated: bounded.saturated,
    }
}

/// The constant that multiplies a token's loss.
pub trait Weight: 'static {
    /// Whether `rollout_log_probs` is read for it.
    const READS_ROLLOUT: bool = true;

    /// The surrogate times its weight.
    fn apply<L: Lanes>(
        lanes: L,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        advantage: L::Vector,
        surrogate: Surrogate<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L>;
}

/// 1.
pub struct Unweighted;

/// The weight, or what the row puts in its place beyond its bounds; before it, 0 for a token that
/// the row drops. An objective that drops tokens and has no weight passes `old_log_probs` for the
/// rollout's, which makes it 1.
pub struct Weighted;

impl Weight for Unweighted {
    const READS_ROLLOUT: bool = false;

    #[inline(always)]
    fn apply<L: Lanes>(
        _lanes: L,
        _row: &RowConstants<L>,
        _inputs: &Inputs<L>,
        _advantage: L::Vector,
        surrogate: Surrogate<L>,
        _sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        surrogate
    }
}

impl Weight for Weighted {
    #[inline(always)]
    fn apply<L: Lanes>(
        lanes: L,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        advantage: L::Vector,
        surrogate: Surrogate<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let surrogate = kept(lanes, row, advantage, surrogate, sums);
        let is_given = lanes.greater(row.weight_is_given, lanes.zero());
        let weight = rollout_weight(lanes, inputs, sums);
        let weight = lanes.select(is_given, inputs.weights, weight);
        let is_number = lanes.equal(weight, weight);
        let weight = lanes.select(is_number, weight, row.weight_of_nan);
        let below = lanes.less(weight, row.weight_low);
        let above = lanes.greater(weight, row.weight_high);
        // Selected, not multiplied: infinity times 0 would be NaN.
        let weight = lanes.select(below, row.weight_below, weight);
        let weight = lanes.select(above, row.weight_above, weight);
        let changed = lanes.or(below, above);
        weighted(lanes, inputs, surrogate, (weight, changed), sums)
    }
}

/// The surrogate, or the constant 0 where the row drops it.
#[inline(always)]
fn kept<L: Lanes>(
    lanes: L,
    row: &RowConstants<L>,
    advantage: L::Vector,
    surrogate: Surrogate<L>,
    sums: &mut LaneSums<L>,
) -> Surrogate<L> {
    let negative = lanes.less(advantage, lanes.zero());
    let dropped = lanes.and(negative, lanes.greater(row.drops_negative, lanes.zero()));
    sums.dropped = lanes.count(dropped, sums.dropped);
    Surrogate {
        value: lanes.drop(dropped, surrogate.value),
        slope: lanes.drop(dropped, surrogate.slope),
        ratio_slope: lanes.drop(dropped, surrogate.ratio_slope),
        constant: surrogate.constant,
    }
}

/// `exp(old_log_probs - rollout_log_probs)`.
#[inline(always)]
fn rollout_weight<L: Lanes>(lanes: L, inputs: &Inputs<L>, sums: &mut LaneSums<L>) -> L::Vector {
    let difference = lanes.sub(inputs.old_log_probs, inputs.rollout_log_probs);
    let log_weight = lanes.keep(inputs.valid, difference);
    sums.log_weight = lanes.add(sums.log_weight, log_weight);
    exp(lanes, log_weight)
}

/// Multiplies by a weight, given where it was changed.
#[inline(always)]
fn weighted<L: Lanes>(
    lanes: L,
    inputs: &Inputs<L>,
    surrogate: Surrogate<L>,
    (weight, changed): (L::Vector, L::Mask),
    sums: &mut LaneSums<L>,
) -> Surrogate<L> {
    let weight = lanes.keep(inputs.valid, weight);
    let changed = lanes.and(inputs.valid, changed);
    sums.weight = lanes.add(sums.weight, weight);
    sums.squared_weight = lanes.mul_add(weight, weight, sums.squared_weight);
    sums.changed_weight = lanes.count(changed, sums.changed_weight);
    Surrogate {
        value: lanes.mul(surrogate.value, weight),
        slope: lanes.mul(surrogate.slope, weight),
        ratio_slope: lanes.mul(surrogate.ratio_slope, weight),
        constant: surrogate.constant,
    }
}

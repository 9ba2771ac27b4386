//! The ratio: each type is one choice, and costs nothing where it is not chosen.

use super::lanes::Lanes;
use super::output::{Output, OwnGradient, SharedGradient};
use super::sums::LaneSums;
use super::token::{BoundedRatio, Constants, Inputs, RowConstants, TokenRatio};

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
            // Its own gradient: a NaN of the sequence must not reach a masked token.
            value: lanes.select(inputs.valid, row.ratio, lanes.one()),
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

//! The surrogate of a token: each type is one formula.

use super::lanes::Lanes;
use super::sums::LaneSums;
use super::token::{Constants, Inputs, Surrogate};

/// What a formula is made from.
#[derive(Clone, Copy)]
pub struct Given<L: Lanes> {
    /// 0 where the token is masked.
    pub advantage: L::Vector,
    pub ratio: L::Vector,
    /// Where the ratio is constant because its logarithm reached a bound.
    pub saturated: L::Mask,
}

/// The surrogate of a token, before its weight.
pub trait Formula: 'static {
    /// The surrogate, and its gradient.
    fn surrogate<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        inputs: &Inputs<L>,
        given: Given<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L>;
}

/// `min(ratio * A, clamp(ratio) * A)`.
pub struct SingleClip;

/// The same, and `max(surrogate, c * A)` where `A < 0`.
pub struct BoundedBelow;

/// `clamp(ratio) * A * log_probs`, whose first factor is a constant.
pub struct WeightedLogProbs;

impl Formula for SingleClip {
    #[inline(always)]
    fn surrogate<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        inputs: &Inputs<L>,
        given: Given<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let Given {
            advantage,
            ratio,
            saturated,
        } = given;
        let unclipped = lanes.mul(ratio, advantage);
        let clamped = lanes.clamp(ratio, constants.clip_low, constants.clip_high);
        let clamped = lanes.mul(clamped, advantage);
        let clipped = lanes.less(clamped, unclipped);
        let above = lanes.and(clipped, lanes.greater(advantage, lanes.zero()));
        sums.clipped = lanes.count(clipped, sums.clipped);
        sums.clipped_above = lanes.count(above, sums.clipped_above);
        Surrogate {
            valid: inputs.valid,
            weighted_advantage: advantage,
            unclipped,
            value: lanes.select(clipped, clamped, unclipped),
            constant: lanes.or(clipped, saturated),
        }
    }
}

impl Formula for BoundedBelow {
    #[inline(always)]
    fn surrogate<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        inputs: &Inputs<L>,
        given: Given<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let clip = SingleClip::surrogate(lanes, constants, inputs, given, sums);
        let bound = lanes.mul(constants.dual_clip, given.advantage);
        let negative = lanes.less(given.advantage, lanes.zero());
        let bounded = lanes.and(negative, lanes.greater(bound, clip.value));
        sums.dual_clipped = lanes.count(bounded, sums.dual_clipped);
        Surrogate {
            value: lanes.select(bounded, bound, clip.value),
            constant: lanes.or(clip.constant, bounded),
            ..clip
        }
    }
}

impl Formula for WeightedLogProbs {
    #[inline(always)]
    fn surrogate<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        inputs: &Inputs<L>,
        given: Given<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let Given {
            advantage, ratio, ..
        } = given;
        let positive = lanes.greater(advantage, lanes.zero());
        let negative = lanes.less(advantage, lanes.zero());
        let low = lanes.select(positive, constants.positive_low, constants.negative_low);
        let high = lanes.select(positive, constants.positive_high, constants.negative_high);
        let outside = lanes.or(lanes.less(ratio, low), lanes.greater(ratio, high));
        let none = lanes.zero();
        let counts_above = lanes.and(positive, lanes.greater(constants.positive_counts, none));
        let counts_below = lanes.and(negative, lanes.greater(constants.negative_counts, none));
        let above = lanes.and(outside, counts_above);
        let below = lanes.and(outside, counts_below);
        sums.clipped = lanes.count(lanes.or(above, below), sums.clipped);
        sums.clipped_above = lanes.count(above, sums.clipped_above);
        let slope = lanes.mul(lanes.clamp(ratio, low, high), advantage);
        let log_probs = lanes.keep(inputs.valid, inputs.log_probs);
        Surrogate {
            valid: inputs.valid,
            weighted_advantage: advantage,
            unclipped: slope,
            value: lanes.mul(slope, log_probs),
            // The weight is a constant already, also where the ratio reached its bounds.
            constant: lanes.less(lanes.one(), lanes.zero()),
        }
    }
}

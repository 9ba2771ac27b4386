//! The surrogates that take from the sequence what the row has derived.

use super::lanes::Lanes;
use super::sums::LaneSums;
use super::surrogates::{SurrogatePart, of_log_probs};
use super::token::{Constants, Inputs, RowConstants, Surrogate, TokenRatio};

/// `w * A * log_probs`, where the constant `w` is that of the sequence for the sign of `A`.
pub struct SequenceWeight;

/// One value for the sequence, with a gradient where the token's log-ratio is not clipped.
pub struct GeometricMean;

impl SurrogatePart for SequenceWeight {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        _constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        _ratio: &TokenRatio<L>,
        advantage: L::Vector,
        _sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let [positive, negative] = row.surrogate;
        let is_negative = lanes.less(advantage, lanes.zero());
        let weight = lanes.select(is_negative, negative, positive);
        of_log_probs(lanes, inputs, lanes.mul(weight, advantage))
    }
}

impl SurrogatePart for GeometricMean {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let clipped = ClippedLogRatio::new(lanes, constants, ratio.log_ratio, advantage);
        sums.clipped = lanes.count(lanes.or(clipped.above, clipped.below), sums.clipped);
        sums.clipped_above = lanes.count(clipped.above, sums.clipped_above);
        Surrogate {
            value: lanes.keep(inputs.valid, row.surrogate[0]),
            // The row has it: see `GradientOfRow`.
            slope: lanes.zero(),
            ratio_slope: lanes.zero(),
            constant: lanes.or(clipped.constant, ratio.saturated),
        }
    }
}

/// The logarithm of a token's ratio, clipped on the side where it would gain.
pub struct ClippedLogRatio<L: Lanes> {
    pub value: L::Vector,
    pub above: L::Mask,
    pub below: L::Mask,
    /// It does not depend on the ratio.
    pub constant: L::Mask,
}

impl<L: Lanes> ClippedLogRatio<L> {
    #[inline(always)]
    pub fn new(
        lanes: L,
        constants: &Constants<L>,
        log_ratio: L::Vector,
        advantage: L::Vector,
    ) -> Self {
        let [minus_low, high, ..] = constants.surrogate;
        let positive = lanes.greater(advantage, lanes.zero());
        let negative = lanes.less(advantage, lanes.zero());
        let above = lanes.and(positive, lanes.greater(log_ratio, high));
        let below = lanes.and(negative, lanes.less(log_ratio, minus_low));
        // Not a NaN, which must be seen.
        let neutral = lanes.equal(advantage, lanes.zero());
        let [lowest, highest] = constants.log_ratio_bounds;
        let value = lanes.clamp(log_ratio, lowest, highest);
        let value = lanes.select(above, high, value);
        let value = lanes.select(below, minus_low, value);
        Self {
            value: lanes.drop(neutral, value),
            above,
            below,
            constant: lanes.or(neutral, lanes.or(above, below)),
        }
    }
}

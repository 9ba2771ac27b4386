//! The surrogates: each type is one choice, and costs nothing where it is not chosen.

use std::marker::PhantomData;

use crate::Surrogate as Choice;

use super::exp::exp;
use super::lanes::Lanes;
use super::sums::LaneSums;
use super::token::{Constants, Inputs, RowConstants, Surrogate, TokenRatio};

/// A surrogate. What it is given is 0 where the token is masked, but for `log_probs` and a ratio
/// of 1.
pub trait SurrogatePart: 'static {
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L>;
}

/// The numbers of a surrogate, in the order in which its type reads them.
pub fn numbers(surrogate: &Choice) -> [f64; 4] {
    match *surrogate {
        Choice::Clip(clip) => [
            1.0 - clip.low,
            1.0 + clip.high,
            clip.dual.unwrap_or(0.0),
            0.0,
        ],
        Choice::LogProbs { range, .. } => [range.low, range.high, 0.0, 0.0],
        Choice::Gate { positive, negative } => [positive, negative, 4.0 / positive, 4.0 / negative],
        Choice::SquaredLogRatio { coefficient } => [coefficient, 0.5 * coefficient, 0.0, 0.0],
        Choice::TrustRegion {
            low, high, most, ..
        } => [-low, high, most, low],
        Choice::SequenceWeight { .. } => [0.0; 4],
        Choice::GeometricMean { low, high } => [-low, high, 0.0, 0.0],
    }
}

/// The clipped surrogate, with or without a bound for negative advantages.
pub struct Clipped<D>(PhantomData<D>);

/// The lower bound of the clipped surrogate where the advantage is negative.
pub trait DualClip: 'static {
    /// The surrogate and where it is constant, after the bound.
    fn bound<L: Lanes>(
        lanes: L,
        dual_clip: L::Vector,
        advantage: L::Vector,
        surrogate: (L::Vector, L::Mask),
        sums: &mut LaneSums<L>,
    ) -> (L::Vector, L::Mask);
}

/// No bound.
pub struct SingleClip;

/// `max(surrogate, c * A)` where `A < 0`.
pub struct BoundedBelow;

impl DualClip for SingleClip {
    #[inline(always)]
    fn bound<L: Lanes>(
        _lanes: L,
        _dual_clip: L::Vector,
        _advantage: L::Vector,
        surrogate: (L::Vector, L::Mask),
        _sums: &mut LaneSums<L>,
    ) -> (L::Vector, L::Mask) {
        surrogate
    }
}

impl DualClip for BoundedBelow {
    #[inline(always)]
    fn bound<L: Lanes>(
        lanes: L,
        dual_clip: L::Vector,
        advantage: L::Vector,
        (surrogate, constant): (L::Vector, L::Mask),
        sums: &mut LaneSums<L>,
    ) -> (L::Vector, L::Mask) {
        let bound = lanes.mul(dual_clip, advantage);
        let negative = lanes.less(advantage, lanes.zero());
        let bounded = lanes.and(negative, lanes.greater(bound, surrogate));
        sums.dual_clipped = lanes.count(bounded, sums.dual_clipped);
        let surrogate = lanes.select(bounded, bound, surrogate);
        (surrogate, lanes.or(constant, bounded))
    }
}

impl<D: DualClip> SurrogatePart for Clipped<D> {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        _inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let [low, high, dual_clip, _] = constants.surrogate;
        let unclipped = lanes.mul(ratio.value, advantage);
        let clamped = lanes.mul(lanes.clamp(ratio.value, low, high), advantage);
        let clipped = lanes.less(clamped, unclipped);
        let value = lanes.select(clipped, clamped, unclipped);
        let above = lanes.and(clipped, lanes.greater(advantage, lanes.zero()));
        sums.clipped = lanes.count(clipped, sums.clipped);
        sums.clipped_above = lanes.count(above, sums.clipped_above);
        let constant = lanes.or(clipped, ratio.saturated);
        let (value, constant) = D::bound(lanes, dual_clip, advantage, (value, constant), sums);
        Surrogate {
            value,
            slope: unclipped,
            ratio_slope: advantage,
            constant,
        }
    }
}

/// `A * log_probs`.
pub struct LogProbs;

/// `w * A * log_probs`, where the constant `w` is the ratio moved into its range.
pub struct WeightedLogProbs;

/// The same with `w = 1` but where `A < 0`.
pub struct NegativeWeightedLogProbs;

impl SurrogatePart for LogProbs {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        _constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        _ratio: &TokenRatio<L>,
        advantage: L::Vector,
        _sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        of_log_probs(lanes, inputs, advantage)
    }
}

impl SurrogatePart for WeightedLogProbs {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let (weight, beyond) = in_range(lanes, constants, ratio);
        // Not where A is 0: such a token, or a masked one, has nothing to lose.
        let above = lanes.and(beyond, lanes.greater(advantage, lanes.zero()));
        let below = lanes.and(beyond, lanes.less(advantage, lanes.zero()));
        sums.clipped = lanes.count(lanes.or(above, below), sums.clipped);
        sums.clipped_above = lanes.count(above, sums.clipped_above);
        of_log_probs(lanes, inputs, lanes.mul(weight, advantage))
    }
}

impl SurrogatePart for NegativeWeightedLogProbs {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let (weight, beyond) = in_range(lanes, constants, ratio);
        let negative = lanes.less(advantage, lanes.zero());
        sums.clipped = lanes.count(lanes.and(beyond, negative), sums.clipped);
        let weighted = lanes.mul(weight, advantage);
        of_log_probs(lanes, inputs, lanes.select(negative, weighted, advantage))
    }
}

/// The ratio moved into the range of the weight, and where it was moved.
#[inline(always)]
fn in_range<L: Lanes>(
    lanes: L,
    constants: &Constants<L>,
    ratio: &TokenRatio<L>,
) -> (L::Vector, L::Mask) {
    let [low, high, ..] = constants.surrogate;
    let below = lanes.less(ratio.value, low);
    let above = lanes.greater(ratio.value, high);
    let weight = lanes.clamp(ratio.value, low, high);
    (weight, lanes.or(below, above))
}

/// A surrogate that is proportional to `log_probs`.
#[inline(always)]
pub fn of_log_probs<L: Lanes>(lanes: L, inputs: &Inputs<L>, slope: L::Vector) -> Surrogate<L> {
    let log_probs = lanes.keep(inputs.valid, inputs.log_probs);
    Surrogate {
        value: lanes.mul(slope, log_probs),
        slope,
        ratio_slope: lanes.zero(),
        constant: lanes.never(),
    }
}

/// A sigmoid of the ratio's distance from 1.
pub struct Gate;

impl SurrogatePart for Gate {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        _inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        _sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let [positive, negative, positive_inverse, negative_inverse] = constants.surrogate;
        let is_positive = lanes.greater(advantage, lanes.zero());
        let temperature = lanes.select(is_positive, positive, negative);
        let four_inverse = lanes.select(is_positive, positive_inverse, negative_inverse);
        let x = lanes.mul(temperature, lanes.sub(lanes.one(), ratio.value));
        // There the gate is shut, or open, to the last digit, and the exponential finite.
        let limit = |x: f64| lanes.splat(super::real::Real::from_f64(x));
        let falling = exp(lanes, lanes.clamp(x, limit(-80.0), limit(80.0)));
        let open = lanes.div(lanes.one(), lanes.add(lanes.one(), falling));
        let closed = lanes.mul(falling, open);
        let four = lanes.mul(temperature, four_inverse);
        let ratio_slope = lanes.mul(lanes.mul(four, lanes.mul(open, closed)), advantage);
        Surrogate {
            value: lanes.mul(lanes.mul(open, advantage), four_inverse),
            slope: lanes.mul(ratio_slope, ratio.value),
            ratio_slope,
            constant: ratio.saturated,
        }
    }
}

/// `A * log_probs`, less a square of the log-ratio.
pub struct SquaredLogRatio;

impl SurrogatePart for SquaredLogRatio {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        _sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let [coefficient, half, ..] = constants.surrogate;
        let log_probs = lanes.keep(inputs.valid, inputs.log_probs);
        let square = lanes.mul(ratio.log_ratio, ratio.log_ratio);
        let reward = lanes.mul(log_probs, advantage);
        Surrogate {
            value: lanes.sub(reward, lanes.mul(half, square)),
            slope: lanes.sub(advantage, lanes.mul(coefficient, ratio.log_ratio)),
            ratio_slope: lanes.zero(),
            constant: lanes.never(),
        }
    }
}

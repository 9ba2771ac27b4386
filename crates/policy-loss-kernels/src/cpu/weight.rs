//! The weight: each type is one choice, and costs nothing where it is not chosen.

use crate::{FilterEstimator, FilterLevel, Objective, Range, WeightMode};

use super::exp::exp;
use super::gaps::{RowWeight, k3_of_lanes};
use super::lanes::Lanes;
use super::real::Real;
use super::sums::LaneSums;
use super::token::{Constants, Inputs, RowConstants, Surrogate};

/// The constant that multiplies a token's loss.
pub trait Weight: 'static {
    /// Whether `rollout_log_probs` is read for it.
    const READS_ROLLOUT: bool = true;

    /// The surrogate times its weight.
    fn apply<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        advantage: L::Vector,
        surrogate: Surrogate<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L>;
}

/// 1.
pub struct Unweighted;

/// The weight; before it, 0 for a token that the row drops.
pub struct Weighted;

impl Weight for Unweighted {
    const READS_ROLLOUT: bool = false;

    #[inline(always)]
    fn apply<L: Lanes>(
        _lanes: L,
        _constants: &Constants<L>,
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
        constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
        advantage: L::Vector,
        surrogate: Surrogate<L>,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let dropped = dropped(lanes, row, advantage);
        sums.dropped = lanes.count(dropped, sums.dropped);
        let TokenWeight {
            gap,
            value: weight,
            truncated,
            rejected,
        } = TokenWeight::new(lanes, constants, row, inputs);
        sums.log_weight = lanes.add(sums.log_weight, gap);
        sums.weight = lanes.add(sums.weight, weight);
        sums.squared_weight = lanes.mul_add(weight, weight, sums.squared_weight);
        sums.truncated_weight = lanes.count(truncated, sums.truncated_weight);
        sums.zeroed_weight = lanes.count(rejected, sums.zeroed_weight);
        // Dropped after the weight, which may be infinite.
        Surrogate {
            value: lanes.drop(dropped, lanes.mul(surrogate.value, weight)),
            slope: lanes.drop(dropped, lanes.mul(surrogate.slope, weight)),
            ratio_slope: lanes.drop(dropped, lanes.mul(surrogate.ratio_slope, weight)),
            constant: surrogate.constant,
        }
    }
}

/// Where the row drops a token, whatever its weight.
#[inline(always)]
pub fn dropped<L: Lanes>(lanes: L, row: &RowConstants<L>, advantage: L::Vector) -> L::Mask {
    let negative = lanes.less(advantage, lanes.zero());
    lanes.and(negative, lanes.greater(row.drops_negative, lanes.zero()))
}

/// The weight of a token.
pub struct TokenWeight<L: Lanes> {
    /// `old_log_probs - rollout_log_probs`, 0 where the token is masked.
    pub gap: L::Vector,
    /// 0 where the token is masked.
    pub value: L::Vector,
    /// It was moved to a bound.
    pub truncated: L::Mask,
    /// It was set to 0.
    pub rejected: L::Mask,
}

impl<L: Lanes> TokenWeight<L> {
    #[inline(always)]
    pub fn new(
        lanes: L,
        constants: &Constants<L>,
        row: &RowConstants<L>,
        inputs: &Inputs<L>,
    ) -> Self {
        let valid = inputs.valid;
        let difference = lanes.sub(inputs.old_log_probs, inputs.rollout_log_probs);
        let gap = lanes.keep(valid, difference);
        let ratio = exp(lanes, gap);
        let WeightConstants {
            token_filters,
            rejects_beyond_bounds,
            is_given,
        } = &constants.weight;
        let row = &row.weight;
        let weight = match is_given {
            true => inputs.weights,
            false => {
                let is_of_row = lanes.greater(row.is_of_row, lanes.zero());
                lanes.select(is_of_row, row.of_row, ratio)
            }
        };
        let is_number = lanes.equal(weight, weight);
        let weight = lanes.select(is_number, weight, row.of_nan);
        let below = lanes.less(weight, row.low);
        let above = lanes.greater(weight, row.high);
        // Selected, not multiplied: infinity times 0 would be NaN.
        let weight = lanes.select(below, row.below, weight);
        let weight = lanes.select(above, row.above, weight);
        let beyond = lanes.or(below, above);
        let (truncated, mut rejected) = match rejects_beyond_bounds {
            true => (lanes.never(), beyond),
            false => (beyond, lanes.never()),
        };
        rejected = lanes.or(rejected, lanes.greater(row.is_rejected, lanes.zero()));
        if let Some(filters) = token_filters {
            rejected = lanes.or(rejected, filters.reject(lanes, gap, ratio));
        }
        Self {
            gap,
            value: lanes.keep(valid, lanes.drop(rejected, weight)),
            truncated: lanes.and(valid, truncated),
            rejected: lanes.and(valid, rejected),
        }
    }
}

/// What all rows share.
#[derive(Clone, Copy)]
pub struct WeightConstants<L: Lanes> {
    token_filters: Option<TokenFilters<L>>,
    /// A weight beyond its bounds is 0, and not moved to them.
    rejects_beyond_bounds: bool,
    /// The batch brings the weights.
    is_given: bool,
}

impl<L: Lanes> WeightConstants<L> {
    #[inline(always)]
    pub fn new(lanes: L, objective: &Objective) -> Self {
        let correction = objective.correction.as_ref();
        let filters = correction.map(|correction| &correction.filters);
        let filters = filters.filter(|filters| filters.of_tokens());
        Self {
            token_filters: filters.map(|filters| TokenFilters {
                ranges: FilterEstimator::ALL.map(|estimator| {
                    let Range { low, high } =
                        filters.get(FilterLevel::Token, estimator).unwrap_or(Range {
                            low: f64::NEG_INFINITY,
                            high: f64::INFINITY,
                        });
                    [low, high].map(|bound| lanes.splat(L::Real::from_f64(bound)))
                }),
            }),
            rejects_beyond_bounds: correction
                .is_some_and(|correction| matches!(correction.mode(), WeightMode::Mask(_))),
            is_given: objective.uses_given_weights(),
        }
    }
}

/// The filters that judge tokens: a range for each estimate.
#[derive(Clone, Copy)]
struct TokenFilters<L: Lanes> {
    ranges: [[L::Vector; 2]; 3],
}

impl<L: Lanes> TokenFilters<L> {
    #[inline(always)]
    fn reject(&self, lanes: L, gap: L::Vector, ratio: L::Vector) -> L::Mask {
        let half = lanes.splat(L::Real::from_f64(0.5));
        let estimates = [
            ratio,
            lanes.mul(lanes.mul(gap, gap), half),
            k3_of_lanes(lanes, gap),
        ];
        // NaN lies in no range.
        let unequal = lanes.select(lanes.equal(gap, gap), lanes.zero(), lanes.one());
        let mut rejected = lanes.greater(unequal, lanes.zero());
        for (estimate, [low, high]) in estimates.into_iter().zip(self.ranges) {
            rejected = lanes.or(rejected, lanes.less(estimate, low));
            rejected = lanes.or(rejected, lanes.greater(estimate, high));
        }
        rejected
    }
}

/// What the row decides on the weights of its tokens; see [`RowWeight`].
#[derive(Clone, Copy)]
pub struct RowWeightConstants<L: Lanes> {
    of_row: L::Vector,
    /// Above 0 where the row has one weight.
    is_of_row: L::Vector,
    low: L::Vector,
    high: L::Vector,
    below: L::Vector,
    above: L::Vector,
    of_nan: L::Vector,
    /// Above 0 where every weight is 0.
    is_rejected: L::Vector,
}

impl<L: Lanes> RowWeightConstants<L> {
    #[inline(always)]
    pub fn new(lanes: L, row: &RowWeight) -> Self {
        let splat = |number: f64| lanes.splat(L::Real::from_f64(number));
        let flag = |condition: bool| splat(f64::from(u8::from(condition)));
        Self {
            of_row: splat(row.of_row.unwrap_or(0.0)),
            is_of_row: flag(row.of_row.is_some()),
            low: splat(row.low),
            high: splat(row.high),
            below: splat(row.below),
            above: splat(row.above),
            of_nan: splat(row.of_nan),
            is_rejected: flag(row.is_rejected),
        }
    }
}

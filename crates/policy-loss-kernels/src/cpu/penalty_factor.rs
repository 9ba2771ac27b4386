//! What the estimate of a penalty is multiplied by: each type is one choice.

use crate::{Objective, Penalty, PenaltyGradient};

use super::lanes::Lanes;
use super::real::Real;
use super::row::Row;
use super::token::{BoundedRatio, log_ratio_bounds};

/// The ratio that an estimate is multiplied by.
pub trait Factor: 'static {
    const IS_OF_ROW: bool = false;

    /// The estimate and its slope times the ratio, and the slope through the ratio added.
    fn times<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        log_ratio: L::Vector,
        estimate: (L::Vector, L::Vector),
    ) -> (L::Vector, L::Vector);
}

/// None.
pub struct NoRatio;

/// That of the token.
pub struct OfToken;

/// That of the sequence.
pub struct OfRow;

impl Factor for NoRatio {
    #[inline(always)]
    fn times<L: Lanes>(
        _lanes: L,
        _constants: &Constants<L>,
        _log_ratio: L::Vector,
        estimate: (L::Vector, L::Vector),
    ) -> (L::Vector, L::Vector) {
        estimate
    }
}

impl Factor for OfToken {
    #[inline(always)]
    fn times<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        log_ratio: L::Vector,
        (value, slope): (L::Vector, L::Vector),
    ) -> (L::Vector, L::Vector) {
        let bounded = BoundedRatio::new(lanes, &constants.ratio_bounds, log_ratio);
        let ratio = bounded.exponential.value(lanes);
        let through_ratio = lanes.drop(bounded.saturated, value);
        (
            lanes.mul(value, ratio),
            lanes.mul(lanes.add(slope, through_ratio), ratio),
        )
    }
}

impl Factor for OfRow {
    const IS_OF_ROW: bool = true;

    #[inline(always)]
    fn times<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _log_ratio: L::Vector,
        (value, slope): (L::Vector, L::Vector),
    ) -> (L::Vector, L::Vector) {
        // Where the sequence shares the gradient, the slope through the ratio is the row's.
        let through_ratio = lanes.keep(constants.ratio_is_of_token, value);
        (
            lanes.mul(value, constants.ratio),
            lanes.mul(lanes.add(slope, through_ratio), constants.ratio),
        )
    }
}

/// The numbers of the objective and of a row.
#[derive(Clone, Copy)]
pub struct Constants<L: Lanes> {
    pub ratio_bounds: [L::Vector; 2],
    pub is_straight_through: L::Mask,
    ratio: L::Vector,
    /// The gradient flows through the ratio to the token itself.
    ratio_is_of_token: L::Mask,
    /// The factor of the reduction times the coefficient.
    pub factor: L::Vector,
}

impl<L: Lanes> Constants<L> {
    #[inline(always)]
    pub fn new(lanes: L, objective: &Objective, penalty: Penalty, row: &Row) -> Self {
        let splat = |x: f64| lanes.splat(L::Real::from_f64(x));
        let whether =
            |condition: bool| lanes.greater(splat(f64::from(u8::from(condition))), lanes.zero());
        let level = objective.ratio_level;
        Self {
            ratio_bounds: log_ratio_bounds(lanes),
            is_straight_through: whether(penalty.gradient == PenaltyGradient::StraightThrough),
            ratio: splat(row.ratio),
            ratio_is_of_token: whether(!level.shares_gradient() && row.saturated == 0.0),
            factor: splat(penalty.coefficient * row.gradient_factor),
        }
    }
}

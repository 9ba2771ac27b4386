//! The penalty for moving away from a reference policy.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements};
use super::kinds::PenaltyKind;
use super::parts::{bounded, expm1_minus_identity};
use super::token::{Numbers, Row};

/// The ratio that tokens have.
#[derive(CubeType, Clone, Copy)]
pub struct TokenRatio<A: Float, N: Size> {
    pub value: Vector<A, N>,
    /// The logarithm reached a bound: no gradient passes.
    pub constant: Vector<bool, N>,
}

/// What a penalty adds to the losses of tokens; 0 at masked ones.
#[derive(CubeType, Clone, Copy)]
pub struct Penalty<A: Float, N: Size> {
    /// `log_probs - ref_log_probs`.
    pub difference: Vector<A, N>,
    /// The estimate, times the ratio where it is multiplied by it.
    pub value: Vector<A, N>,
    /// What the value changes by with the ratio of the sequence.
    pub ratio_slope: Vector<A, N>,
    /// What the value changes by with the token's own log-probability.
    pub slope: Vector<A, N>,
    /// The coefficient, and the row's part of the reduction's factor.
    pub factor: Vector<A, N>,
}

/// The penalty of the tokens at `index`.
#[cube]
pub fn penalty<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    row: &Row<E::Real>,
    index: usize,
    ratio: &TokenRatio<E::Real, E::Width>,
    #[comptime] blueprint: Blueprint,
) -> Penalty<E::Real, E::Width> {
    let valid = columns.valid(index);
    let zero = Vector::new(E::Real::new(0.0));
    let difference = valid.keep(columns.log_probs(index) - columns.ref_log_probs(index));
    let estimate = estimate(difference, blueprint);
    let mut value = estimate.value;
    let mut slope = estimate.slope;
    let mut ratio_slope = zero;
    if comptime!(blueprint.straight_through) {
        slope = difference;
    }
    if comptime!(blueprint.importance_corrected) {
        ratio_slope = value;
        slope *= ratio.value;
        value *= ratio.value;
        if comptime!(!blueprint.shares_gradient) {
            slope += select_many(ratio.constant, zero, value);
        }
    }
    let coefficient = numbers.penalty.get::<E::Real>();
    Penalty::<E::Real, E::Width> {
        difference,
        value: valid.keep(value),
        ratio_slope: valid.keep(ratio_slope),
        slope: valid.keep(slope),
        factor: Vector::new(coefficient * row.factor),
    }
}

/// An estimate of a divergence, and its slope.
#[derive(CubeType, Clone, Copy)]
struct Estimate<A: Float, N: Size> {
    value: Vector<A, N>,
    slope: Vector<A, N>,
}

#[cube]
fn estimate<A: Float, N: Size>(
    q: Vector<A, N>,
    #[comptime] blueprint: Blueprint,
) -> Estimate<A, N> {
    let zero = Vector::new(A::new(0.0));
    let one = Vector::new(A::new(1.0));
    match blueprint.penalty {
        PenaltyKind::K1 => Estimate::<A, N> {
            value: q,
            slope: one,
        },
        PenaltyKind::K2 => Estimate::<A, N> {
            value: q * q * Vector::new(A::new(0.5)),
            slope: q,
        },
        PenaltyKind::Abs => {
            let positive = q.greater_than(&zero);
            let negative = q.less_than(&zero);
            let slope = select_many(negative, zero - one, select_many(positive, one, zero));
            Estimate::<A, N> {
                value: select_many(negative, zero - q, q),
                slope,
            }
        }
        _ => {
            let x = bounded(zero - q);
            let double = comptime!(blueprint.double);
            let value = expm1_minus_identity(x.log_ratio, x.log_ratio.exp(), double);
            // -expm1(-q), without the cancellation of 1 - exp(-q).
            let slope = zero - x.log_ratio - value;
            Estimate::<A, N> {
                value,
                slope: select_many(x.beyond, zero, slope),
            }
        }
    }
}

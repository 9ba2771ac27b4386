//! What is written for each token.

use super::lanes::Lanes;
use super::token::{RowConstants, Surrogate};

/// A choice of output.
pub trait Output: 'static {
    /// Whether the values are written.
    const IS_WRITTEN: bool = false;
    /// Whether each row adds the values up.
    const IS_ADDED_UP: bool = false;

    /// A token's value; 0 where the token is masked.
    fn value<L: Lanes>(lanes: L, row: &RowConstants<L>, surrogate: &Surrogate<L>) -> L::Vector;
}

/// The gradient of a token that has its own ratio: minus the surrogate's slope times the weight,
/// times the factor of the reduction.
pub struct OwnGradient;

/// What a token contributes to the gradient that it shares with its sequence: the slope against
/// the ratio, times the weight.
pub struct SharedGradient;

/// The gradient of a token whose slope is that of its row, weights included.
pub struct GradientOfRow;

impl Output for OwnGradient {
    const IS_WRITTEN: bool = true;

    #[inline(always)]
    fn value<L: Lanes>(lanes: L, row: &RowConstants<L>, surrogate: &Surrogate<L>) -> L::Vector {
        let slope = lanes.drop(surrogate.constant, surrogate.slope);
        // Adding 0 turns the -0 of a token without a gradient into 0.
        lanes.mul_add(slope, row.negative_gradient_factor, lanes.zero())
    }
}

impl Output for GradientOfRow {
    const IS_WRITTEN: bool = true;

    #[inline(always)]
    fn value<L: Lanes>(lanes: L, row: &RowConstants<L>, surrogate: &Surrogate<L>) -> L::Vector {
        let slope = lanes.drop(surrogate.constant, row.surrogate[1]);
        lanes.mul_add(slope, row.negative_gradient_factor, lanes.zero())
    }
}

impl Output for SharedGradient {
    const IS_ADDED_UP: bool = true;

    #[inline(always)]
    fn value<L: Lanes>(lanes: L, _row: &RowConstants<L>, surrogate: &Surrogate<L>) -> L::Vector {
        lanes.drop(surrogate.constant, surrogate.ratio_slope)
    }
}

//! The estimates of a divergence from one token: each type is one choice.

use super::lanes::Lanes;
use super::token::BoundedRatio;

/// An estimate of a divergence.
pub trait Estimate: 'static {
    /// The estimate and its slope against `q = log_probs - ref_log_probs`, which is 0 where the
    /// token is masked.
    fn of<L: Lanes>(lanes: L, bounds: &[L::Vector; 2], q: L::Vector) -> (L::Vector, L::Vector);
}

/// `q`.
pub struct Identity;

/// `q² / 2`.
pub struct Half;

/// `expm1(-q) + q`, with `q` within its bounds.
pub struct Positive;

/// `|q|`.
pub struct Absolute;

impl Estimate for Identity {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, _bounds: &[L::Vector; 2], q: L::Vector) -> (L::Vector, L::Vector) {
        (q, lanes.one())
    }
}

impl Estimate for Half {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, _bounds: &[L::Vector; 2], q: L::Vector) -> (L::Vector, L::Vector) {
        let half = lanes.splat(super::real::Real::from_f32(0.5));
        (lanes.mul(lanes.mul(q, q), half), q)
    }
}

impl Estimate for Positive {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, bounds: &[L::Vector; 2], q: L::Vector) -> (L::Vector, L::Vector) {
        let x = BoundedRatio::new(lanes, bounds, lanes.sub(lanes.zero(), q));
        let value = x.exponential.minus_one_minus_x(lanes);
        // -expm1(-q), without the cancellation of 1 - exp(-q).
        let slope = lanes.sub(q, value);
        (value, lanes.drop(x.saturated, slope))
    }
}

impl Estimate for Absolute {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, _bounds: &[L::Vector; 2], q: L::Vector) -> (L::Vector, L::Vector) {
        let minus = lanes.sub(lanes.zero(), lanes.one());
        let positive = lanes.greater(q, lanes.zero());
        let negative = lanes.less(q, lanes.zero());
        let sign = lanes.select(negative, minus, lanes.keep(positive, lanes.one()));
        let value = lanes.select(negative, lanes.sub(lanes.zero(), q), q);
        (value, sign)
    }
}

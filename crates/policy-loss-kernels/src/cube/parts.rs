//! The parts of an objective around its surrogate, one function each.

use cubecl::prelude::*;

/// A log-ratio within its bounds.
#[derive(CubeType, Clone, Copy)]
pub struct Bounded<A: Float, N: Size> {
    pub log_ratio: Vector<A, N>,
    /// It lay beyond a bound, where the gradient is 0.
    pub beyond: Vector<bool, N>,
}

/// `clamp(log_ratio, -20, 20)`. NaN stays NaN, which the built-in `clamp` of a device need not
/// keep.
#[cube]
pub fn bounded<A: Float, N: Size>(log_ratio: Vector<A, N>) -> Bounded<A, N> {
    let high = Vector::new(A::new(20.0));
    let low = Vector::new(A::new(-20.0));
    let above = log_ratio.greater_than(&high);
    let below = log_ratio.less_than(&low);
    Bounded::<A, N> {
        log_ratio: select_many(above, high, select_many(below, low, log_ratio)),
        beyond: above.or(below),
    }
}

/// `expm1(x) - x` for `|x| <= 20`, given `exp(x)`.
///
/// `exp(x) - 1 - x` loses all digits near 0, where the series
/// `x^2 / 2 (1 + x / 3 (1 + x / 4 (...)))` has no cancellation.
#[cube]
pub fn expm1_minus_identity<A: Float, N: Size>(
    x: Vector<A, N>,
    exponential: Vector<A, N>,
    #[comptime] double: bool,
) -> Vector<A, N> {
    // The first term left out is below half a rounding at the limit.
    let terms = comptime!(if double { 15 } else { 8 });
    let one = Vector::new(A::new(1.0));
    let mut series = one;
    #[unroll]
    for k in 0..comptime!(terms - 2) {
        let divisor = A::from_int(comptime!(terms - k));
        series = one + series * x * Vector::new(A::new(1.0) / divisor);
    }
    series *= x * x * Vector::new(A::new(0.5));
    let limit = Vector::new(A::new(0.5));
    select_many(x.abs().less_than(&limit), series, exponential - one - x)
}

/// `low <= x <= high`; NaN lies in no range.
#[cube]
pub fn within<A: Float, N: Size>(x: Vector<A, N>, low: A, high: A) -> Vector<bool, N> {
    x.greater_equal(&Vector::new(low))
        .vec_and(x.less_equal(&Vector::new(high)))
}

/// `x` moved into `[low, high]`; NaN stays NaN.
#[cube]
pub fn clamped<A: Float, N: Size>(x: Vector<A, N>, low: A, high: A) -> Vector<A, N> {
    let low = Vector::new(low);
    let high = Vector::new(high);
    let x = select_many(x.less_than(&low), low, x);
    select_many(x.greater_than(&high), high, x)
}

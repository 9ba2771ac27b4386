//! The exponential, to two units in the last place.

use super::lanes::{Lanes, Real};

/// `exp(x)` in parts: `scale * (1 + fraction + remainder)`, where `scale` is a power of two
/// and `remainder = exp(fraction) - 1 - fraction`.
///
/// The parts serve two results: the value, and `exp(x) - 1 - x`, which loses all digits
/// near 0 when it is formed from the value.
#[derive(Clone, Copy)]
pub struct Exponential<L: Lanes> {
    x: L::Vector,
    scale: L::Vector,
    fraction: L::Vector,
    remainder: L::Vector,
}

impl<L: Lanes> Exponential<L> {
    /// Of `x` so far from overflow and underflow that `scale` is a normal number; NaN stays.
    #[inline(always)]
    pub fn of_bounded(lanes: L, x: L::Vector) -> Self {
        let bias = L::Real::EXPONENT_BIAS;
        let round = lanes.splat(L::Real::ROUND + bias);
        let rounded = lanes.mul_add(x, lanes.splat(L::Real::LOG2_E), round);
        let (fraction, remainder) = split(lanes, x, lanes.sub(rounded, round));
        let scale = lanes.low_bits_as_exponent(rounded);
        Self {
            x,
            scale,
            fraction,
            remainder,
        }
    }

    /// `exp(x)`.
    #[inline(always)]
    pub fn value(self, lanes: L) -> L::Vector {
        let minus_one = lanes.add(self.fraction, self.remainder);
        lanes.mul_add(self.scale, minus_one, self.scale)
    }

    /// `exp(x) - 1 - x`, accurate relative to itself for every `x`.
    #[inline(always)]
    pub fn minus_one_minus_x(self, lanes: L) -> L::Vector {
        // For |x| < ln 2 / 2 the scale is 1 and the fraction is x: all but the remainder
        // cancels exactly.
        let integer_part = lanes.sub(lanes.sub(self.scale, lanes.one()), self.x);
        let linear_part = lanes.mul_add(self.scale, self.fraction, integer_part);
        lanes.mul_add(self.scale, self.remainder, linear_part)
    }
}

/// `exp(x)` for every `x`: 0 and infinity beyond the range, gradual underflow, NaN stays.
#[inline(always)]
pub fn exp<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    let x = lanes.clamp(
        x,
        lanes.splat(L::Real::EXP_IS_ZERO),
        lanes.splat(L::Real::EXP_IS_INFINITE),
    );
    let round = lanes.splat(L::Real::ROUND);
    let round_biased = lanes.splat(L::Real::ROUND + L::Real::EXPONENT_BIAS);

    let rounded = lanes.mul_add(x, lanes.splat(L::Real::LOG2_E), round);
    let exponent = lanes.sub(rounded, round);
    let (fraction, remainder) = split(lanes, x, exponent);
    let mantissa = lanes.add(lanes.add(fraction, remainder), lanes.one());

    // 2^exponent need not be a normal number, but the powers of the two halves are.
    let half = lanes.mul_add(exponent, lanes.splat(L::Real::from_f64(0.5)), round_biased);
    let rest = lanes.sub(exponent, lanes.sub(half, round_biased));
    let rest = lanes.add(rest, round_biased);
    let scaled = lanes.mul(mantissa, lanes.low_bits_as_exponent(half));
    lanes.mul(scaled, lanes.low_bits_as_exponent(rest))
}

/// `fraction = x - exponent * ln 2`, and `exp(fraction) - 1 - fraction`.
#[inline(always)]
fn split<L: Lanes>(lanes: L, x: L::Vector, exponent: L::Vector) -> (L::Vector, L::Vector) {
    let fraction = lanes.mul_add(exponent, lanes.splat(-L::Real::LN_2_HIGH), x);
    let fraction = lanes.mul_add(exponent, lanes.splat(-L::Real::LN_2_LOW), fraction);

    // Even and odd powers apart: two chains of half the length, and no operation more.
    let squared = lanes.mul(fraction, fraction);
    let coefficients = L::Real::EXP_REMAINDER;
    let mut chain = lanes.splat(coefficients[0]);
    let mut other_chain = lanes.splat(coefficients[1]);
    for &coefficient in &coefficients[2..] {
        let next = lanes.mul_add(chain, squared, lanes.splat(coefficient));
        (chain, other_chain) = (other_chain, next);
    }
    // The last coefficient is that of the even powers.
    let polynomial = lanes.mul_add(chain, fraction, other_chain);
    (fraction, lanes.mul(squared, polynomial))
}

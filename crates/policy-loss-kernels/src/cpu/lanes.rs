//! The vector operations that the mathematics is written in.
//!
//! [`pulp::Simd`] names one method per operation and element type; [`Lanes`] drops the
//! element type from the names, so that f32 and f64 share every formula.

use std::mem::MaybeUninit;

use super::real::Real;

/// A vector unit with lanes of one floating-point type.
///
/// Comparisons with NaN are false, and what enters the loss is decided by comparisons and
/// selections alone: [`min`](Self::min) and [`max`](Self::max) drop a NaN on some machines
/// and keep it on others.
pub trait Lanes: Copy {
    type Real: Real;
    type Vector: Copy;
    type Mask: Copy;

    /// Splits into whole vectors and the rest.
    fn split(values: &[Self::Real]) -> (&[Self::Vector], &[Self::Real]);
    /// Splits an output into whole vectors and the rest.
    #[allow(clippy::type_complexity)]
    fn split_output(
        values: &mut [MaybeUninit<Self::Real>],
    ) -> (
        &mut [MaybeUninit<Self::Vector>],
        &mut [MaybeUninit<Self::Real>],
    );
    /// As [`split`](Self::split), in place.
    fn split_mut(values: &mut [Self::Real]) -> (&mut [Self::Vector], &mut [Self::Real]);
    /// Less than one vector, filled up with zeros.
    fn load_rest(self, values: &[Self::Real]) -> Self::Vector;
    /// The first lanes, as many as the output takes.
    fn store_rest(self, vector: Self::Vector, output: &mut [MaybeUninit<Self::Real>]);
    /// As [`store_rest`](Self::store_rest), in place.
    fn replace_rest(self, vector: Self::Vector, values: &mut [Self::Real]);

    fn splat(self, value: Self::Real) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The smaller of two numbers; unspecified for NaN.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of two numbers; unspecified for NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn less(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn and(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn or(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// A function of each lane, one after the other.
    fn map(self, vector: Self::Vector, function: impl Fn(Self::Real) -> Self::Real)
    -> Self::Vector;
    fn select(self, mask: Self::Mask, yes: Self::Vector, no: Self::Vector) -> Self::Vector;
    /// The lowest bits of each lane, moved up to the exponent field.
    fn low_bits_as_exponent(self, vector: Self::Vector) -> Self::Vector;
    /// The sum of all lanes, pairwise.
    fn sum(self, vector: Self::Vector) -> f64;
    /// The smallest lane; no lane may be NaN.
    fn smallest(self, vector: Self::Vector) -> f64;
    /// The largest lane; no lane may be NaN.
    fn largest(self, vector: Self::Vector) -> f64;

    #[inline(always)]
    fn zero(self) -> Self::Vector {
        self.splat(Self::Real::from_f64(0.0))
    }

    #[inline(always)]
    fn one(self) -> Self::Vector {
        self.splat(Self::Real::from_f64(1.0))
    }

    /// No lane at all.
    #[inline(always)]
    fn never(self) -> Self::Mask {
        self.less(self.one(), self.zero())
    }

    /// The value where the mask holds, else 0, whatever the value.
    #[inline(always)]
    fn keep(self, mask: Self::Mask, value: Self::Vector) -> Self::Vector {
        self.select(mask, value, self.zero())
    }

    /// 0 where the mask holds, else the value.
    #[inline(always)]
    fn drop(self, mask: Self::Mask, value: Self::Vector) -> Self::Vector {
        self.select(mask, self.zero(), value)
    }

    /// The value with one added where the mask holds.
    #[inline(always)]
    fn count(self, mask: Self::Mask, counter: Self::Vector) -> Self::Vector {
        self.select(mask, self.add(counter, self.one()), counter)
    }

    /// The value moved into `[low, high]`; NaN stays.
    #[inline(always)]
    fn clamp(self, value: Self::Vector, low: Self::Vector, high: Self::Vector) -> Self::Vector {
        let value = self.select(self.less(value, low), low, value);
        self.select(self.greater(value, high), high, value)
    }
}

/// f32 lanes of a vector unit.
#[derive(Clone, Copy)]
pub struct F32Lanes<S>(pub S);

/// f64 lanes of a vector unit.
#[derive(Clone, Copy)]
pub struct F64Lanes<S>(pub S);

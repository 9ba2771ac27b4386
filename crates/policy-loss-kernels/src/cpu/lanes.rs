//! The vector operations of one floating-point type.
//!
//! [`pulp::Simd`] names one method per operation and element type; [`Lanes`] drops the
//! element type from the names, so that f32 and f64 share every formula.

use std::mem::MaybeUninit;

use pulp::Simd;

use super::real::Real;

/// A vector unit with lanes of one floating-point type.
///
/// Comparisons with NaN are false, and what enters the loss is decided by comparisons and
/// selections alone: [`max`](Self::max) drops a NaN on some machines and keeps it on others.
pub trait Lanes: Copy {
    type Real: Real;
    type Vector: Copy;
    type Mask: Copy;

    /// Splits into whole vectors and the rest.
    fn split(values: &[Self::Real]) -> (&[Self::Vector], &[Self::Real]);
    /// As [`split`](Self::split), of memory that is written.
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
    fn absolute(self, a: Self::Vector) -> Self::Vector;
    /// The larger of two numbers; unspecified for NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn less(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn at_most(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn and(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn or(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn not(self, a: Self::Mask) -> Self::Mask;
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

/// [`Lanes`] by the methods of [`Simd`], whose names end in the type of the lanes.
macro_rules! implement_lanes {
    ($lanes:ident, $real:ident, $bits:ident, $mask:ident) => {
        pastey::paste! {
            impl<S: Simd> Lanes for $lanes<S> {
                type Real = $real;
                type Vector = S::[<$real s>];
                type Mask = S::[<$mask s>];

                #[inline(always)]
                fn split(values: &[$real]) -> (&[Self::Vector], &[$real]) {
                    S::[<as_simd_ $real s>](values)
                }

                #[inline(always)]
                fn split_output(
                    values: &mut [MaybeUninit<$real>],
                ) -> (&mut [MaybeUninit<Self::Vector>], &mut [MaybeUninit<$real>]) {
                    S::[<as_uninit_mut_simd_ $real s>](values)
                }

                #[inline(always)]
                fn split_mut(values: &mut [$real]) -> (&mut [Self::Vector], &mut [$real]) {
                    S::[<as_mut_simd_ $real s>](values)
                }

                #[inline(always)]
                fn load_rest(self, values: &[$real]) -> Self::Vector {
                    self.0.[<partial_load_ $real s>](values)
                }

                #[inline(always)]
                fn store_rest(self, vector: Self::Vector, output: &mut [MaybeUninit<$real>]) {
                    let lanes: &[$real] = bytemuck::cast_slice(std::slice::from_ref(&vector));
                    for (output, &lane) in output.iter_mut().zip(lanes) {
                        output.write(lane);
                    }
                }

                #[inline(always)]
                fn replace_rest(self, vector: Self::Vector, values: &mut [$real]) {
                    let lanes: &[$real] = bytemuck::cast_slice(std::slice::from_ref(&vector));
                    values.copy_from_slice(&lanes[..values.len()]);
                }

                #[inline(always)]
                fn splat(self, value: $real) -> Self::Vector {
                    self.0.[<splat_ $real s>](value)
                }

                #[inline(always)]
                fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    self.0.[<add_ $real s>](a, b)
                }

                #[inline(always)]
                fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    self.0.[<sub_ $real s>](a, b)
                }

                #[inline(always)]
                fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    self.0.[<mul_ $real s>](a, b)
                }

                #[inline(always)]
                fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    self.0.[<div_ $real s>](a, b)
                }

                #[inline(always)]
                fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
                    self.0.[<mul_add_e_ $real s>](a, b, c)
                }

                #[inline(always)]
                fn absolute(self, a: Self::Vector) -> Self::Vector {
                    self.0.[<abs_ $real s>](a)
                }

                #[inline(always)]
                fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    self.0.[<max_ $real s>](a, b)
                }

                #[inline(always)]
                fn less(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
                    self.0.[<less_than_ $real s>](a, b)
                }

                #[inline(always)]
                fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
                    self.0.[<greater_than_ $real s>](a, b)
                }

                #[inline(always)]
                fn at_most(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
                    self.0.[<less_than_or_equal_ $real s>](a, b)
                }

                #[inline(always)]
                fn equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
                    self.0.[<equal_ $real s>](a, b)
                }

                #[inline(always)]
                fn and(self, a: Self::Mask, b: Self::Mask) -> Self::Mask {
                    self.0.[<and_ $mask s>](a, b)
                }

                #[inline(always)]
                fn or(self, a: Self::Mask, b: Self::Mask) -> Self::Mask {
                    self.0.[<or_ $mask s>](a, b)
                }

                #[inline(always)]
                fn not(self, a: Self::Mask) -> Self::Mask {
                    self.0.[<not_ $mask s>](a)
                }

                #[inline(always)]
                fn map(
                    self,
                    vector: Self::Vector,
                    function: impl Fn($real) -> $real,
                ) -> Self::Vector {
                    let mut vector = vector;
                    let lanes: &mut [$real] =
                        bytemuck::cast_slice_mut(std::slice::from_mut(&mut vector));
                    for lane in lanes {
                        *lane = function(*lane);
                    }
                    vector
                }

                #[inline(always)]
                fn select(
                    self,
                    mask: Self::Mask,
                    yes: Self::Vector,
                    no: Self::Vector,
                ) -> Self::Vector {
                    self.0.[<select_ $real s>](mask, yes, no)
                }

                #[inline(always)]
                fn low_bits_as_exponent(self, vector: Self::Vector) -> Self::Vector {
                    // The shift is written as a wrapping product because there is no shift of
                    // 64-bit lanes; with a constant power of two the compiler emits a shift.
                    let shift = self.0.[<splat_ $bits s>](1 << (<$real>::MANTISSA_DIGITS - 1));
                    let bits = self.0.[<transmute_ $bits s_ $real s>](vector);
                    self.0.[<transmute_ $real s_ $bits s>](self.0.[<mul_ $bits s>](bits, shift))
                }

                #[inline(always)]
                fn sum(self, vector: Self::Vector) -> f64 {
                    self.0.[<reduce_sum_ $real s>](vector).to_f64()
                }

                #[inline(always)]
                fn smallest(self, vector: Self::Vector) -> f64 {
                    self.0.[<reduce_min_ $real s>](vector).to_f64()
                }

                #[inline(always)]
                fn largest(self, vector: Self::Vector) -> f64 {
                    self.0.[<reduce_max_ $real s>](vector).to_f64()
                }
            }
        }
    };
}

implement_lanes!(F32Lanes, f32, u32, m32);
implement_lanes!(F64Lanes, f64, u64, m64);

//! The vector operations that the mathematics is written in.
//!
//! [`pulp::Simd`] names one method per operation and element type; [`Lanes`] drops the
//! element type from the names, so that f32 and f64 share every formula.

use std::mem::MaybeUninit;

use pulp::Simd;

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

macro_rules! implement_lanes {
    (
        $lanes:ident, $real:ty, $vector:ident, $mask:ident,
        $split:ident, $split_mut:ident, $split_output:ident, $load:ident, $splat:ident,
        $add:ident, $sub:ident, $mul:ident, $div:ident, $mul_add:ident, $min:ident, $max:ident,
        $less:ident, $greater:ident, $equal:ident, $and:ident, $or:ident, $select:ident,
        $to_bits:ident, $from_bits:ident, $mul_bits:ident, $splat_bits:ident,
        $sum:ident, $smallest:ident, $largest:ident
    ) => {
        impl<S: Simd> Lanes for $lanes<S> {
            type Real = $real;
            type Vector = S::$vector;
            type Mask = S::$mask;

            #[inline(always)]
            fn split(values: &[$real]) -> (&[S::$vector], &[$real]) {
                S::$split(values)
            }

            #[inline(always)]
            fn split_output(
                values: &mut [MaybeUninit<$real>],
            ) -> (&mut [MaybeUninit<S::$vector>], &mut [MaybeUninit<$real>]) {
                S::$split_output(values)
            }

            #[inline(always)]
            fn split_mut(values: &mut [$real]) -> (&mut [S::$vector], &mut [$real]) {
                S::$split_mut(values)
            }

            #[inline(always)]
            fn load_rest(self, values: &[$real]) -> S::$vector {
                self.0.$load(values)
            }

            #[inline(always)]
            fn store_rest(self, vector: S::$vector, output: &mut [MaybeUninit<$real>]) {
                let lanes: &[$real] = bytemuck::cast_slice(std::slice::from_ref(&vector));
                for (output, &lane) in output.iter_mut().zip(lanes) {
                    output.write(lane);
                }
            }

            #[inline(always)]
            fn replace_rest(self, vector: S::$vector, values: &mut [$real]) {
                let lanes: &[$real] = bytemuck::cast_slice(std::slice::from_ref(&vector));
                values.copy_from_slice(&lanes[..values.len()]);
            }

            #[inline(always)]
            fn splat(self, value: $real) -> S::$vector {
                self.0.$splat(value)
            }

            #[inline(always)]
            fn add(self, a: S::$vector, b: S::$vector) -> S::$vector {
                self.0.$add(a, b)
            }

            #[inline(always)]
            fn sub(self, a: S::$vector, b: S::$vector) -> S::$vector {
                self.0.$sub(a, b)
            }

            #[inline(always)]
            fn mul(self, a: S::$vector, b: S::$vector) -> S::$vector {
                self.0.$mul(a, b)
            }

            #[inline(always)]
            fn div(self, a: S::$vector, b: S::$vector) -> S::$vector {
                self.0.$div(a, b)
            }

            #[inline(always)]
            fn mul_add(self, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                self.0.$mul_add(a, b, c)
            }

            #[inline(always)]
            fn min(self, a: S::$vector, b: S::$vector) -> S::$vector {
                self.0.$min(a, b)
            }

            #[inline(always)]
            fn max(self, a: S::$vector, b: S::$vector) -> S::$vector {
                self.0.$max(a, b)
            }

            #[inline(always)]
            fn less(self, a: S::$vector, b: S::$vector) -> S::$mask {
                self.0.$less(a, b)
            }

            #[inline(always)]
            fn greater(self, a: S::$vector, b: S::$vector) -> S::$mask {
                self.0.$greater(a, b)
            }

            #[inline(always)]
            fn and(self, a: S::$mask, b: S::$mask) -> S::$mask {
                self.0.$and(a, b)
            }

            #[inline(always)]
            fn or(self, a: S::$mask, b: S::$mask) -> S::$mask {
                self.0.$or(a, b)
            }

            #[inline(always)]
            fn equal(self, a: S::$vector, b: S::$vector) -> S::$mask {
                self.0.$equal(a, b)
            }

            #[inline(always)]
            fn map(self, vector: S::$vector, function: impl Fn($real) -> $real) -> S::$vector {
                let mut vector = vector;
                let lanes: &mut [$real] =
                    bytemuck::cast_slice_mut(std::slice::from_mut(&mut vector));
                for lane in lanes {
                    *lane = function(*lane);
                }
                vector
            }

            #[inline(always)]
            fn select(self, mask: S::$mask, yes: S::$vector, no: S::$vector) -> S::$vector {
                self.0.$select(mask, yes, no)
            }

            #[inline(always)]
            fn low_bits_as_exponent(self, vector: S::$vector) -> S::$vector {
                // The shift is written as a wrapping product because there is no shift of
                // 64-bit lanes; with a constant power of two the compiler emits a shift.
                let shift = self.0.$splat_bits(1 << (<$real>::MANTISSA_DIGITS - 1));
                self.0
                    .$from_bits(self.0.$mul_bits(self.0.$to_bits(vector), shift))
            }

            #[inline(always)]
            fn sum(self, vector: S::$vector) -> f64 {
                self.0.$sum(vector).to_f64()
            }

            #[inline(always)]
            fn smallest(self, vector: S::$vector) -> f64 {
                self.0.$smallest(vector).to_f64()
            }

            #[inline(always)]
            fn largest(self, vector: S::$vector) -> f64 {
                self.0.$largest(vector).to_f64()
            }
        }
    };
}

implement_lanes!(
    F32Lanes,
    f32,
    f32s,
    m32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    as_uninit_mut_simd_f32s,
    partial_load_f32s,
    splat_f32s,
    add_f32s,
    sub_f32s,
    mul_f32s,
    div_f32s,
    mul_add_e_f32s,
    min_f32s,
    max_f32s,
    less_than_f32s,
    greater_than_f32s,
    equal_f32s,
    and_m32s,
    or_m32s,
    select_f32s,
    transmute_u32s_f32s,
    transmute_f32s_u32s,
    mul_u32s,
    splat_u32s,
    reduce_sum_f32s,
    reduce_min_f32s,
    reduce_max_f32s
);

implement_lanes!(
    F64Lanes,
    f64,
    f64s,
    m64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    as_uninit_mut_simd_f64s,
    partial_load_f64s,
    splat_f64s,
    add_f64s,
    sub_f64s,
    mul_f64s,
    div_f64s,
    mul_add_e_f64s,
    min_f64s,
    max_f64s,
    less_than_f64s,
    greater_than_f64s,
    equal_f64s,
    and_m64s,
    or_m64s,
    select_f64s,
    transmute_u64s_f64s,
    transmute_f64s_u64s,
    mul_u64s,
    splat_u64s,
    reduce_sum_f64s,
    reduce_min_f64s,
    reduce_max_f64s
);

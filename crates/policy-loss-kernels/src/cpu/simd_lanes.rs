//! The vector operations of [`Lanes`], by those of [`Simd`].

use std::mem::MaybeUninit;

use pulp::Simd;

use super::lanes::{F32Lanes, F64Lanes, Lanes};
use super::real::Real;

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

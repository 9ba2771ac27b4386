//! The two types of arithmetic, f32 and f64, and their vector operations.
//!
//! [`pulp::Simd`] names one method per operation and element type; [`Lanes`] drops the
//! element type from the names, so that f32 and f64 share every formula.

use std::mem::MaybeUninit;
use std::ops::{Add, Mul, Neg};

use pulp::Simd;

/// A type that arithmetic is done in.
///
/// The constants belong to `exp(x) = 2^n * exp(fraction)`, where `n = round(x / ln 2)` and
/// `fraction = x - n ln 2` lies in `[-ln 2 / 2, ln 2 / 2]`.
pub trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Default
    + bytemuck::Pod
    + std::fmt::Debug
    + Add<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    /// The lanes of a vector unit.
    type Lanes<S: Simd>: Lanes<Real = Self>;

    /// Whether it is f64.
    const IS_DOUBLE: bool;
    /// `1 / ln 2`.
    const LOG2_E: Self;
    /// The upper bits of ln 2: its product with any exponent is exact.
    const LN_2_HIGH: Self;
    /// The lower bits of ln 2.
    const LN_2_LOW: Self;
    /// Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: Self;
    /// The exponent field of 1.
    const EXPONENT_BIAS: Self;
    /// Below it `exp` is 0.
    const EXP_IS_ZERO: Self;
    /// Above it `exp` is infinite.
    const EXP_IS_INFINITE: Self;
    /// Minimax polynomial of `(exp(x) - 1 - x) / x²`, highest power first.
    const EXP_REMAINDER: &'static [Self];

    /// The lanes of this vector unit.
    fn lanes<S: Simd>(simd: S) -> Self::Lanes<S>;
    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The same value.
    fn from_f32(value: f32) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
}

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
    fn negative(self, a: Self::Vector) -> Self::Vector;
    fn square_root(self, a: Self::Vector) -> Self::Vector;
    /// `a` where it is smaller than `b`, else `b`: it is `b` where `a` is NaN. No lane of `b` may be.
    fn smaller(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a` where it is larger than `b`, else `b`: it is `b` where `a` is NaN. No lane of `b` may be.
    fn larger(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The value, but `low` where it is less; NaN stays. No lane of `low` may be NaN.
    fn raised(self, value: Self::Vector, low: Self::Vector) -> Self::Vector;
    /// The value, but `high` where it is greater; NaN stays. No lane of `high` may be NaN.
    fn lowered(self, value: Self::Vector, high: Self::Vector) -> Self::Vector;
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
        self.lowered(self.raised(value, low), high)
    }
}

/// Whether the smaller and the larger of a NaN and a number, in this order, is the number. So it is
/// on x86, while NEON keeps the NaN.
const DROPS_NAN: bool = cfg!(target_arch = "x86_64");

/// Whether the smaller and the larger of a number and a NaN, in this order, is the NaN. So it is on
/// the vector units of x86, but not on one lane.
const fn keeps_nan(lanes: usize) -> bool {
    DROPS_NAN && lanes > 1
}

/// f32 lanes of a vector unit.
#[derive(Clone, Copy)]
pub struct F32Lanes<S>(pub S);

/// f64 lanes of a vector unit.
#[derive(Clone, Copy)]
pub struct F64Lanes<S>(pub S);

/// Methods that are one of [`Simd`] by another name.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ident),*) -> $output:ident = $method:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: Self::$type),*) -> Self::$output {
            self.0.$method($($argument),*)
        }
    )*};
}

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

                forward! {
                    add(a: Vector, b: Vector) -> Vector = [<add_ $real s>];
                    sub(a: Vector, b: Vector) -> Vector = [<sub_ $real s>];
                    mul(a: Vector, b: Vector) -> Vector = [<mul_ $real s>];
                    div(a: Vector, b: Vector) -> Vector = [<div_ $real s>];
                    mul_add(a: Vector, b: Vector, c: Vector) -> Vector = [<mul_add_e_ $real s>];
                    negative(a: Vector) -> Vector = [<neg_ $real s>];
                    square_root(a: Vector) -> Vector = [<sqrt_ $real s>];
                    max(a: Vector, b: Vector) -> Vector = [<max_ $real s>];
                    less(a: Vector, b: Vector) -> Mask = [<less_than_ $real s>];
                    greater(a: Vector, b: Vector) -> Mask = [<greater_than_ $real s>];
                    at_most(a: Vector, b: Vector) -> Mask = [<less_than_or_equal_ $real s>];
                    equal(a: Vector, b: Vector) -> Mask = [<equal_ $real s>];
                    and(a: Mask, b: Mask) -> Mask = [<and_ $mask s>];
                    or(a: Mask, b: Mask) -> Mask = [<or_ $mask s>];
                    not(a: Mask) -> Mask = [<not_ $mask s>];
                    select(mask: Mask, yes: Vector, no: Vector) -> Vector = [<select_ $real s>];
                }

                #[inline(always)]
                fn smaller(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    match DROPS_NAN {
                        true => self.0.[<min_ $real s>](a, b),
                        false => self.select(self.less(a, b), a, b),
                    }
                }

                #[inline(always)]
                fn larger(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    match DROPS_NAN {
                        true => self.0.[<max_ $real s>](a, b),
                        false => self.select(self.greater(a, b), a, b),
                    }
                }

                #[inline(always)]
                fn raised(self, value: Self::Vector, low: Self::Vector) -> Self::Vector {
                    match keeps_nan(S::[<$real:upper _LANES>]) {
                        true => self.0.[<max_ $real s>](low, value),
                        false => self.select(self.less(value, low), low, value),
                    }
                }

                #[inline(always)]
                fn lowered(self, value: Self::Vector, high: Self::Vector) -> Self::Vector {
                    match keeps_nan(S::[<$real:upper _LANES>]) {
                        true => self.0.[<min_ $real s>](high, value),
                        false => self.select(self.greater(value, high), high, value),
                    }
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

impl Real for f32 {
    type Lanes<S: Simd> = F32Lanes<S>;

    const IS_DOUBLE: bool = false;
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN_2_HIGH: Self = 355.0 / 512.0;
    const LN_2_LOW: Self = -2.121_944_4e-4;
    const ROUND: Self = 12_582_912.0;
    const EXPONENT_BIAS: Self = 127.0;
    const EXP_IS_ZERO: Self = -104.0;
    const EXP_IS_INFINITE: Self = 89.0;
    // Largest error 6.7e-8, in exp 1.1e-8 relative.
    const EXP_REMAINDER: &'static [Self] = &[
        0.001_394_116_7,
        0.008_363_205,
        0.041_666_374,
        0.166_665_76,
        0.5,
    ];

    #[inline(always)]
    fn lanes<S: Simd>(simd: S) -> F32Lanes<S> {
        F32Lanes(simd)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    type Lanes<S: Simd> = F64Lanes<S>;

    const IS_DOUBLE: bool = true;
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN_2_HIGH: Self = 6.931_471_803_691_238e-1;
    const LN_2_LOW: Self = 1.908_214_929_270_587_7e-10;
    const ROUND: Self = 6_755_399_441_055_744.0;
    const EXPONENT_BIAS: Self = 1023.0;
    const EXP_IS_ZERO: Self = -746.0;
    const EXP_IS_INFINITE: Self = 710.0;
    // Largest error 1.1e-16, in exp 1.7e-17 relative.
    const EXP_REMAINDER: &'static [Self] = &[
        2.511_009_630_403_349e-8,
        2.762_014_076_434_907e-7,
        2.755_724_221_351_069e-6,
        2.480_152_118_531_074e-5,
        0.000_198_412_698_866_999_26,
        0.001_388_888_891_728_546_7,
        0.008_333_333_333_322_172,
        0.041_666_666_666_623_98,
        0.166_666_666_666_666_74,
        0.500_000_000_000_000_1,
    ];

    #[inline(always)]
    fn lanes<S: Simd>(simd: S) -> F64Lanes<S> {
        F64Lanes(simd)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

//! The two types of arithmetic, f32 and f64.

use std::ops::{Add, Mul, Neg};

use pulp::Simd;

use super::batch::Floats;
use super::lanes::{F32Lanes, F64Lanes, Lanes};
use super::visit::{Kernels, f32_kernels, f64_kernels};
use crate::blueprint::Blueprint;

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
    /// The loops of an objective: not generic, so that they are compiled in this crate and not once
    /// more in every crate that calls them.
    fn kernels(blueprint: &Blueprint) -> Kernels<Self>;
    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The same value.
    fn from_f32(value: f32) -> Self;
    /// The values themselves, if they have this type already.
    fn of_floats(values: Floats<'_>) -> Option<&[Self]>;
    /// The same value.
    fn to_f64(self) -> f64;
}

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

    fn kernels(blueprint: &Blueprint) -> Kernels<Self> {
        f32_kernels(blueprint)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    fn of_floats(values: Floats<'_>) -> Option<&[Self]> {
        match values {
            Floats::F32(values) => Some(values),
            _ => None,
        }
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

    fn kernels(blueprint: &Blueprint) -> Kernels<Self> {
        f64_kernels(blueprint)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }

    fn of_floats(values: Floats<'_>) -> Option<&[Self]> {
        match values {
            Floats::F64(values) => Some(values),
            _ => None,
        }
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

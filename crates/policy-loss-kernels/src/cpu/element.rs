//! The types that a batch can be stored in.

use std::mem::MaybeUninit;

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

use super::batch::Floats;
use super::half_bits::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::real::Real;

/// A floating-point type of `log_probs` and its gradient: f64, f32, f16 or bf16.
///
/// Arithmetic is f64 for f64 and f32 for all others.
pub trait Element: Stored {}

impl<T: Stored> Element for T {}

/// What the kernels need of an [`Element`]; sealed by being out of reach.
pub trait Stored: Copy + Send + Sync + 'static {
    /// The type of the arithmetic.
    type Real: Real;

    fn floats(values: &[Self]) -> Floats<'_>;
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn widen<T: Real>(self) -> T;
    fn narrow(value: Self::Real) -> Self;

    /// The output itself, where the arithmetic can write into it.
    fn direct(output: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<Self::Real>]>;
    /// The values themselves, where the arithmetic can change them.
    fn in_place(values: &mut [Self]) -> Option<&mut [Self::Real]>;

    fn widen_all<T: Real>(arch: Arch, values: &[Self], widened: &mut [T]) {
        arch.dispatch(WidenAll { values, widened });
    }

    fn narrow_all(arch: Arch, values: &[Self::Real], output: &mut [MaybeUninit<Self>]) {
        arch.dispatch(NarrowAll { values, output });
    }
}

struct WidenAll<'a, E, T> {
    values: &'a [E],
    widened: &'a mut [T],
}

impl<E: Stored, T: Real> WithSimd for WidenAll<'_, E, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (widened, value) in self.widened.iter_mut().zip(self.values) {
            *widened = value.widen();
        }
    }
}

struct NarrowAll<'a, E: Stored> {
    values: &'a [E::Real],
    output: &'a mut [MaybeUninit<E>],
}

impl<E: Stored> WithSimd for NarrowAll<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (output, &value) in self.output.iter_mut().zip(self.values) {
            output.write(E::narrow(value));
        }
    }
}

macro_rules! implement_stored_for_real {
    ($real:ty, $variant:ident, $from:ident) => {
        impl Stored for $real {
            type Real = $real;

            fn floats(values: &[Self]) -> Floats<'_> {
                Floats::$variant(values)
            }

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                Real::from_f64(value)
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                Real::to_f64(self)
            }

            #[inline(always)]
            fn widen<T: Real>(self) -> T {
                T::$from(self)
            }

            #[inline(always)]
            fn narrow(value: Self) -> Self {
                value
            }

            fn direct(output: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<Self>]> {
                Some(output)
            }

            fn in_place(values: &mut [Self]) -> Option<&mut [Self]> {
                Some(values)
            }
        }
    };
}

implement_stored_for_real!(f32, F32, from_f32);
implement_stored_for_real!(f64, F64, from_f64);

macro_rules! implement_stored_for_half {
    ($half:ty, $variant:ident, $widen:expr, $narrow:expr) => {
        impl Stored for $half {
            type Real = f32;

            fn floats(values: &[Self]) -> Floats<'_> {
                Floats::$variant(values)
            }

            fn from_f64(value: f64) -> Self {
                Self::from_f64(value)
            }

            fn to_f64(self) -> f64 {
                Self::to_f64(self)
            }

            #[inline(always)]
            fn widen<T: Real>(self) -> T {
                T::from_f32($widen(self.to_bits()))
            }

            #[inline(always)]
            fn narrow(value: f32) -> Self {
                Self::from_bits($narrow(value))
            }

            fn direct(_output: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<f32>]> {
                None
            }

            fn in_place(_values: &mut [Self]) -> Option<&mut [f32]> {
                None
            }
        }
    };
}

implement_stored_for_half!(f16, F16, f16_to_f32, f32_to_f16);
implement_stored_for_half!(bf16, Bf16, bf16_to_f32, f32_to_bf16);

//! The types that a batch can be stored in.

use std::any::TypeId;

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

use super::half_bits::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::lanes::Real;

/// A slice of one of the floating-point types.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_enums)]
pub enum Floats<'a> {
    /// 64 bits.
    F64(&'a [f64]),
    /// 32 bits.
    F32(&'a [f32]),
    /// 16 bits, IEEE 754 half precision.
    F16(&'a [f16]),
    /// 16 bits, the upper half of f32.
    Bf16(&'a [bf16]),
}

impl<'a, E: Element> From<&'a [E]> for Floats<'a> {
    fn from(values: &'a [E]) -> Self {
        E::floats(values)
    }
}

impl<'a> Floats<'a> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values themselves, if they have this type already.
    pub(super) fn of<T: Real>(self) -> Option<&'a [T]> {
        match self {
            Self::F64(values) => same_type(values),
            Self::F32(values) => same_type(values),
            Self::F16(_) | Self::Bf16(_) => None,
        }
    }
}

fn same_type<A: bytemuck::Pod, B: bytemuck::Pod>(values: &[A]) -> Option<&[B]> {
    let is_same = TypeId::of::<A>() == TypeId::of::<B>();
    is_same.then(|| bytemuck::cast_slice(values))
}

/// A floating-point type that values are stored in: f64, f32, f16 or bf16.
///
/// Arithmetic is f64 for f64 and f32 for all others.
pub trait Element: Stored {}

impl<T: Stored> Element for T {}

/// What the kernels need of an [`Element`]; sealed by being out of reach.
pub trait Stored: Copy + Send + Sync + 'static {
    /// The type of the arithmetic.
    type Real: Real;

    fn floats(values: &[Self]) -> Floats<'_>;
    fn widen<T: Real>(self) -> T;
    fn narrow(value: Self::Real) -> Self;

    /// The values themselves, where the arithmetic can change them.
    fn in_place(values: &mut [Self]) -> Option<&mut [Self::Real]>;

    fn widen_all<T: Real>(arch: Arch, values: &[Self], widened: &mut [T]) {
        arch.dispatch(WidenAll { values, widened });
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

macro_rules! implement_stored_for_real {
    ($real:ty, $variant:ident, $from:ident) => {
        impl Stored for $real {
            type Real = $real;

            fn floats(values: &[Self]) -> Floats<'_> {
                Floats::$variant(values)
            }

            #[inline(always)]
            fn widen<T: Real>(self) -> T {
                T::$from(self)
            }

            #[inline(always)]
            fn narrow(value: Self) -> Self {
                value
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

            #[inline(always)]
            fn widen<T: Real>(self) -> T {
                T::from_f32($widen(self.to_bits()))
            }

            #[inline(always)]
            fn narrow(value: f32) -> Self {
                Self::from_bits($narrow(value))
            }

            fn in_place(_values: &mut [Self]) -> Option<&mut [f32]> {
                None
            }
        }
    };
}

implement_stored_for_half!(f16, F16, f16_to_f32, f32_to_f16);
implement_stored_for_half!(bf16, Bf16, bf16_to_f32, f32_to_bf16);

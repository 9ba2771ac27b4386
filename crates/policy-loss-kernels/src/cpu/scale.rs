//! The backward pass: a product with one number.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::element::Element;
use super::lanes::Real;
use super::vector_unit::vector_unit;

/// Elements that one thread scales at a time; fewer are not divided.
const CHUNK: usize = 64 * 1024;

/// Multiplies a gradient by the gradient of the result that it belongs to.
///
/// Nothing is read or written if that is 1.
pub fn scale_in_place<E: Element>(gradient: &mut [E], factor: f64) {
    if factor == 1.0 {
        return;
    }
    let arch = vector_unit();
    let scale = |values| arch.dispatch(Scale { values, factor });
    if gradient.len() <= CHUNK {
        scale(gradient);
    } else {
        gradient.par_chunks_mut(CHUNK).for_each(scale);
    }
}

struct Scale<'a, E> {
    values: &'a mut [E],
    factor: f64,
}

impl<E: Element> WithSimd for Scale<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let factor = E::Real::from_f64(self.factor);
        let zero = E::Real::default();
        for value in self.values {
            let wide = value.widen::<E::Real>();
            // What has no gradient keeps none, whatever the factor is.
            let scaled = if wide == zero { zero } else { wide * factor };
            *value = E::narrow(scaled);
        }
    }
}

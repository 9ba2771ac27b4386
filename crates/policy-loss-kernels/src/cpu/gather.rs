//! What is known of a row before its tokens are visited.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::batch::{Floats, Mask};
use super::lanes::Lanes;
use super::real::Real;
use super::row::Row;
use super::stage::{BLOCK, Scratch};

/// Bytes counted side by side; a multiple of every vector's width.
const COUNTED: usize = 64;

/// The number of valid tokens in a piece of the mask.
pub fn count(arch: Arch, mask: &[u8]) -> usize {
    arch.dispatch(Count(mask))
}

struct Count<'a>(&'a [u8]);

impl WithSimd for Count<'_> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        let (groups, rest) = self.0.as_chunks::<COUNTED>();
        let mut total = 0;
        // A byte counts to 255.
        for groups in groups.chunks(255) {
            let mut counts = [0_u8; COUNTED];
            for group in groups {
                for (count, &byte) in counts.iter_mut().zip(group) {
                    *count += u8::from(byte != 0);
                }
            }
            for count in counts {
                total += usize::from(count);
            }
        }
        for &byte in rest {
            total += usize::from(byte != 0);
        }
        total
    }
}

/// Where the tokens of a range lie: the first row and its first token in the range.
pub struct Place<'a> {
    pub rows: &'a mut [Row],
    pub row_length: usize,
    pub tokens: Range<usize>,
}

/// Adds the sum of `minuend - subtrahend` over valid tokens to a field of each row.
pub fn add_differences<T: Real>(
    arch: Arch,
    scratch: &mut Scratch<T>,
    place: Place<'_>,
    difference: (Floats<'_>, Floats<'_>),
    mask: Option<Mask<'_>>,
    field: fn(&mut Row) -> &mut f64,
) {
    let first_row = place.tokens.start / place.row_length;
    for start in place.tokens.clone().step_by(BLOCK) {
        let end = place.tokens.end.min(start + BLOCK);
        let (minuend, subtrahend, mask) =
            scratch.stage_difference(arch, difference, mask, start..end);
        let mut position = start;
        while position < end {
            let row = position / place.row_length;
            let row_end = end.min((row + 1) * place.row_length);
            let range = position - start..row_end - start;
            *field(&mut place.rows[row - first_row]) += arch.dispatch(SumDifferences {
                minuend: &minuend[range.clone()],
                subtrahend: &subtrahend[range.clone()],
                mask: &mask[range],
            });
            position = row_end;
        }
    }
}

struct SumDifferences<'a, T> {
    minuend: &'a [T],
    subtrahend: &'a [T],
    mask: &'a [T],
}

impl<T: Real> WithSimd for SumDifferences<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        /// Vectors summed in lanes before they move into f64: few enough for f32.
        const STRETCH: usize = 64;

        let lanes = T::lanes(simd);
        let (minuend, minuend_rest) = T::Lanes::<S>::split(self.minuend);
        let (subtrahend, subtrahend_rest) = T::Lanes::<S>::split(self.subtrahend);
        let (mask, mask_rest) = T::Lanes::<S>::split(self.mask);
        let valid = lanes.greater(lanes.load_rest(mask_rest), lanes.zero());
        let difference = lanes.sub(
            lanes.load_rest(minuend_rest),
            lanes.load_rest(subtrahend_rest),
        );

        let mut total = lanes.sum(lanes.keep(valid, difference));
        let stretches = minuend
            .chunks(STRETCH)
            .zip(subtrahend.chunks(STRETCH))
            .zip(mask.chunks(STRETCH));
        for ((minuend, subtrahend), mask) in stretches {
            let mut sum = lanes.zero();
            for ((&minuend, &subtrahend), &mask) in minuend.iter().zip(subtrahend).zip(mask) {
                let valid = lanes.greater(mask, lanes.zero());
                let difference = lanes.sub(minuend, subtrahend);
                sum = lanes.add(sum, lanes.keep(valid, difference));
            }
            total += lanes.sum(sum);
        }
        total
    }
}

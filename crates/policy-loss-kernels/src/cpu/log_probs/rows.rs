//! Whole rows of logits that somebody else has computed.

use pulp::{Arch, Simd, WithSimd};

use super::super::element::{Element, Stored};
use super::super::partition;
use super::super::vector_unit::vector_unit;
use super::statistics::Moments;
use super::{BLOCK, RowGradient, Softmax, Statistics, Token, gradient, place, real};

/// The statistics of `rows.len()` rows of logits, one after another.
///
/// Half precision is widened a block at a time.
///
/// # Panics
///
/// There are not as many whole rows of logits as `rows`.
pub fn statistics<E: Element>(softmax: Softmax, logits: &[E], rows: &[Token]) -> Vec<Statistics> {
    let Some(vocabulary) = row_length(logits.len(), rows.len()) else {
        return Vec::new();
    };
    let arch = vector_unit();
    let visit = |(row, token): (&[E], &Token)| {
        let mut moments = Moments::new();
        visit_row(arch, softmax, row, token, &mut moments);
        moments.statistics(softmax)
    };
    let rows = logits.chunks(vocabulary).zip(rows);
    partition::rows(logits.len(), rows, visit)
}

fn visit_row<E: Stored>(
    arch: Arch,
    softmax: Softmax,
    row: &[E],
    token: &Token,
    moments: &mut Moments,
) {
    if let Some(row) = E::floats(row).of::<E::Real>() {
        let target = place(token.target, 0..row.len());
        return moments.visit(arch, softmax, token.scale, row, target);
    }
    let mut wide = [real::<E::Real>(0.0); BLOCK];
    for (index, block) in row.chunks(BLOCK).enumerate() {
        let wide = &mut wide[..block.len()];
        E::widen_all(arch, block, wide);
        let start = index * BLOCK;
        let target = place(token.target, start..start + block.len());
        moments.visit(arch, softmax, token.scale, wide, target);
    }
}

/// The gradient of the logits, into memory of its own.
///
/// # Panics
///
/// There are not as many whole rows of logits as `rows`.
pub fn gradients<E: Element>(logits: &[E], rows: &[RowGradient]) -> Vec<E> {
    let mut gradients = vec![E::narrow(E::Real::default()); logits.len()];
    let Some(vocabulary) = row_length(logits.len(), rows.len()) else {
        return gradients;
    };
    let arch = vector_unit();
    let replace = |((gradients, logits), row): ((&mut [E], &[E]), &RowGradient)| {
        // A row stays in the cache until it is replaced.
        gradients.copy_from_slice(logits);
        replace_row(arch, row, gradients);
    };
    let both = gradients
        .chunks_mut(vocabulary)
        .zip(logits.chunks(vocabulary));
    partition::rows(logits.len(), both.zip(rows), replace);
    gradients
}

/// Replaces the logits by their gradient.
///
/// # Panics
///
/// There are not as many whole rows of logits as `rows`.
pub fn gradients_in_place<E: Element>(logits: &mut [E], rows: &[RowGradient]) {
    let Some(vocabulary) = row_length(logits.len(), rows.len()) else {
        return;
    };
    let arch = vector_unit();
    let replace = |(logits, row): (&mut [E], &RowGradient)| replace_row(arch, row, logits);
    let count = logits.len();
    partition::rows(count, logits.chunks_mut(vocabulary).zip(rows), replace);
}

fn replace_row<E: Stored>(arch: Arch, row: &RowGradient, logits: &mut [E]) {
    let is_valid = place(row.token.target, 0..logits.len()).is_some();
    let mut wide = [real::<E::Real>(0.0); BLOCK];
    for (index, block) in logits.chunks_mut(BLOCK).enumerate() {
        let start = index * BLOCK;
        let target = place(row.token.target, start..start + block.len());
        if let Some(block) = E::in_place(block) {
            gradient::replace(arch, row, is_valid, block, target);
            continue;
        }
        let wide = &mut wide[..block.len()];
        E::widen_all(arch, block, wide);
        gradient::replace(arch, row, is_valid, wide, target);
        arch.dispatch(NarrowOver { wide, block });
    }
}

struct NarrowOver<'a, E: Stored> {
    wide: &'a [E::Real],
    block: &'a mut [E],
}

impl<E: Stored> WithSimd for NarrowOver<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (narrow, &wide) in self.block.iter_mut().zip(self.wide) {
            *narrow = E::narrow(wide);
        }
    }
}

/// The length of a row; absent where there is nothing to do.
fn row_length(elements: usize, rows: usize) -> Option<usize> {
    if rows == 0 || elements == 0 {
        assert_eq!(elements, 0, "logits of no row");
        return None;
    }
    assert_eq!(elements % rows, 0, "{elements} logits are not {rows} rows");
    Some(elements / rows)
}

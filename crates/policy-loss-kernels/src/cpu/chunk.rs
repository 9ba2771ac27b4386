//! The visit of one chunk, block by block.

use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use crate::RatioLevel;

use super::batch::Mask;
use super::drive::{Evaluation, Memory};
use super::element::Element;
use super::kernel::{Block, Columns};
use super::partition::Chunk;
use super::real::Real;
use super::row::Row;
use super::stage::{BLOCK, written};
use super::sums::Totals;

impl<E: Element> Evaluation<'_, E> {
    /// Visits the tokens of a chunk, whose rows have been derived, and writes its output
    /// unless the gradient is shared.
    pub fn visit(
        &self,
        memory: &mut Memory<E::Real>,
        rows: &mut [Row],
        chunk: &Chunk,
        output: &mut [MaybeUninit<E>],
    ) -> Totals {
        // Where rows make no difference, the chunk is one.
        let row_length = if self.needs_rows() {
            self.batch.tokens
        } else {
            usize::MAX
        };
        let mut totals = Totals::default();
        for start in chunk.tokens.clone().step_by(BLOCK) {
            let end = chunk.tokens.end.min(start + BLOCK);
            let columns = memory.inputs.stage(
                self.arch,
                self.batch,
                self.objective.uses_rollout(),
                start..end,
            );
            let first_row = start / row_length - chunk.rows.start;
            let last_row = (end - 1) / row_length - chunk.rows.start;
            let rows = &mut rows[first_row..=last_row];
            let mut visit = |output: &mut [MaybeUninit<E::Real>]| {
                let mut block_totals = Totals::default();
                let block = Block {
                    columns,
                    rows: &mut *rows,
                    row_length,
                    start: start % row_length,
                    output,
                };
                (self.kernel)(self.arch, self.objective, block, &mut block_totals);
                if !block_totals.is_finite() || !rows.iter().all(Row::is_finite) {
                    block_totals.non_finite = non_finite(&columns);
                }
                totals.add(&block_totals);
            };
            if self.objective.ratio_level == RatioLevel::Sequence {
                visit(&mut []);
            } else if output.is_empty() {
                // Nobody reads it, and it never leaves the cache: no kernel of its own for that.
                discard(&mut memory.output, end - start, visit);
            } else {
                let place = start - chunk.tokens.start..end - chunk.tokens.start;
                write_real(self.arch, &mut output[place], &mut memory.output, visit);
            }
        }
        totals
    }

    /// Writes the gradient, if rows share one.
    pub fn finish(&self, rows: &[Row], chunk: &Chunk, output: &mut [MaybeUninit<E>]) {
        if !self.shares_gradient() {
            return;
        }
        // A chunk that is a piece of a row is shorter than the row.
        let mask = self
            .batch
            .mask
            .map(|Mask(mask)| &mask[chunk.tokens.clone()]);
        for (index, output) in output.chunks_mut(self.batch.tokens).enumerate() {
            let start = index * self.batch.tokens;
            let length = output.len();
            self.arch.dispatch(Fill {
                value: E::from_f64(rows[index].shared_gradient()),
                masked: E::from_f64(0.0),
                mask: mask.map(|mask| &mask[start..start + length]),
                output,
            });
        }
    }
}

/// Lets `write` fill an output in the type of the arithmetic, and narrows it if needed.
#[allow(unsafe_code)]
fn write_real<E: Element>(
    arch: pulp::Arch,
    output: &mut [MaybeUninit<E>],
    memory: &mut Vec<E::Real>,
    write: impl FnOnce(&mut [MaybeUninit<E::Real>]),
) {
    if let Some(output) = E::direct(output) {
        return write(output);
    }
    // SAFETY: a kernel with an output writes every element of it.
    unsafe { written(memory, output.len(), write) };
    E::narrow_all(arch, memory, output);
}

/// Lets `write` fill an output that is not kept.
#[allow(unsafe_code)]
fn discard<T: Real>(memory: &mut Vec<T>, length: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) {
    // SAFETY: a kernel with an output writes every element of it.
    unsafe { written(memory, length, write) };
}

/// The number of valid tokens at which an input is not finite. Sums that are finite prove
/// that there are none, so that this is hardly ever run.
#[cold]
fn non_finite<T: Real>(columns: &Columns<'_, T>) -> f64 {
    let mut count = 0;
    for index in 0..columns.mask.len() {
        let is_finite = [
            columns.log_probs[index],
            columns.old_log_probs[index],
            columns.rollout_log_probs[index],
            columns.advantages[index],
        ]
        .iter()
        .all(|value| value.to_f64().is_finite());
        count += usize::from(columns.mask[index].to_f64() != 0.0 && !is_finite);
    }
    count as f64
}

struct Fill<'a, E> {
    value: E,
    masked: E,
    mask: Option<&'a [u8]>,
    output: &'a mut [MaybeUninit<E>],
}

impl<E: Element> WithSimd for Fill<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Some(mask) = self.mask else {
            for output in self.output {
                output.write(self.value);
            }
            return;
        };
        for (output, &byte) in self.output.iter_mut().zip(mask) {
            output.write(if byte != 0 { self.value } else { self.masked });
        }
    }
}

//! The visit of one chunk, block by block.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::batch::{Advantages, Mask};
use super::drive::{Evaluation, Memory};
use super::element::Element;
use super::kernel::Block;
use super::partition::Chunk;
use super::penalty::PenaltyBlock;
use super::real::Real;
use super::row::Row;
use super::stage::{BLOCK, Scratch, written};
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
        let shares_gradient = self.objective.ratio_level.shares_gradient();
        let Memory {
            inputs,
            output: staging,
        } = memory;
        let mut totals = Totals::default();
        for start in chunk.tokens.clone().step_by(BLOCK) {
            let tokens = start..chunk.tokens.end.min(start + BLOCK);
            let first_row = start / row_length - chunk.rows.start;
            let last_row = (tokens.end - 1) / row_length - chunk.rows.start;
            let rows = &mut rows[first_row..=last_row];
            let place = start - chunk.tokens.start..tokens.end - chunk.tokens.start;
            let mut visit = |output: &mut [MaybeUninit<E::Real>]| {
                totals.add(&self.visit_block(inputs, rows, row_length, tokens.clone(), output));
            };
            if shares_gradient {
                visit(&mut []);
            } else if output.is_empty() {
                // Nobody reads it, and it never leaves the cache: no kernel of its own for that.
                discard(staging, tokens.len(), visit);
            } else {
                write_real(self.arch, &mut output[place], staging, visit);
            }
        }
        totals
    }

    /// Visits the tokens of a block; the output is as long, or empty where rows share the
    /// gradient.
    fn visit_block(
        &self,
        inputs: &mut Scratch<E::Real>,
        rows: &mut [Row],
        row_length: usize,
        tokens: Range<usize>,
        output: &mut [MaybeUninit<E::Real>],
    ) -> Totals {
        let start = tokens.start % row_length;
        let columns = inputs.stage(self.arch, self.batch, self.objective, tokens.clone());
        let mut totals = Totals::default();
        let block = Block {
            columns,
            rows: &mut *rows,
            row_length,
            start,
            output: &mut *output,
        };
        (self.kernel)(self.arch, self.objective, block, &mut totals);
        if !totals.is_finite() || !rows.iter().all(Row::is_finite) {
            totals.non_finite = count(tokens.clone(), |index| !self.is_finite(index));
        }
        if self.penalty.is_some() {
            // SAFETY: a kernel with an output has written every element of it.
            #[allow(unsafe_code)]
            let gradient = unsafe { output.assume_init_mut() };
            let is_finite = self.penalize(
                inputs,
                rows,
                row_length,
                tokens.clone(),
                gradient,
                &mut totals,
            );
            if !is_finite {
                // Those that have not been counted yet.
                totals.non_finite += count(tokens, |index| {
                    self.is_finite(index) && !self.ref_is_finite(index)
                });
            }
        }
        totals
    }

    /// Adds the penalty of a block to its totals, its rows and its gradient, which may be empty.
    /// Returns whether every `ref_log_probs` that takes part is finite.
    fn penalize(
        &self,
        inputs: &mut Scratch<E::Real>,
        rows: &mut [Row],
        row_length: usize,
        tokens: Range<usize>,
        gradient: &mut [E::Real],
        totals: &mut Totals,
    ) -> bool {
        let Some(kernel) = self.penalty else {
            return true;
        };
        let start = tokens.start % row_length;
        let block = PenaltyBlock {
            columns: inputs.stage_penalty(self.arch, self.batch, self.base(), tokens),
            rows,
            row_length,
            start,
            gradient,
        };
        kernel(self.arch, self.objective, block, totals)
    }

    /// Whether a token is masked, or everything finite that takes part in all but the penalty.
    fn is_finite(&self, index: usize) -> bool {
        let batch = self.batch;
        let rollout = match self.objective.uses_rollout() {
            true => batch.rollout_log_probs,
            false => None,
        };
        let advantage = match batch.advantages {
            Advantages::PerToken(advantages) => advantages.is_finite(index),
            Advantages::PerSequence(advantages) => advantages.is_finite(index / batch.tokens),
        };
        let log_probs = E::floats(batch.log_probs).is_finite(index);
        let is_finite = log_probs
            && batch.old_log_probs.is_finite(index)
            && rollout.is_none_or(|rollout| rollout.is_finite(index))
            && advantage;
        is_finite || self.is_masked(index)
    }

    fn ref_is_finite(&self, index: usize) -> bool {
        let ref_log_probs = self.batch.ref_log_probs;
        ref_log_probs.is_none_or(|it| it.is_finite(index)) || self.is_masked(index)
    }

    fn is_masked(&self, index: usize) -> bool {
        self.batch.mask.is_some_and(|Mask(mask)| mask[index] == 0)
    }

    /// Writes the gradient, if rows share one.
    pub fn finish(
        &self,
        memory: &mut Memory<E::Real>,
        rows: &[Row],
        chunk: &Chunk,
        output: &mut [MaybeUninit<E>],
    ) {
        if !self.shares_gradient() {
            return;
        }
        let row_length = self.batch.tokens;
        let level = self.objective.ratio_level;
        let mask = self.batch.mask.map(|Mask(mask)| mask);
        if self.penalty.is_none() {
            // A chunk that is a piece of a row is shorter than the row.
            let mut start = chunk.tokens.start;
            for (row, output) in rows.iter().zip(output.chunks_mut(row_length)) {
                let tokens = start..start + output.len();
                start = tokens.end;
                self.arch.dispatch(Fill {
                    value: E::from_f64(row.shared_gradient(level)),
                    masked: E::from_f64(0.0),
                    mask: mask.map(|mask| &mask[tokens]),
                    output,
                });
            }
            return;
        }
        let Memory {
            inputs,
            output: staging,
        } = memory;
        for start in chunk.tokens.clone().step_by(BLOCK) {
            let tokens = start..chunk.tokens.end.min(start + BLOCK);
            let first_row = start / row_length - chunk.rows.start;
            let last_row = (tokens.end - 1) / row_length - chunk.rows.start;
            // What the penalty adds to rows was used already.
            let mut rows = rows[first_row..=last_row].to_vec();
            let place = start - chunk.tokens.start..tokens.end - chunk.tokens.start;
            write_real(self.arch, &mut output[place], staging, |output| {
                for (element, index) in output.iter_mut().zip(tokens.clone()) {
                    let row = &rows[index / row_length - start / row_length];
                    let value = match self.is_masked(index) {
                        true => 0.0,
                        false => row.shared_gradient(level),
                    };
                    element.write(E::Real::from_f64(value));
                }
                // SAFETY: the loop has written every element.
                #[allow(unsafe_code)]
                let gradient = unsafe { output.assume_init_mut() };
                let totals = &mut Totals::default();
                self.penalize(inputs, &mut rows, row_length, tokens, gradient, totals);
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

/// The number of tokens with a property. Sums that are finite prove that no input is anything
/// else, so that this is hardly ever run.
#[cold]
fn count(tokens: Range<usize>, has: impl Fn(usize) -> bool) -> f64 {
    tokens.filter(|index| has(*index)).count() as f64
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

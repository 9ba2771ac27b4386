//! One evaluation of a batch, from its check to its sums.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::batch::{Batch, Mask};
use super::element::Floats;
use super::partition::{self, Chunk};
use super::specialization::Arithmetic;
use super::stage::{BLOCK, Inputs, Scratch, value_at};
use super::visit::{Block, Gradients, Kernels, Plan, RowState, Terms};
use crate::blueprint::Blueprint;
use crate::columns::Columns;
use crate::numbers::Numbers;
use crate::objective::Objective;
use crate::sums::Sums;

/// Evaluates a batch whose columns have been checked. Returns the loss and the sums; every element of
/// the gradients is written, which are as long as the batch, or empty. `scale` replaces the factor
/// `1 / count` of the reduction.
pub fn run<T: Arithmetic>(
    arch: Arch,
    objective: &Objective,
    batch: &Batch<'_>,
    blueprint: Blueprint,
    columns: Columns<Option<Floats<'_>>>,
    gradients: Gradients<'_, T>,
    scale: Option<f64>,
) -> (f64, Sums) {
    let total = batch.sequences * batch.tokens;
    let counts = Counts::new(arch, batch, total);
    let sequence_weights = batch
        .sequence_weights
        .filter(|_| blueprint.has_sequence_weights());
    let prompts = sequence_weights.map_or(0.0, |weights| {
        let of_row = |row| value_at::<f64>(weights, row) * counts.of_row(row, batch.tokens) as f64;
        (0..batch.sequences).map(of_row).sum()
    });
    let count = objective
        .reduction
        .count(counts.tokens as f64, counts.sequences as f64, prompts);
    let scale = scale.unwrap_or(1.0 / count);
    let evaluation = Evaluation {
        arch,
        plan: Plan {
            blueprint,
            numbers: Numbers::new(objective),
            scale,
            weight_mean: batch.weight_mean,
            entropy_threshold: batch.entropy_threshold,
        },
        kernels: T::kernels(arch, &blueprint),
        inputs: Inputs {
            columns,
            mask: batch.mask,
            row_length: batch.tokens,
            total,
        },
        sequences: batch.sequences,
        sequence_weights,
        counts: &counts,
    };
    let mut sums = evaluation.sums(gradients);
    sums.valid_tokens = counts.tokens as f64;
    sums.valid_sequences = counts.sequences as f64;
    sums.valid_prompts = prompts;
    (sums.loss * scale, sums)
}

struct Evaluation<'a, T: Arithmetic> {
    arch: Arch,
    plan: Plan,
    kernels: Kernels<T>,
    inputs: Inputs<'a>,
    sequences: usize,
    sequence_weights: Option<Floats<'a>>,
    counts: &'a Counts,
}

/// What a thread needs for a block.
#[derive(Debug, Default)]
struct Memory<T> {
    scratch: Scratch<T>,
    terms: Terms<T>,
}

/// A chunk, with its part of the gradients.
type Task<'a, T> = (Chunk, Gradients<'a, T>);

impl<T: Arithmetic> Evaluation<'_, T> {
    fn sums(&self, mut gradients: Gradients<'_, T>) -> Sums {
        let row_length = self.inputs.row_length;
        let by_rows = self.plan.blueprint.by_rows();
        let chunks = match by_rows {
            true => partition::by_row(self.sequences, row_length),
            false => partition::flat(self.inputs.total),
        };
        let mut tasks: Vec<Task<'_, T>> = chunks
            .into_iter()
            .map(|chunk| {
                let own = gradients.take(chunk.tokens.len());
                (chunk, own)
            })
            .collect();
        if by_rows && partition::divides_rows(row_length) {
            return self.sums_of_long_rows(&mut tasks);
        }
        let parts = partition::each(
            self.inputs.total,
            &mut tasks,
            Memory::default,
            |memory, (chunk, gradients)| {
                let mut rows = self.rows(chunk.rows.clone());
                let mut sums = Sums::default();
                if !self.blocks_are_rows() {
                    self.gather(&mut memory.scratch, &mut rows, chunk);
                    self.add_kept_weights(&mut memory.scratch, &mut rows, chunk);
                }
                self.visit(memory, &mut rows, chunk, gradients.reborrow(), &mut sums);
                self.finish(&rows, chunk, gradients.reborrow());
                self.add_ratios(&rows, &mut sums);
                sums
            },
        );
        let mut sums = Sums::default();
        for part in &parts {
            sums.merge(part);
        }
        sums
    }

    /// The same steps, each for all chunks before the next: a row has many.
    fn sums_of_long_rows(&self, tasks: &mut [Task<'_, T>]) -> Sums {
        let total = self.inputs.total;
        let mut rows = self.rows(0..self.sequences);
        if self.plan.blueprint.gathers() {
            let parts = partition::each(total, tasks, Scratch::default, |scratch, (chunk, _)| {
                let mut row = [RowState::default()];
                self.gather(scratch, &mut row, chunk);
                row[0].sums
            });
            for ((chunk, _), part) in tasks.iter().zip(parts) {
                rows[chunk.rows.start].sums.merge(&part);
            }
        }
        if self.plan.blueprint.adds_weights() {
            let parts = partition::each(total, tasks, Scratch::default, |scratch, (chunk, _)| {
                let mut row = [rows[chunk.rows.start]];
                self.add_kept_weights(scratch, &mut row, chunk);
                row[0].kept_weight
            });
            for ((chunk, _), part) in tasks.iter().zip(parts) {
                rows[chunk.rows.start].kept_weight += part;
            }
        }
        let parts = partition::each(
            total,
            tasks,
            Memory::default,
            |memory, (chunk, gradients)| {
                let mut row = [rows[chunk.rows.start]];
                let mut sums = Sums::default();
                self.visit(memory, &mut row, chunk, gradients.reborrow(), &mut sums);
                (sums, row[0])
            },
        );
        let mut sums = Sums::default();
        for ((chunk, _), (part, visited)) in tasks.iter().zip(parts) {
            sums.merge(&part);
            let row = &mut rows[chunk.rows.start];
            row.ratio = visited.ratio;
            row.log_ratio_slope = visited.log_ratio_slope;
            row.loss_slope += visited.loss_slope;
        }
        if self.plan.blueprint.shares_gradient() {
            partition::each(
                total,
                tasks,
                || (),
                |(), (chunk, gradients)| {
                    self.finish(&rows[chunk.rows.clone()], chunk, gradients.reborrow());
                },
            );
        }
        self.add_ratios(&rows, &mut sums);
        sums
    }

    fn rows(&self, range: Range<usize>) -> Vec<RowState> {
        range
            .map(|row| {
                let mut state = RowState::default();
                let tokens = self.counts.of_row(row, self.inputs.row_length);
                state.sums.tokens = tokens as f64;
                if let Some(weights) = self.sequence_weights {
                    state.weight = value_at::<f64>(weights, row);
                }
                state
            })
            .collect()
    }

    /// Whether a block holds whole rows, or rows make no difference.
    fn blocks_are_rows(&self) -> bool {
        !self.plan.blueprint.by_rows() || self.inputs.row_length <= BLOCK
    }

    /// Calls `visit` for each block of a chunk.
    fn blocks(
        &self,
        scratch: &mut Scratch<T>,
        rows: &mut [RowState],
        chunk: &Chunk,
        mut visit: impl FnMut(Block<'_, T>),
    ) {
        // Where rows make no difference, the chunk is one.
        let row_length = match self.plan.blueprint.by_rows() {
            true => self.inputs.row_length,
            false => usize::MAX,
        };
        let length = match BLOCK / row_length {
            0 => BLOCK,
            rows => rows * row_length,
        };
        for start in chunk.tokens.clone().step_by(length) {
            let tokens = start..chunk.tokens.end.min(start + length);
            let first_row = start / row_length - chunk.rows.start;
            let last_row = (tokens.end - 1) / row_length - chunk.rows.start;
            visit(Block {
                staged: scratch.stage(self.arch, &self.inputs, tokens),
                rows: &mut rows[first_row..=last_row],
                row_length,
                start: start % row_length,
            });
        }
    }

    fn gather(&self, scratch: &mut Scratch<T>, rows: &mut [RowState], chunk: &Chunk) {
        if self.plan.blueprint.gathers() {
            self.blocks(scratch, rows, chunk, |mut block| {
                (self.kernels.gather)(self.arch, &self.plan, &mut block);
            });
        }
    }

    fn add_kept_weights(&self, scratch: &mut Scratch<T>, rows: &mut [RowState], chunk: &Chunk) {
        if self.plan.blueprint.adds_weights() {
            self.blocks(scratch, rows, chunk, |mut block| {
                (self.kernels.add_kept_weights)(self.arch, &self.plan, &mut block);
            });
        }
    }

    /// Visits the tokens of a chunk. A block of whole rows is gathered at once, while it is in the
    /// first-level cache; other rows have been gathered before.
    fn visit(
        &self,
        memory: &mut Memory<T>,
        rows: &mut [RowState],
        chunk: &Chunk,
        mut gradients: Gradients<'_, T>,
        sums: &mut Sums,
    ) {
        let Memory { scratch, terms } = memory;
        let (arch, plan, kernels) = (self.arch, &self.plan, &self.kernels);
        let at_once = self.blocks_are_rows();
        let gathers = at_once && plan.blueprint.gathers();
        let adds_weights = at_once && plan.blueprint.adds_weights();
        self.blocks(scratch, rows, chunk, |mut block| {
            if gathers {
                (kernels.gather)(arch, plan, &mut block);
            }
            if adds_weights {
                (kernels.add_kept_weights)(arch, plan, &mut block);
            }
            let gradients = gradients.take(block.staged.mask.len());
            (kernels.visit)(arch, plan, &mut block, gradients, terms, sums);
        });
    }

    /// Writes what flows through the ratio that the tokens of a row share, or adds it to what each of
    /// them has of its own.
    fn finish(&self, rows: &[RowState], chunk: &Chunk, gradients: Gradients<'_, T>) {
        if !self.plan.blueprint.shares_gradient() || gradients.log_probs.is_empty() {
            return;
        }
        let mask = self.inputs.mask.map(|Mask(mask)| mask);
        // A chunk that is a piece of a row is shorter than the row.
        let pieces = gradients.log_probs.chunks_mut(self.inputs.row_length);
        let mut start = chunk.tokens.start;
        for (state, gradient) in rows.iter().zip(pieces) {
            let tokens = start..start + gradient.len();
            start = tokens.end;
            self.arch.dispatch(FinishGradient {
                // Adding 0 turns -0 into 0.
                value: T::from_f64(state.loss_slope * state.log_ratio_slope + 0.0),
                is_written: !self.plan.blueprint.gradient_is_of_row(),
                mask: mask.map(|mask| &mask[tokens]),
                gradient,
            });
        }
    }

    /// Adds the ratios of sequences, once for each of their tokens.
    fn add_ratios(&self, rows: &[RowState], sums: &mut Sums) {
        if !self.plan.blueprint.sequence_ratio() {
            return;
        }
        for state in rows.iter().filter(|state| state.sums.tokens > 0.0) {
            let ratio = state.ratio;
            let tokens = state.sums.tokens;
            sums.merge(&Sums {
                ratio: tokens * ratio,
                squared_ratio: tokens * ratio * ratio,
                // Neither takes a NaN.
                least_ratio: ratio,
                largest_ratio: ratio,
                ..Sums::default()
            });
        }
    }
}

/// Adds a number to the gradients of valid tokens; the others stay as they are. What is not written
/// yet is 0.
struct FinishGradient<'a, T> {
    value: T,
    /// Whether every element has been written.
    is_written: bool,
    mask: Option<&'a [u8]>,
    gradient: &'a mut [MaybeUninit<T>],
}

impl<T: Arithmetic> WithSimd for FinishGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let value = self.value;
        if !self.is_written {
            match self.mask {
                None => self.gradient.fill(MaybeUninit::new(value)),
                Some(mask) => {
                    for (gradient, &byte) in self.gradient.iter_mut().zip(mask) {
                        gradient.write(if byte == 0 { T::default() } else { value });
                    }
                }
            }
            return;
        }
        // SAFETY: the caller says that every element has been written.
        #[allow(unsafe_code)]
        let gradient = unsafe { self.gradient.assume_init_mut() };
        match self.mask {
            None => {
                for gradient in gradient {
                    *gradient = *gradient + value;
                }
            }
            Some(mask) => {
                for (gradient, &byte) in gradient.iter_mut().zip(mask) {
                    let sum = *gradient + value;
                    *gradient = if byte == 0 { *gradient } else { sum };
                }
            }
        }
    }
}

/// How many tokens and sequences of a batch are valid.
struct Counts {
    tokens: usize,
    sequences: usize,
    /// Valid tokens of each row; absent where all are valid.
    by_row: Option<Vec<usize>>,
}

impl Counts {
    /// The valid tokens of a row with `tokens` tokens.
    fn of_row(&self, row: usize, tokens: usize) -> usize {
        self.by_row.as_ref().map_or(tokens, |by_row| by_row[row])
    }

    fn new(arch: Arch, batch: &Batch<'_>, total: usize) -> Self {
        let Some(Mask(mask)) = batch.mask else {
            return Self {
                tokens: total,
                sequences: if batch.tokens == 0 {
                    0
                } else {
                    batch.sequences
                },
                by_row: None,
            };
        };
        let mut chunks = partition::by_row(batch.sequences, batch.tokens);
        let counts = partition::each(
            total,
            &mut chunks,
            || (),
            |(), chunk| {
                // A piece of a row is shorter than the row.
                mask[chunk.tokens.clone()]
                    .chunks(batch.tokens)
                    .map(|row| arch.dispatch(CountValid(row)))
                    .collect::<Vec<_>>()
            },
        );
        let mut by_row = vec![0; batch.sequences];
        for (chunk, counts) in chunks.iter().zip(counts) {
            for (row, count) in by_row[chunk.rows.clone()].iter_mut().zip(counts) {
                *row += count;
            }
        }
        Self {
            tokens: by_row.iter().sum(),
            sequences: by_row.iter().filter(|&&count| count > 0).count(),
            by_row: Some(by_row),
        }
    }
}

/// Bytes counted side by side; a multiple of every vector's width.
const COUNTED: usize = 64;

/// The number of valid tokens in a piece of the mask.
struct CountValid<'a>(&'a [u8]);

impl WithSimd for CountValid<'_> {
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

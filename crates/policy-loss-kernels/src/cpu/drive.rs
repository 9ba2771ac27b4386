//! One evaluation of a batch, from its check to its summary.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::Arch;

use crate::{FilterEstimator, Objective, RatioBase, RatioLevel, Reduction, Summary, Surrogate};

use super::batch::{Batch, BatchError, Floats};
use super::counts::Counts;
use super::element::Element;
use super::gaps::add_gaps;
use super::gather::{self, Difference, Place};
use super::kept_weight::add_kept_weights;
use super::kernel::{Kernel, OutputKind};
use super::partition::{self, Chunk};
use super::penalty::PenaltyKernel;
use super::real::Real;
use super::row::Row;
use super::stage::Scratch;
use super::summary::summary;
use super::sums::Totals;

/// Evaluates a batch. `output` is empty for [`OutputKind::Nothing`] and is written in full
/// for the others.
pub fn run<E: Element>(
    arch: Arch,
    objective: &Objective,
    batch: &Batch<'_, E>,
    kind: OutputKind,
    output: &mut [MaybeUninit<E>],
) -> Result<Summary, BatchError> {
    let output_length = (kind != OutputKind::Nothing).then_some(output.len());
    let total = batch.check(objective, output_length)?;
    let counts = Counts::new(arch, batch, total);
    let count = objective
        .reduction
        .count(counts.tokens as f64, counts.sequences as f64);
    let evaluation = Evaluation {
        arch,
        objective,
        batch,
        total,
        kernel: E::Real::kernel(objective),
        penalty: E::Real::penalty(objective),
        kind,
        scale: objective.scale.unwrap_or(1.0 / count),
        counts: &counts,
    };
    let totals = evaluation.totals(output);
    Ok(summary(objective, &counts, evaluation.scale, &totals))
}

pub struct Evaluation<'a, E: Element> {
    pub arch: Arch,
    pub objective: &'a Objective,
    pub batch: &'a Batch<'a, E>,
    /// Number of tokens, masked ones included.
    total: usize,
    pub kernel: Kernel<E::Real>,
    pub penalty: Option<PenaltyKernel<E::Real>>,
    pub kind: OutputKind,
    /// The batch's part of the reduction's factor.
    scale: f64,
    counts: &'a Counts,
}

/// Memory of one thread.
pub struct Memory<T> {
    pub inputs: Scratch<T>,
    pub output: Vec<T>,
}

impl<T: Real> Memory<T> {
    fn new() -> Self {
        Self {
            inputs: Scratch::new(),
            output: Vec::new(),
        }
    }
}

impl<E: Element> Evaluation<'_, E> {
    /// Whether rows differ in anything but their tokens.
    pub fn needs_rows(&self) -> bool {
        self.needs_row_sums() || self.objective.reduction == Reduction::SequenceMean
    }

    /// Whether something must be known of a whole row before its tokens are visited.
    fn needs_row_sums(&self) -> bool {
        let Objective {
            ratio_level,
            surrogate,
            correction,
            off_policy,
            ..
        } = self.objective;
        let of_sequence = matches!(
            surrogate,
            Surrogate::SequenceWeight { .. } | Surrogate::GeometricMean { .. }
        );
        *ratio_level != RatioLevel::Token
            || of_sequence
            || correction.is_some_and(|correction| correction.is_of_sequence())
            || off_policy.is_some()
    }

    /// Whether the weights of a row are added up before its tokens are visited.
    fn needs_kept_weights(&self) -> bool {
        let Objective {
            surrogate,
            correction,
            off_policy,
            ..
        } = self.objective;
        let is_one_for_the_row = matches!(surrogate, Surrogate::GeometricMean { .. });
        is_one_for_the_row && (correction.is_some() || off_policy.is_some())
    }

    /// Whether the gradient is the same for all tokens of a row.
    pub fn shares_gradient(&self) -> bool {
        self.kind == OutputKind::Gradient && self.objective.ratio_level.shares_gradient()
    }

    fn totals(&self, output: &mut [MaybeUninit<E>]) -> Totals {
        let chunks = if self.needs_rows() {
            partition::by_row(self.batch.sequences, self.batch.tokens)
        } else {
            partition::flat(self.total)
        };
        let mut tasks = partition::with_output(chunks, output);
        if self.needs_rows() && partition::divides_rows(self.batch.tokens) {
            return self.totals_of_long_rows(&mut tasks);
        }
        let parts = partition::each(
            self.total,
            &mut tasks,
            Memory::new,
            |memory, (chunk, output)| {
                let mut rows = self.new_rows(chunk.rows.clone());
                self.gather(memory, &mut rows, chunk);
                self.derive(&mut rows);
                if self.needs_kept_weights() {
                    self.add_kept_weights(memory, &mut rows, chunk);
                    rows.iter_mut().for_each(Row::derive_weighted_slope);
                }
                let mut totals = self.visit(memory, &mut rows, chunk, output);
                self.finish(memory, &rows, chunk, output);
                for row in &rows {
                    row.count_ratio(self.objective, &mut totals);
                }
                totals
            },
        );
        let mut totals = Totals::default();
        for part in &parts {
            totals.add(part);
        }
        totals
    }

    /// The same steps, each for all chunks before the next: a row has many.
    fn totals_of_long_rows(&self, tasks: &mut [partition::Task<'_, E>]) -> Totals {
        let mut rows = self.new_rows(0..self.batch.sequences);
        if self.needs_row_sums() {
            let parts = partition::each(self.total, tasks, Memory::new, |memory, (chunk, _)| {
                let mut row = [Row::default()];
                self.gather(memory, &mut row, chunk);
                row[0]
            });
            for ((chunk, _), part) in tasks.iter().zip(parts) {
                let row = &mut rows[chunk.rows.start];
                row.log_ratio += part.log_ratio;
                row.gaps.add(&part.gaps);
                row.bounded_log_ratio += part.bounded_log_ratio;
                row.advantage += part.advantage;
            }
        }
        self.derive(&mut rows);
        if self.needs_kept_weights() {
            let parts = partition::each(self.total, tasks, Memory::new, |memory, (chunk, _)| {
                let mut row = [rows[chunk.rows.start]];
                self.add_kept_weights(memory, &mut row, chunk);
                row[0].kept_weight
            });
            for ((chunk, _), part) in tasks.iter().zip(parts) {
                rows[chunk.rows.start].kept_weight += part;
            }
            rows.iter_mut().for_each(Row::derive_weighted_slope);
        }
        let parts = partition::each(self.total, tasks, Memory::new, |memory, (chunk, output)| {
            let mut row = [rows[chunk.rows.start]];
            let totals = self.visit(memory, &mut row, chunk, output);
            (totals, row[0].unclipped_advantage)
        });
        let mut totals = Totals::default();
        for ((chunk, _), (part, unclipped_advantage)) in tasks.iter().zip(parts) {
            totals.add(&part);
            rows[chunk.rows.start].unclipped_advantage += unclipped_advantage;
        }
        if self.shares_gradient() {
            partition::each(self.total, tasks, Memory::new, |memory, (chunk, output)| {
                self.finish(memory, &rows[chunk.rows.clone()], chunk, output);
            });
        }
        for row in &rows {
            row.count_ratio(self.objective, &mut totals);
        }
        totals
    }

    fn new_rows(&self, range: Range<usize>) -> Vec<Row> {
        let by_row = self.counts.by_row.as_deref();
        range
            .map(|row| Row {
                valid: by_row.map_or(self.batch.tokens, |by_row| by_row[row]),
                ..Row::default()
            })
            .collect()
    }

    fn derive(&self, rows: &mut [Row]) {
        for row in rows {
            row.derive::<E::Real>(self.objective, self.scale);
        }
    }

    /// Sums over rows that the visit of their tokens needs.
    fn gather(&self, memory: &mut Memory<E::Real>, rows: &mut [Row], chunk: &Chunk) {
        let (batch, objective) = (self.batch, self.objective);
        // `check` made sure of the rollout's presence where it is needed.
        let rollout = batch.rollout_log_probs.unwrap_or(batch.old_log_probs);
        let scratch = &mut memory.inputs;
        let mut place = self.place(rows, chunk);
        let against_base = Difference {
            minuend: E::floats(batch.log_probs),
            subtrahend: self.base(),
            bounded: false,
            field: |row| &mut row.log_ratio,
        };
        let mut add = |difference: &Difference<'_>| {
            gather::add_differences(self.arch, scratch, &mut place, difference, batch.mask);
        };
        if objective.ratio_level != RatioLevel::Token || objective.off_policy.is_some() {
            add(&against_base);
        }
        match objective.surrogate {
            Surrogate::SequenceWeight { .. } => add(&Difference {
                bounded: true,
                field: |row| &mut row.bounded_log_ratio,
                ..against_base
            }),
            Surrogate::GeometricMean { .. } => {
                gather::add_clipped(self.arch, scratch, &mut place, objective, batch);
            }
            _ => {}
        }
        if let Some(correction) = objective.correction.filter(|it| it.is_of_sequence()) {
            let mut filters = correction.filters.iter();
            let with_k3 = filters.any(|(_, estimator, _)| estimator == FilterEstimator::K3);
            let terms = (batch.old_log_probs, rollout);
            add_gaps(self.arch, scratch, &mut place, terms, batch.mask, with_k3);
        }
    }

    /// Adds up the weights of rows that have been derived.
    fn add_kept_weights(&self, memory: &mut Memory<E::Real>, rows: &mut [Row], chunk: &Chunk) {
        let mut place = self.place(rows, chunk);
        let scratch = &mut memory.inputs;
        add_kept_weights(self.arch, scratch, &mut place, self.objective, self.batch);
    }

    fn place<'r>(&self, rows: &'r mut [Row], chunk: &Chunk) -> Place<'r> {
        Place {
            rows,
            row_length: self.batch.tokens,
            tokens: chunk.tokens.clone(),
        }
    }

    /// What the ratio is taken against.
    pub fn base(&self) -> Floats<'_> {
        match self.objective.ratio_base {
            RatioBase::Old => self.batch.old_log_probs,
            RatioBase::Rollout => self
                .batch
                .rollout_log_probs
                .unwrap_or(self.batch.old_log_probs),
        }
    }
}

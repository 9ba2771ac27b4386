//! The inputs of a batch, read in vectors of tokens and converted to the type of the arithmetic.

use cubecl::prelude::*;

use super::words::Elements;
use crate::blueprint::Blueprint;
use crate::formula::row::gpu::{Row, TokenInputs, stand_in};
use crate::formula::token::gpu::TokenGradient;
use crate::numbers::gpu::NumberArguments;

/// The types of a launch.
pub trait Types: Elements {
    type OldLogProbs: Float;
    type RolloutLogProbs: Float;
    type Advantages: Float;
    /// Booleans as the device stores them: 0 is false.
    type Mask: Int;
}

impl<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size> Elements for (O, R, V, M, A, N) {
    type Real = A;
    type Width = N;
}

impl<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size> Types for (O, R, V, M, A, N) {
    type OldLogProbs = O;
    type RolloutLogProbs = R;
    type Advantages = V;
    type Mask = M;
}

type Column<T, N> = Box<[Vector<T, N>]>;
type OptionalColumn<T, N> = ComptimeOption<Column<T, N>>;
type OptionalNumbers<A> = ComptimeOption<Box<[A]>>;

/// The inputs as vectors of tokens. No vector holds tokens of two sequences.
#[derive(CubeType, CubeLaunch)]
pub struct Inputs<E: Types> {
    pub sequences: usize,
    /// Vectors in a sequence.
    pub vectors_per_row: usize,
    /// The numbers of the objective.
    pub numbers: NumberArguments,
    log_probs: Column<E::Real, E::Width>,
    old_log_probs: Column<E::OldLogProbs, E::Width>,
    rollout_log_probs: OptionalColumn<E::RolloutLogProbs, E::Width>,
    weight_mean: OptionalNumbers<E::Real>,
    entropy_threshold: OptionalNumbers<E::Real>,
    sequence_weights: OptionalNumbers<E::Real>,
    ref_log_probs: OptionalColumn<E::Real, E::Width>,
    entropies: OptionalColumn<E::Real, E::Width>,
    advantages: AdvantageColumn<E>,
    future_weights: OptionalColumn<E::Real, E::Width>,
    segment_log_ratios: OptionalColumn<E::Real, E::Width>,
    segment_rejections: OptionalColumn<E::Real, E::Width>,
    mask: OptionalColumn<E::Mask, E::Width>,
}

/// Advantages per token, or one per sequence.
#[derive(CubeType, CubeLaunch)]
#[expect(
    dead_code,
    reason = "a launch constructs the type that is derived from it"
)]
pub enum AdvantageColumn<E: Types> {
    PerToken(Column<E::Advantages, E::Width>),
    PerSequence(Box<[E::Advantages]>),
}

/// What a row of lanes visits of a sequence: all of it, or a piece.
#[derive(CubeType)]
pub struct Part {
    pub sequence: usize,
    /// The sequence is counted with this part.
    pub counts: bool,
    /// The first of its vectors, and the end of them.
    pub start: usize,
    pub end: usize,
}

#[cube]
impl<E: Types> Inputs<E> {
    /// All of a sequence. A row of lanes beyond the last one gets nothing of the first.
    pub fn whole(&self, number: usize) -> Part {
        let exists = number < self.sequences;
        let sequence = select(exists, number, 0);
        let start = sequence * self.vectors_per_row;
        Part {
            sequence,
            counts: exists,
            start,
            end: select(exists, start + self.vectors_per_row, start),
        }
    }

    /// The tokens at `index`, which belong to `sequence`. What the objective does not read shows
    /// `log_probs`.
    pub fn tokens(
        &self,
        index: usize,
        sequence: usize,
        #[comptime] blueprint: Blueprint,
    ) -> TokenInputs<E> {
        let log_probs = self.log_probs[index];
        let read = TokenInputs::<E> {
            log_probs,
            old_log_probs: Vector::cast_from(self.old_log_probs[index]),
            rollout_log_probs: read(&self.rollout_log_probs, index, log_probs),
            ref_log_probs: read(&self.ref_log_probs, index, log_probs),
            entropy: read(&self.entropies, index, log_probs),
            advantage: self.advantage(index, sequence),
            future_weight: read(&self.future_weights, index, log_probs),
            segment_log_ratio: read(&self.segment_log_ratios, index, log_probs),
            segment_rejection: read(&self.segment_rejections, index, log_probs),
            valid: self.valid(index),
            missing: Vector::new(false),
        };
        stand_in::<E>(read, blueprint)
    }

    /// A row with what the batch brings for all of them.
    pub fn of_batch(&self, row: Row<E>) -> Row<E> {
        let mut row = row;
        row.weight_mean = number(&self.weight_mean, 0usize, row.weight_mean);
        row.entropy_threshold = number(&self.entropy_threshold, 0usize, row.entropy_threshold);
        row
    }

    /// The row of a sequence with what the batch brings for it.
    pub fn of_sequence(&self, row: Row<E>, sequence: usize) -> Row<E> {
        let mut row = self.of_batch(row);
        row.factor = number(&self.sequence_weights, sequence, row.factor);
        row.gradient_factor = row.factor;
        row
    }

    pub fn valid(&self, index: usize) -> Vector<bool, E::Width> {
        #[comptime]
        match &self.mask {
            ComptimeOption::Some(mask) => {
                let masked = Vector::new(E::Mask::from_int(0));
                mask[index].not_equal(&masked)
            }
            ComptimeOption::None => Vector::new(true),
        }
    }

    fn advantage(&self, index: usize, sequence: usize) -> Vector<E::Real, E::Width> {
        #[comptime]
        match &self.advantages {
            AdvantageColumn::PerToken(advantages) => Vector::cast_from(advantages[index]),
            AdvantageColumn::PerSequence(advantages) => {
                Vector::new(E::Real::cast_from(advantages[sequence]))
            }
        }
    }
}

/// What a column that is there holds at `index`, `instead` where the objective reads none.
#[cube]
fn read<T: Float, A: Float, N: Size>(
    column: &OptionalColumn<T, N>,
    index: usize,
    instead: Vector<A, N>,
) -> Vector<A, N> {
    #[comptime]
    match column {
        ComptimeOption::Some(column) => Vector::cast_from(column[index]),
        ComptimeOption::None => instead,
    }
}

/// The same of a column that has one number for several tokens.
#[cube]
fn number<A: Float, N: Size>(
    column: &OptionalNumbers<A>,
    index: usize,
    instead: Vector<A, N>,
) -> Vector<A, N> {
    #[comptime]
    match column {
        ComptimeOption::Some(column) => Vector::new(column[index]),
        ComptimeOption::None => instead,
    }
}

/// The gradients as vectors of tokens.
#[derive(CubeType, CubeLaunch)]
pub struct Gradients<E: Types> {
    /// Written where any gradient is wanted.
    log_probs: Column<E::Real, E::Width>,
    entropies: OptionalColumn<E::Real, E::Width>,
    segment_log_ratios: OptionalColumn<E::Real, E::Width>,
}

#[cube]
impl<E: Types> Gradients<E> {
    /// Writes what the tokens at `index` have of their own.
    pub fn write(
        &mut self,
        index: usize,
        own: &TokenGradient<E>,
        #[comptime] blueprint: Blueprint,
    ) {
        if comptime!(blueprint.with_gradient) {
            if comptime!(!blueprint.gradient_is_of_row()) {
                self.log_probs[index] = own.log_probs;
            }
            if comptime!(blueprint.entropy) {
                self.entropies.as_mut().unwrap()[index] = own.entropy;
            }
            if comptime!(blueprint.segment_ratio()) {
                self.segment_log_ratios.as_mut().unwrap()[index] = own.log_ratio_slope;
            }
        }
    }

    /// Adds what flows through a ratio that the tokens of a sequence share.
    pub fn add_shared(
        &mut self,
        index: usize,
        shared: Vector<E::Real, E::Width>,
        #[comptime] blueprint: Blueprint,
    ) {
        if comptime!(blueprint.gradient_is_of_row()) {
            self.log_probs[index] = shared;
        } else {
            self.log_probs[index] += shared;
        }
    }
}

//! The inputs of a batch, read in vectors of tokens and converted to the type of the arithmetic.

use cubecl::prelude::*;

use super::words::Elements;
use crate::blueprint::Blueprint;
use crate::formula::row::gpu::{Row, TokenInputs, stand_in};
use crate::formula::token::gpu::TokenGradient;
use crate::objective::FilterLevel;

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

/// The inputs as vectors of tokens. No vector holds tokens of two sequences.
#[derive(CubeType, CubeLaunch)]
pub struct Inputs<E: Types> {
    log_probs: Column<E::Real, E::Width>,
    old_log_probs: Column<E::OldLogProbs, E::Width>,
    rollout_log_probs: OptionalColumn<E::RolloutLogProbs, E::Width>,
    weight_mean: ComptimeOption<Box<[E::Real]>>,
    entropy_threshold: ComptimeOption<Box<[E::Real]>>,
    sequence_weights: ComptimeOption<Box<[E::Real]>>,
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

#[cube]
impl<E: Types> Inputs<E> {
    /// The tokens at `index`, which belong to `sequence`. What the objective does not read shows
    /// `log_probs`.
    pub fn tokens(
        &self,
        index: usize,
        sequence: usize,
        #[comptime] blueprint: Blueprint,
    ) -> TokenInputs<E> {
        let log_probs = self.log_probs[index];
        let mut rollout_log_probs = log_probs;
        if comptime!(blueprint.reads_rollout()) {
            rollout_log_probs = Vector::cast_from(self.rollout_log_probs.as_ref().unwrap()[index]);
        }
        let mut ref_log_probs = log_probs;
        if comptime!(blueprint.reads_reference()) {
            ref_log_probs = self.ref_log_probs.as_ref().unwrap()[index];
        }
        let mut entropy = log_probs;
        if comptime!(blueprint.reads_entropies()) {
            entropy = self.entropies.as_ref().unwrap()[index];
        }
        let mut future_weight = log_probs;
        if comptime!(blueprint.weighs_future) {
            future_weight = self.future_weights.as_ref().unwrap()[index];
        }
        let mut segment_log_ratio = log_probs;
        if comptime!(blueprint.segment_ratio()) {
            segment_log_ratio = self.segment_log_ratios.as_ref().unwrap()[index];
        }
        let mut segment_rejection = log_probs;
        if comptime!(blueprint.filters_by(FilterLevel::SegmentMean)) {
            segment_rejection = self.segment_rejections.as_ref().unwrap()[index];
        }
        let read = TokenInputs::<E> {
            log_probs,
            old_log_probs: Vector::cast_from(self.old_log_probs[index]),
            rollout_log_probs,
            ref_log_probs,
            entropy,
            advantage: self.advantage(index, sequence),
            future_weight,
            segment_log_ratio,
            segment_rejection,
            valid: self.valid(index),
            missing: Vector::new(false),
        };
        stand_in::<E>(read, blueprint)
    }

    /// A row with what the batch brings for all of them.
    pub fn of_batch(&self, row: Row<E>) -> Row<E> {
        let mut row = row;
        row.weight_mean = self.weight_mean();
        row.entropy_threshold = self.entropy_threshold();
        row
    }

    /// The row of a sequence with what the batch brings for it.
    pub fn of_sequence(
        &self,
        row: Row<E>,
        sequence: usize,
        #[comptime] blueprint: Blueprint,
    ) -> Row<E> {
        let mut row = self.of_batch(row);
        if comptime!(blueprint.has_sequence_weights) {
            row.factor = Vector::new(self.sequence_weights.as_ref().unwrap()[sequence]);
            row.gradient_factor = row.factor;
        }
        row
    }

    /// What rollout weights are divided by.
    fn weight_mean(&self) -> Vector<E::Real, E::Width> {
        #[comptime]
        match &self.weight_mean {
            ComptimeOption::Some(mean) => Vector::new(mean[0]),
            ComptimeOption::None => Vector::new(E::Real::new(1.0)),
        }
    }

    /// The least entropy of a token that is kept.
    fn entropy_threshold(&self) -> Vector<E::Real, E::Width> {
        #[comptime]
        match &self.entropy_threshold {
            ComptimeOption::Some(threshold) => Vector::new(threshold[0]),
            ComptimeOption::None => Vector::new(E::Real::new(0.0)),
        }
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

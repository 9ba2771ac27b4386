//! The kernels: one for each combination of parts, chosen once for a batch.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::Arch;

use crate::{Objective, RatioBase, RatioLevel, Weight as ObjectiveWeight};

use super::formula::{BoundedBelow, Formula, SingleClip, WeightedLogProbs};
use super::output::{Nothing, Output, TokenLoss};
use super::parts::{
    AgainstOld, AgainstRollout, Masked, OfSequence, Ratio, Truncated, Unweighted, Weight,
};
use super::real::Real;
use super::row::Row;
use super::sums::Totals;
use super::visit::Visit;

/// The inputs of a block, in the type of the arithmetic.
#[derive(Clone, Copy)]
pub struct Columns<'a, T> {
    pub log_probs: &'a [T],
    pub old_log_probs: &'a [T],
    /// `old_log_probs` where the objective has no use for it.
    pub rollout_log_probs: &'a [T],
    pub advantages: &'a [T],
    /// 1 or 0.
    pub mask: &'a [T],
}

impl<'a, T> Columns<'a, T> {
    #[inline(always)]
    pub fn slice(&self, range: Range<usize>) -> Columns<'a, T> {
        Columns {
            log_probs: &self.log_probs[range.clone()],
            old_log_probs: &self.old_log_probs[range.clone()],
            rollout_log_probs: &self.rollout_log_probs[range.clone()],
            advantages: &self.advantages[range.clone()],
            mask: &self.mask[range],
        }
    }
}

/// Consecutive tokens, and the rows that they belong to.
pub struct Block<'a, T> {
    pub columns: Columns<'a, T>,
    pub rows: &'a mut [Row],
    /// Number of tokens in a row.
    pub row_length: usize,
    /// The place, within the first of the rows, of the block's first token.
    pub start: usize,
    /// As long as the columns, or empty where nothing is written.
    pub output: &'a mut [MaybeUninit<T>],
}

/// Visits a block: adds to the totals, writes every element of the output.
pub type Kernel<T> = fn(Arch, &Objective, Block<'_, T>, &mut Totals);

/// What a kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    Nothing,
    Gradient,
    TokenLosses,
}

/// The kernel that is composed of the objective's parts.
pub fn compose<T: Real>(objective: &Objective, output: OutputKind) -> Kernel<T> {
    match (objective.ratio_level, objective.ratio_base) {
        (RatioLevel::Token, RatioBase::Old) => compose_weight::<T, AgainstOld>(objective, output),
        (RatioLevel::Token, RatioBase::Rollout) => {
            compose_weight::<T, AgainstRollout>(objective, output)
        }
        (RatioLevel::Sequence, _) => compose_weight::<T, OfSequence>(objective, output),
    }
}

fn compose_weight<T: Real, R: Ratio>(objective: &Objective, output: OutputKind) -> Kernel<T> {
    match objective.weight {
        ObjectiveWeight::None => compose_formula::<T, R, Unweighted>(objective, output),
        ObjectiveWeight::Truncate { .. } => compose_formula::<T, R, Truncated>(objective, output),
        // The mask of a sequence is that of a token with bounds that its row chooses.
        ObjectiveWeight::Mask { .. } | ObjectiveWeight::SequenceMask { .. } => {
            compose_formula::<T, R, Masked>(objective, output)
        }
    }
}

fn compose_formula<T: Real, R: Ratio, W: Weight>(
    objective: &Objective,
    output: OutputKind,
) -> Kernel<T> {
    match objective.clip.dual {
        _ if objective.log_prob_weights.is_some() => {
            compose_output::<T, R, W, WeightedLogProbs>(output)
        }
        None => compose_output::<T, R, W, SingleClip>(output),
        Some(_) => compose_output::<T, R, W, BoundedBelow>(output),
    }
}

fn compose_output<T: Real, R: Ratio, W: Weight, F: Formula>(output: OutputKind) -> Kernel<T> {
    match output {
        OutputKind::Nothing => visit::<T, R, W, F, Nothing>,
        OutputKind::Gradient => visit::<T, R, W, F, R::Gradient>,
        OutputKind::TokenLosses => visit::<T, R, W, F, TokenLoss>,
    }
}

fn visit<T: Real, R: Ratio, W: Weight, F: Formula, O: Output>(
    arch: Arch,
    objective: &Objective,
    block: Block<'_, T>,
    totals: &mut Totals,
) {
    arch.dispatch(Visit {
        objective,
        block,
        totals,
        parts: PhantomData::<(R, W, F, O)>,
    });
}

//! The kernels: one for each combination of parts, chosen once for a batch.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::Arch;

use crate::{Distance, Objective, RatioBase, RatioLevel, Surrogate, Weighed};

use super::of_sequence::{GeometricMean, SequenceWeight};
use super::output::{GradientOfRow, Output};
use super::parts::{AgainstOld, AgainstRollout, OfSequence, OfSequenceAndToken, Ratio};
use super::real::Real;
use super::row::Row;
use super::sums::Totals;
use super::surrogates::{
    BoundedBelow, Clipped, Gate, LogProbs, NegativeWeightedLogProbs, SingleClip, SquaredLogRatio,
    SurrogatePart, WeightedLogProbs,
};
use super::trust_region::{Kl, TotalVariation, TrustRegion};
use super::visit::Visit;
use super::weight::{Unweighted, Weight, Weighted};

/// The inputs of a block, in the type of the arithmetic.
#[derive(Clone, Copy)]
pub struct Columns<'a, T> {
    pub log_probs: &'a [T],
    pub old_log_probs: &'a [T],
    /// `old_log_probs` where the objective has no use for it.
    pub rollout_log_probs: &'a [T],
    /// `old_log_probs` where the objective brings its own.
    pub weights: &'a [T],
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
            weights: &self.weights[range.clone()],
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
    /// As long as the columns, or empty where rows share the gradient.
    pub output: &'a mut [MaybeUninit<T>],
}

/// Visits a block: adds to the totals, writes every element of the output.
pub type Kernel<T> = fn(Arch, &Objective, Block<'_, T>, &mut Totals);

/// What is asked for beside the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    Nothing,
    Gradient,
}

/// The kernel that is composed of the objective's parts.
///
/// # Panics
///
/// If the surrogate has no meaning with the ratio of a sequence.
pub fn compose<T: Real>(objective: &Objective) -> Kernel<T> {
    let of_sequences = match objective.ratio_level {
        RatioLevel::Token => {
            return match objective.ratio_base {
                RatioBase::Old => of_tokens::<T, AgainstOld>(objective),
                RatioBase::Rollout => of_tokens::<T, AgainstRollout>(objective),
            };
        }
        RatioLevel::Sequence | RatioLevel::SequenceSum => of_ratios::<T, OfSequence>(objective),
        RatioLevel::SequenceToken => of_ratios::<T, OfSequenceAndToken>(objective),
    };
    match of_sequences {
        Some(kernel) => kernel,
        None => panic!("{:?} needs the ratio of the token", objective.surrogate),
    }
}

/// Every surrogate.
fn of_tokens<T: Real, R: Ratio>(objective: &Objective) -> Kernel<T> {
    if let Some(kernel) = of_ratios::<T, R>(objective) {
        return kernel;
    }
    match objective.surrogate {
        Surrogate::LogProbs { weighed, .. } => match weighed {
            Weighed::None => with_weight::<T, R, LogProbs>(objective),
            Weighed::Negative => with_weight::<T, R, NegativeWeightedLogProbs>(objective),
            Weighed::All => with_weight::<T, R, WeightedLogProbs>(objective),
        },
        Surrogate::TrustRegion { distance, .. } => match distance {
            Distance::TotalVariation => with_weight::<T, R, TrustRegion<TotalVariation>>(objective),
            Distance::Kl => with_weight::<T, R, TrustRegion<Kl>>(objective),
        },
        Surrogate::SequenceWeight { .. } => with_weight::<T, R, SequenceWeight>(objective),
        Surrogate::GeometricMean { .. } => {
            with_weight_and_output::<T, R, GeometricMean, GradientOfRow>(objective)
        }
        _ => with_weight::<T, R, SquaredLogRatio>(objective),
    }
}

/// The surrogates that are functions of a ratio, whatever it is the ratio of.
fn of_ratios<T: Real, R: Ratio>(objective: &Objective) -> Option<Kernel<T>> {
    match objective.surrogate {
        Surrogate::Clip(clip) => Some(match clip.dual {
            None => with_weight::<T, R, Clipped<SingleClip>>(objective),
            Some(_) => with_weight::<T, R, Clipped<BoundedBelow>>(objective),
        }),
        Surrogate::Gate { .. } => Some(with_weight::<T, R, Gate>(objective)),
        _ => None,
    }
}

fn with_weight<T: Real, R: Ratio, S: SurrogatePart>(objective: &Objective) -> Kernel<T> {
    with_weight_and_output::<T, R, S, R::Gradient>(objective)
}

fn with_weight_and_output<T: Real, R: Ratio, S: SurrogatePart, O: Output>(
    objective: &Objective,
) -> Kernel<T> {
    match (objective.correction, objective.off_policy) {
        (None, None) => visit::<T, R, Unweighted, S, O>,
        _ => visit::<T, R, Weighted, S, O>,
    }
}

fn visit<T: Real, R: Ratio, W: Weight, S: SurrogatePart, O: Output>(
    arch: Arch,
    objective: &Objective,
    block: Block<'_, T>,
    totals: &mut Totals,
) {
    arch.dispatch(Visit {
        objective,
        block,
        totals,
        parts: PhantomData::<(R, W, S, O)>,
    });
}

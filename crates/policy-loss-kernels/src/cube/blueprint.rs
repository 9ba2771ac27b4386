//! What a kernel is specialised on when it is compiled: the parts of an objective, and which
//! inputs there are. What is not chosen leaves no trace in the compiled kernel.

use cubecl::prelude::*;

use crate::{Objective, RatioBase, RatioLevel, Reduction, Weight};

use super::sums::Slot;

/// The choices of an objective and of a batch, without their numbers.
#[derive_cube_comptime]
pub struct Blueprint {
    /// One ratio per sequence instead of one per token.
    pub sequence_ratio: bool,
    /// The ratio is taken against `rollout_log_probs` instead of `old_log_probs`.
    pub against_rollout: bool,
    /// The surrogate is bounded below where the advantage is negative.
    pub dual_clip: bool,
    /// The constant that multiplies a token's loss.
    pub weight: WeightKind,
    /// Each sequence weighs the same instead of each token.
    pub sequence_mean: bool,
    /// There is an action mask; without one all tokens are valid.
    pub masked: bool,
    /// A sequence has one advantage instead of one per token.
    pub sequence_advantages: bool,
    /// The gradient is written.
    pub with_gradient: bool,
    /// The arithmetic is f64 instead of f32.
    pub double: bool,
}

/// A [`Weight`] without its bounds.
#[derive_cube_comptime]
pub enum WeightKind {
    None,
    Truncate,
    Mask,
    SequenceMask,
}

/// The batch's part of a [`Blueprint`].
pub struct BatchTraits {
    pub masked: bool,
    pub sequence_advantages: bool,
    pub with_gradient: bool,
    pub double: bool,
}

impl Blueprint {
    pub fn new(objective: &Objective, batch: BatchTraits) -> Self {
        Self {
            sequence_ratio: objective.ratio_level == RatioLevel::Sequence,
            against_rollout: objective.ratio_base == RatioBase::Rollout,
            dual_clip: objective.clip.dual.is_some(),
            weight: match objective.weight {
                Weight::None => WeightKind::None,
                Weight::Truncate { .. } => WeightKind::Truncate,
                Weight::Mask { .. } => WeightKind::Mask,
                Weight::SequenceMask { .. } => WeightKind::SequenceMask,
            },
            sequence_mean: objective.reduction == Reduction::SequenceMean,
            masked: batch.masked,
            sequence_advantages: batch.sequence_advantages,
            with_gradient: batch.with_gradient,
            double: batch.double,
        }
    }

    pub fn weighted(&self) -> bool {
        self.weight != WeightKind::None
    }

    pub fn sequence_weight(&self) -> bool {
        self.weight == WeightKind::SequenceMask
    }

    /// Whether a token needs to know something of its whole sequence first. If not, a sequence
    /// may be divided among cubes.
    pub fn by_rows(&self) -> bool {
        self.sequence_ratio || self.sequence_mean || self.sequence_weight()
    }

    /// The sums that the objective needs, in the order in which cubes hand them over.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = vec![
            Slot::Loss,
            Slot::LogRatio,
            Slot::SquaredLogRatio,
            Slot::K3,
            Slot::Ratio,
            Slot::SquaredRatio,
            Slot::MinRatio,
            Slot::MaxRatio,
            Slot::ClippedAbove,
            Slot::ClippedBelow,
            Slot::NonFinite,
        ];
        if self.masked {
            slots.extend([Slot::ValidTokens, Slot::ValidSequences]);
        }
        if self.dual_clip {
            slots.push(Slot::DualClipped);
        }
        if self.weighted() {
            slots.extend([
                Slot::LogWeight,
                Slot::Weight,
                Slot::SquaredWeight,
                Slot::ChangedWeight,
            ]);
        }
        slots
    }
}

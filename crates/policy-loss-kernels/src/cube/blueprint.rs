//! What a kernel is specialised on when it is compiled.

use cubecl::prelude::*;

use crate::{Objective, RatioBase, RatioLevel, Reduction, Weight};

use super::sums::Slot;

/// The choices of an objective and of a batch, without their numbers. What is not chosen leaves
/// no trace in the compiled kernel.
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
    /// There is a mask; without one all tokens are valid.
    pub masked: bool,
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

impl Blueprint {
    pub fn new(objective: &Objective, masked: bool, with_gradient: bool, double: bool) -> Self {
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
            masked,
            with_gradient,
            double,
        }
    }

    /// Whether tokens have weights.
    pub fn weighted(&self) -> bool {
        self.weight != WeightKind::None
    }

    /// Whether a weight depends on its whole sequence.
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

    /// Those of the slots that are counts, or those that are not.
    pub fn slots_of(&self, counts: bool) -> Vec<Slot> {
        let mut slots = self.slots();
        slots.retain(|slot| slot.is_count() == counts);
        slots
    }
}

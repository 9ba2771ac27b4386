//! What a kernel is specialised on when it is compiled.

use cubecl::prelude::*;

use crate::{Objective, RatioBase, RatioLevel, Reduction, Surrogate, Weighed, Weight};

use super::sums::Slot;

/// The choices of an objective and of a batch, without their numbers. What is not chosen leaves
/// no trace in the compiled kernel.
#[derive_cube_comptime]
pub struct Blueprint {
    /// One ratio per sequence instead of one per token.
    pub sequence_ratio: bool,
    /// The ratio is taken against `rollout_log_probs` instead of `old_log_probs`.
    pub against_rollout: bool,
    /// What is made of the ratio and the advantage.
    pub surrogate: SurrogateKind,
    /// The constant that multiplies a token's loss.
    pub weight: WeightKind,
    /// A sequence's losses are divided by the number of its tokens.
    pub sequence_mean: bool,
    /// What the sum is divided by.
    pub denominator: Denominator,
    /// There is a mask; without one all tokens are valid.
    pub masked: bool,
    /// The gradient is written.
    pub with_gradient: bool,
    /// The arithmetic is f64 instead of f32.
    pub double: bool,
}

/// A [`Surrogate`] without its numbers.
#[derive_cube_comptime]
pub enum SurrogateKind {
    Clip,
    /// Bounded below where the advantage is negative.
    DualClip,
    LogProbs,
    /// Weighted where the advantage is negative.
    NegativeWeightedLogProbs,
    WeightedLogProbs,
    Gate,
    SquaredLogRatio,
}

/// What a sum is divided by.
#[derive_cube_comptime]
pub enum Denominator {
    Tokens,
    /// Their number, times a length.
    Sequences,
    One,
}

/// A [`Weight`] without its bounds.
#[derive_cube_comptime]
pub enum WeightKind {
    None,
    Truncate,
    Mask,
    SequenceMask,
}

impl SurrogateKind {
    /// Whether it is a function of the ratio, so that its slope against `log_probs` is that
    /// against the ratio times the ratio.
    pub fn is_of_ratio(self) -> bool {
        matches!(self, Self::Clip | Self::DualClip | Self::Gate)
    }
}

impl Blueprint {
    pub fn new(objective: &Objective, masked: bool, with_gradient: bool, double: bool) -> Self {
        Self {
            sequence_ratio: objective.ratio_level == RatioLevel::Sequence,
            against_rollout: objective.ratio_base == RatioBase::Rollout,
            surrogate: match objective.surrogate {
                Surrogate::Clip(clip) if clip.dual.is_some() => SurrogateKind::DualClip,
                Surrogate::Clip(_) => SurrogateKind::Clip,
                Surrogate::LogProbs { weighed, .. } => match weighed {
                    Weighed::None => SurrogateKind::LogProbs,
                    Weighed::Negative => SurrogateKind::NegativeWeightedLogProbs,
                    Weighed::All => SurrogateKind::WeightedLogProbs,
                },
                Surrogate::Gate { .. } => SurrogateKind::Gate,
                Surrogate::SquaredLogRatio { .. } => SurrogateKind::SquaredLogRatio,
            },
            weight: match objective.weight {
                Weight::None => WeightKind::None,
                Weight::Truncate { .. } => WeightKind::Truncate,
                Weight::Mask { .. } => WeightKind::Mask,
                Weight::SequenceMask { .. } => WeightKind::SequenceMask,
            },
            sequence_mean: objective.reduction == Reduction::SequenceMean,
            denominator: match objective.reduction {
                Reduction::TokenMean => Denominator::Tokens,
                Reduction::SequenceMean | Reduction::SequenceSum { .. } => Denominator::Sequences,
                Reduction::TokenSum => Denominator::One,
            },
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
        if self.surrogate == SurrogateKind::DualClip {
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

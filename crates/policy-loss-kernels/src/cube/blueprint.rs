//! What a kernel is specialised on when it is compiled.

use cubecl::prelude::*;

use crate::{
    Distance, Estimator, Objective, PenaltyGradient, RatioBase, RatioLevel, Reduction, Surrogate,
    Weighed, Weight,
};

use super::metric::{Metric, packed};
use super::sums::Slot;

/// The choices of an objective and of a batch, without their numbers. What is not chosen leaves
/// no trace in the compiled kernel.
#[derive_cube_comptime]
pub struct Blueprint {
    /// The value of the ratio is that of the sequence instead of the token's.
    pub sequence_ratio: bool,
    /// The ratio of a sequence is the product of its tokens' ratios, not their geometric mean.
    pub product_ratio: bool,
    /// The gradient of the ratio flows to all tokens of the sequence.
    pub shares_gradient: bool,
    /// The ratio is taken against `rollout_log_probs` instead of `old_log_probs`.
    pub against_rollout: bool,
    /// What is made of the ratio and the advantage.
    pub surrogate: SurrogateKind,
    /// The constant that multiplies a token's loss.
    pub weight: WeightKind,
    /// Tokens may be dropped with their sequence.
    pub off_policy: bool,
    /// What is added to a token's loss.
    pub penalty: PenaltyKind,
    /// The penalty has the gradient of k2.
    pub straight_through: bool,
    /// The penalty is multiplied by the ratio.
    pub importance_corrected: bool,
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
    TotalVariationRegion,
    KlRegion,
    SequenceWeight,
    GeometricMean,
}

/// The estimate of a [`Penalty`](crate::Penalty).
#[derive_cube_comptime]
pub enum PenaltyKind {
    None,
    K1,
    K2,
    K3,
    Abs,
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
    Given,
}

impl SurrogateKind {
    /// Whether it is a function of the ratio, so that its slope against `log_probs` is that
    /// against the ratio times the ratio.
    pub fn is_of_ratio(self) -> bool {
        matches!(self, Self::Clip | Self::DualClip | Self::Gate)
    }

    /// Whether it takes something from the whole sequence beside the ratio.
    pub fn is_of_sequence(self) -> bool {
        matches!(self, Self::SequenceWeight | Self::GeometricMean)
    }
}

impl Blueprint {
    pub fn new(objective: &Objective, masked: bool, with_gradient: bool, double: bool) -> Self {
        let penalty_gradient = objective.penalty.map(|penalty| penalty.gradient);
        Self {
            sequence_ratio: objective.ratio_level != RatioLevel::Token,
            product_ratio: objective.ratio_level == RatioLevel::SequenceSum,
            shares_gradient: objective.ratio_level.shares_gradient(),
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
                Surrogate::TrustRegion { distance, .. } => match distance {
                    Distance::TotalVariation => SurrogateKind::TotalVariationRegion,
                    Distance::Kl => SurrogateKind::KlRegion,
                },
                Surrogate::SequenceWeight { .. } => SurrogateKind::SequenceWeight,
                Surrogate::GeometricMean { .. } => SurrogateKind::GeometricMean,
            },
            weight: match objective.weight {
                Weight::None => WeightKind::None,
                Weight::Truncate { .. } => WeightKind::Truncate,
                Weight::Mask { .. } => WeightKind::Mask,
                Weight::SequenceMask { .. } => WeightKind::SequenceMask,
                Weight::Given => WeightKind::Given,
            },
            off_policy: objective.off_policy.is_some(),
            penalty: match objective.penalty.map(|penalty| penalty.estimator) {
                None => PenaltyKind::None,
                Some(Estimator::K1) => PenaltyKind::K1,
                Some(Estimator::K2) => PenaltyKind::K2,
                Some(Estimator::K3) => PenaltyKind::K3,
                Some(Estimator::Abs) => PenaltyKind::Abs,
            },
            straight_through: penalty_gradient == Some(PenaltyGradient::StraightThrough),
            importance_corrected: penalty_gradient == Some(PenaltyGradient::ImportanceCorrected),
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

    /// Whether something is added to a token's loss.
    pub fn penalized(&self) -> bool {
        self.penalty != PenaltyKind::None
    }

    /// Whether the log-ratios of a sequence are added up before its tokens are visited.
    pub fn adds_log_ratios(&self) -> bool {
        self.sequence_ratio || self.off_policy
    }

    /// The packed metrics, in their order.
    pub fn metrics(&self) -> Vec<Metric> {
        packed(self.weighted(), self.off_policy, self.penalized())
    }

    /// Whether a token needs to know something of its whole sequence first. If not, a sequence
    /// may be divided among cubes.
    pub fn by_rows(&self) -> bool {
        self.adds_log_ratios()
            || self.sequence_mean
            || self.sequence_weight()
            || self.surrogate.is_of_sequence()
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
        if self.off_policy {
            slots.push(Slot::Dropped);
        }
        if self.penalized() {
            slots.push(Slot::Kl);
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

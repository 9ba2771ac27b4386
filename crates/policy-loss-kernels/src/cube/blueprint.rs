//! What a kernel is specialised on when it is compiled.

use cubecl::prelude::*;

use crate::{
    Correction, Distance, Estimator, FilterEstimator, FilterLevel, Objective, PenaltyGradient,
    RatioBase, RatioLevel, Reduction, Surrogate, Weighed, Weight, WeightLevel, WeightMode,
};

use super::kinds::{Denominator, ModeKind, PenaltyKind, SurrogateKind, WeightKind};
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
    /// What becomes of it.
    pub mode: ModeKind,
    /// The filters of a correction: for each level and estimate, in this order, one bit.
    pub filter_bits: u32,
    /// A sequence is rejected for a token.
    pub vetoes: bool,
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
            weight: match objective.correction {
                None => WeightKind::None,
                Some(correction) => match (correction.weight, correction.level()) {
                    (Weight::Given, _) => WeightKind::Given,
                    (_, None) => WeightKind::One,
                    (_, Some(WeightLevel::Token)) => WeightKind::Token,
                    (_, Some(WeightLevel::Sequence)) => WeightKind::Sequence,
                    (_, Some(WeightLevel::Geometric)) => WeightKind::Geometric,
                },
            },
            mode: match objective.correction.as_ref().map(Correction::mode) {
                None | Some(WeightMode::Raw) => ModeKind::Raw,
                Some(WeightMode::Truncate(_)) => ModeKind::Truncate,
                Some(WeightMode::Mask(_)) => ModeKind::Mask,
            },
            filter_bits: objective.correction.map_or(0, |correction| {
                let filters = correction.filters.iter();
                filters.fold(0, |bits, (level, estimator, _)| {
                    bits | bit(level, estimator)
                })
            }),
            vetoes: objective
                .correction
                .is_some_and(|correction| correction.veto.is_some()),
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

    /// The filters of the correction, by level and then by estimate.
    pub fn filters(&self) -> Vec<(FilterLevel, FilterEstimator)> {
        let mut filters = Vec::new();
        for level in FilterLevel::ALL {
            for estimator in FilterEstimator::ALL {
                if self.filter_bits & bit(level, estimator) != 0 {
                    filters.push((level, estimator));
                }
            }
        }
        filters
    }

    /// Whether a weight depends on its whole sequence.
    pub fn gathers_gaps(&self) -> bool {
        let of_sequence = matches!(self.weight, WeightKind::Sequence | WeightKind::Geometric);
        let mut filters = self.filters().into_iter();
        of_sequence || self.vetoes || filters.any(|(level, _)| level != FilterLevel::Token)
    }

    /// Whether this estimate of the gaps is added up over a sequence.
    pub fn adds_gaps(&self, estimator: FilterEstimator) -> bool {
        let mut filters = self.filters().into_iter();
        filters.any(|(level, other)| {
            other == estimator
                && matches!(level, FilterLevel::SequenceSum | FilterLevel::SequenceMean)
        })
    }

    /// Whether the smallest and the largest gap of a sequence decide.
    pub fn compares_gaps(&self) -> bool {
        let mut filters = self.filters().into_iter();
        self.vetoes || filters.any(|(level, _)| level == FilterLevel::SequenceMax)
    }

    /// Whether the slope of a token's surrogate is that of its row, weights included.
    pub fn slope_is_of_row(&self) -> bool {
        self.surrogate == SurrogateKind::GeometricMean
    }

    /// Whether the weights of a sequence are added up before its tokens are visited.
    pub fn adds_weights(&self) -> bool {
        self.slope_is_of_row() && (self.weighted() || self.off_policy)
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
            || self.gathers_gaps()
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
            slots.extend([Slot::LogWeight, Slot::Weight, Slot::SquaredWeight]);
        }
        if self.mode == ModeKind::Truncate {
            slots.push(Slot::TruncatedWeight);
        }
        if self.mode == ModeKind::Mask || self.filter_bits != 0 || self.vetoes {
            slots.push(Slot::ZeroedWeight);
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

/// The place of a filter among the bits of a blueprint.
fn bit(level: FilterLevel, estimator: FilterEstimator) -> u32 {
    1 << (level as u32 * FilterEstimator::ALL.len() as u32 + estimator as u32)
}

//! What a kernel is specialised on, and where its numbers come from.

use crate::columns::Columns;
use crate::numbers::{FILTER_BOUNDS, Numbers, filter_place};
use crate::objective::{
    Behavior, Denominator, FilterEstimator, FilterLevel, KlBase, KlEstimator, KlGradient,
    KlPenalty, MissingRolloutLogProbs, Objective, RatioLevel, RolloutCorrection, RolloutWeight,
    SurrogateChoices, SurrogateKind, WeightLevel, WeightMode,
};

/// The choices of an objective and of a batch, without their numbers. What is not chosen leaves no
/// trace in a compiled kernel.
///
/// What is asked of it is inlined: the loops of the CPU know most choices when they are compiled,
/// and a call would hide them from the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// The formula of the ratio and the advantage.
    pub surrogate: SurrogateKind,
    /// What that formula leaves open.
    pub choices: SurrogateChoices,
    /// Where the ratio is formed.
    pub ratio_level: RatioLevel,
    /// What the ratio is taken against.
    pub against: Behavior,
    /// What becomes of tokens without a log-prob of the sampler.
    pub missing: MissingRolloutLogProbs,
    /// There is a rollout correction.
    pub corrected: bool,
    /// The correction has a weight of its own; without one every weight is 1.
    pub weighted: bool,
    /// What the weight is the ratio of.
    pub weight_level: WeightLevel,
    /// Weights are divided by a number that the batch brings.
    pub normalizes: bool,
    /// Weights are moved into bounds.
    pub truncates: bool,
    /// Weights out of their bounds are 0.
    pub masks: bool,
    /// The filters of the correction: one bit for each level and estimate.
    pub filter_bits: u64,
    /// A sequence is rejected for one of its tokens.
    pub vetoes: bool,
    /// Filters and veto spare tokens that move towards the sampler.
    pub only_moving_away: bool,
    /// Tokens may be dropped with their sequence.
    pub off_policy: bool,
    /// Tokens of low entropy are dropped.
    pub masks_entropy: bool,
    /// Surrogates are multiplied by future weights, which the batch brings.
    pub weighs_future: bool,
    /// There is a KL penalty.
    pub penalized: bool,
    /// Its estimate.
    pub kl_estimator: KlEstimator,
    /// Its gradient.
    pub kl_gradient: KlGradient,
    /// The policy that it is taken against.
    pub kl_base: KlBase,
    /// Its log-ratio or its value is bounded.
    pub bounds_kl: bool,
    /// There is an entropy bonus.
    pub entropy: bool,
    /// A sequence's losses are divided by the number of its tokens.
    pub sequence_mean: bool,
    /// What the reduction divides by.
    pub divides_by: Denominator,
    /// There is a mask; without one all tokens are valid.
    pub masked: bool,
    /// The gradient is written.
    pub with_gradient: bool,
    /// The arithmetic is f64 instead of f32.
    pub double: bool,
}

impl Blueprint {
    /// The choices of an objective; `None` where a part of it has no kernel.
    #[must_use]
    pub fn new(
        objective: &Objective,
        masked: bool,
        with_gradient: bool,
        double: bool,
    ) -> Option<Self> {
        let correction = objective.rollout_correction.unwrap_or_default();
        let weight = correction.weight;
        let mode = weight.map(|weight| weight.mode);
        let penalty = objective.kl_penalty.unwrap_or(KlPenalty::new(0.0));
        Some(Self {
            surrogate: objective.surrogate.kind()?,
            choices: objective.surrogate.properties().choices(),
            ratio_level: objective.ratio.level,
            against: objective.ratio.against,
            missing: objective.missing_rollout_log_probs,
            corrected: objective.rollout_correction.is_some(),
            weighted: weight.is_some(),
            weight_level: weight.map_or(WeightLevel::Token, |weight: RolloutWeight| weight.level),
            normalizes: correction.normalize,
            truncates: matches!(mode, Some(WeightMode::Truncate(_))),
            masks: matches!(mode, Some(WeightMode::Mask(_))),
            filter_bits: correction.filters.iter().fold(0, |bits, filter| {
                bits | filter_bit(filter.level, filter.estimator)
            }),
            only_moving_away: correction.only_moving_away,
            vetoes: correction.veto.is_some(),
            off_policy: objective.off_policy_mask.is_some(),
            masks_entropy: objective.entropy_mask.is_some(),
            weighs_future: objective.future_weight.is_some(),
            penalized: objective.kl_penalty.is_some(),
            kl_estimator: penalty.estimator,
            kl_gradient: penalty.gradient,
            kl_base: penalty.against,
            bounds_kl: penalty.max_log_ratio.is_some() || penalty.max_divergence.is_some(),
            entropy: objective.entropy_bonus.is_some(),
            sequence_mean: objective.reduction.takes_sequence_means(),
            divides_by: objective.reduction.denominator(),
            masked,
            with_gradient,
            double,
        })
    }

    /// Whether tokens take the ratio of their sequence.
    #[must_use]
    #[inline(always)]
    pub fn sequence_ratio(&self) -> bool {
        matches!(
            self.ratio_level,
            RatioLevel::Sequence | RatioLevel::SequenceToken | RatioLevel::SequenceSum
        )
    }

    /// Whether tokens take the ratio of their segment, whose logarithm the batch brings.
    #[must_use]
    #[inline(always)]
    pub fn segment_ratio(&self) -> bool {
        self.ratio_level == RatioLevel::Segment
    }

    /// Whether the gradient of a ratio is the same for all tokens of a sequence.
    #[must_use]
    #[inline(always)]
    pub fn shares_gradient(&self) -> bool {
        matches!(
            self.ratio_level,
            RatioLevel::Sequence | RatioLevel::SequenceSum
        )
    }

    /// Whether what flows through a ratio is kept apart from what flows through a token's own log-prob.
    #[must_use]
    #[inline(always)]
    pub fn separates_ratio(&self) -> bool {
        self.shares_gradient() || self.segment_ratio()
    }

    /// Whether the gradient of the log-probs is the same for all tokens of a sequence.
    #[must_use]
    #[inline(always)]
    pub fn gradient_is_of_row(&self) -> bool {
        self.shares_gradient() && !self.penalized
    }

    /// Whether `rollout_log_probs` is read.
    #[must_use]
    #[inline(always)]
    pub fn reads_rollout(&self) -> bool {
        self.corrected || self.against == Behavior::Rollout || self.penalizes_rollout()
    }

    /// Whether the penalty is taken against the sampler.
    #[must_use]
    #[inline(always)]
    pub fn penalizes_rollout(&self) -> bool {
        self.penalized && self.kl_base == KlBase::Rollout
    }

    /// Whether tokens without a log-prob of the sampler are dropped.
    #[must_use]
    #[inline(always)]
    pub fn drops_missing(&self) -> bool {
        self.missing == MissingRolloutLogProbs::Drop
    }

    /// Whether tokens are dropped, whatever their weights.
    #[must_use]
    #[inline(always)]
    pub fn drops_tokens(&self) -> bool {
        self.off_policy || self.masks_entropy || self.drops_missing()
    }

    /// Whether the surrogate is weighted, or dropped at some tokens.
    #[must_use]
    #[inline(always)]
    pub fn corrects(&self) -> bool {
        self.corrected || self.drops_tokens() || self.weighs_future
    }

    /// Whether the loss is more than the surrogate.
    #[must_use]
    #[inline(always)]
    pub fn has_extras(&self) -> bool {
        self.corrects() || self.penalized || self.entropy
    }

    /// Whether the entropies are read.
    #[must_use]
    #[inline(always)]
    pub fn reads_entropies(&self) -> bool {
        self.entropy || self.masks_entropy
    }

    /// Whether `ref_log_probs` is read.
    #[must_use]
    #[inline(always)]
    pub fn reads_reference(&self) -> bool {
        self.penalized && self.kl_base == KlBase::Reference
    }

    /// The columns that are read.
    #[must_use]
    pub fn reads(&self) -> Columns<bool> {
        Columns {
            log_probs: true,
            old_log_probs: true,
            rollout_log_probs: self.reads_rollout(),
            ref_log_probs: self.reads_reference(),
            entropies: self.reads_entropies(),
            advantages: true,
            future_weights: self.weighs_future,
            segment_log_ratios: self.segment_ratio(),
            segment_rejections: self.filters_by(FilterLevel::SegmentMean),
        }
    }

    /// Whether the surrogate takes something from the whole sequence beside the ratio.
    #[must_use]
    #[inline(always)]
    pub fn surrogate_is_of_row(&self) -> bool {
        matches!(
            self.surrogate,
            SurrogateKind::GammaWeight | SurrogateKind::GeometricMean
        )
    }

    /// Whether the slope of a token's surrogate is that of its row, weights included.
    #[must_use]
    #[inline(always)]
    pub fn slope_is_of_row(&self) -> bool {
        self.surrogate == SurrogateKind::GeometricMean
    }

    /// Whether the weights of a sequence are added up before its tokens are visited.
    #[must_use]
    #[inline(always)]
    pub fn adds_weights(&self) -> bool {
        self.slope_is_of_row() && self.corrects()
    }

    /// Whether there is a filter of this level and estimate.
    #[must_use]
    #[inline(always)]
    pub fn filters(&self, level: FilterLevel, estimator: FilterEstimator) -> bool {
        self.filter_bits & filter_bit(level, estimator) != 0
    }

    /// Whether there is a filter of this level.
    #[must_use]
    #[inline(always)]
    pub fn filters_by(&self, level: FilterLevel) -> bool {
        FilterEstimator::ALL
            .map(|estimator| self.filters(level, estimator))
            .contains(&true)
    }

    /// Whether a weight depends on its whole sequence.
    #[must_use]
    #[inline(always)]
    pub fn weight_is_of_row(&self) -> bool {
        let own = self.weighted && self.weight_level != WeightLevel::Token;
        own || self.vetoes || self.filters_sequences()
    }

    /// Whether there is a filter of a level that judges sequences.
    #[inline(always)]
    fn filters_sequences(&self) -> bool {
        self.filter_bits & !FILTERS_WITHIN_SEQUENCES != 0
    }

    /// Whether this estimate of the gaps is added up over a sequence.
    #[must_use]
    #[inline(always)]
    pub fn adds_gaps(&self, estimator: FilterEstimator) -> bool {
        let adds = |level: FilterLevel| level.adds_up() && self.filters(level, estimator);
        FilterLevel::ALL.map(adds).contains(&true)
    }

    /// Whether the smallest and the largest gap of a sequence are looked for.
    #[must_use]
    #[inline(always)]
    pub fn needs_extremes(&self) -> bool {
        let needs = |level: FilterLevel| level.needs_extremes() && self.filters_by(level);
        self.vetoes || FilterLevel::ALL.map(needs).contains(&true)
    }

    /// Whether the batch brings what the tokens of each sequence count for.
    #[must_use]
    #[inline(always)]
    pub fn has_sequence_weights(&self) -> bool {
        self.divides_by == Denominator::Prompts
    }

    /// Whether a token needs to know something of its whole sequence first. If not, a sequence may
    /// be divided at will.
    #[must_use]
    #[inline(always)]
    pub fn by_rows(&self) -> bool {
        self.sequence_mean || self.has_sequence_weights() || self.gathers()
    }

    /// Whether a sequence is read before its tokens are visited.
    #[must_use]
    #[inline(always)]
    pub fn gathers(&self) -> bool {
        self.gathers_ratios() || self.weight_is_of_row()
    }

    /// Whether the ratios of a sequence are read before its tokens are visited.
    #[must_use]
    #[inline(always)]
    pub fn gathers_ratios(&self) -> bool {
        self.sequence_ratio() || self.off_policy || self.surrogate_is_of_row()
    }

    /// Whether of the log-ratios of a sequence only their sum is needed, against the old policy.
    #[must_use]
    #[inline(always)]
    pub fn gathers_only_log_ratios(&self) -> bool {
        self.against == Behavior::Old && !self.surrogate_is_of_row()
    }

    /// Whether of the gaps of a sequence only their sum is needed.
    #[must_use]
    #[inline(always)]
    pub fn gathers_only_gaps(&self) -> bool {
        let adds = |estimator| estimator != FilterEstimator::K1 && self.adds_gaps(estimator);
        !self.needs_extremes() && !FilterEstimator::ALL.map(adds).contains(&true)
    }
}

/// The bits of the filters that judge tokens or segments. All others judge sequences.
pub const FILTERS_WITHIN_SEQUENCES: u64 = {
    assert!(FILTER_BOUNDS / 2 <= u64::BITS as usize, "a bit for each");
    let (mut bits, mut nth) = (0, 0);
    while nth < FilterEstimator::ALL.len() {
        bits |= filter_bit(FilterLevel::Token, FilterEstimator::ALL[nth]);
        bits |= filter_bit(FilterLevel::SegmentMean, FilterEstimator::ALL[nth]);
        nth += 1;
    }
    bits
};

/// The place of a filter among the bits of a blueprint.
#[inline(always)]
const fn filter_bit(level: FilterLevel, estimator: FilterEstimator) -> u64 {
    1 << filter_place(level, estimator)
}

impl Numbers {
    /// The numbers of an objective.
    #[must_use]
    pub fn new(objective: &Objective) -> Self {
        let correction = objective.rollout_correction.unwrap_or_default();
        let penalty = objective.kl_penalty.unwrap_or(KlPenalty::new(0.0));
        let weight_bounds = match correction.weight {
            Some(RolloutWeight { mode, .. }) => match mode {
                WeightMode::Truncate(bounds) | WeightMode::Mask(bounds) => Some(bounds),
                WeightMode::Raw => None,
            },
            None => None,
        };
        Self {
            weight_low: weight_bounds.map_or(0.0, |it| it.low_or_zero()),
            weight_high: weight_bounds.map_or(f64::INFINITY, |it| it.high_or_infinity()),
            filters: filter_bounds(&correction),
            least_gap: correction.veto.map_or(0.0, f64::ln),
            least_mean_log_ratio: objective.off_policy_mask.map_or(0.0, |mask| -mask.delta),
            kl_coefficient: penalty.coefficient,
            max_kl_log_ratio: penalty.max_log_ratio.unwrap_or(f64::INFINITY),
            max_kl: penalty.max_divergence.unwrap_or(f64::INFINITY),
            entropy_coefficient: objective.entropy_bonus.map_or(0.0, |it| it.coefficient),
            ..objective.surrogate.properties().numbers()
        }
    }
}

fn filter_bounds(correction: &RolloutCorrection) -> [f64; FILTER_BOUNDS] {
    let mut filters = [0.0; FILTER_BOUNDS];
    for filter in correction.filters.iter() {
        let place = 2 * filter_place(filter.level, filter.estimator);
        filters[place] = filter.low();
        filters[place + 1] = filter.bounds.high_or_infinity();
    }
    filters
}

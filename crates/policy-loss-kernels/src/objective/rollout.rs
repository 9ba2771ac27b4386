//! The correction for the mismatch between sampler and trainer.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bounds::Bounds;
use super::check::{ConfigError, if_given, listed, positive, sides};

/// The correction for the mismatch between the policy that sampled and the policy that the update
/// started from. With the gap `g = old_log_probs - rollout_log_probs`, a constant, and
/// `rho = exp(g)`:
///
/// ```text
/// w = weight, normalized to mean 1 if asked for; 1 without one        RolloutWeight
/// w = 0 where a filter's statistic lies out of its bounds             Filter
/// w = 0 for a sequence that holds a token with rho below the veto
///     with only_moving_away not where g A <= 0: the update moves the token towards the sampler
/// token_loss = -surrogate * w + ...
/// ```
///
/// The weight multiplies the policy term before a KL penalty or an entropy bonus is added. The
/// denominators of the reduction keep counting what was dropped. A rejected weight is 0 whatever
/// `rho` is.
///
/// ```
/// use policy_loss_kernels::objective::{Bounds, Filter, RolloutCorrection, RolloutWeight};
///
/// let correction = RolloutCorrection::weigh(RolloutWeight::truncate(Bounds::at_most(2.0)))
///     .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.01)))
///     .with_veto(1e-4);
/// ```
///
/// As JSON:
///
/// ```json
/// {
///   "weight": { "level": "token", "mode": { "truncate": { "high": 2.0 } } },
///   "filters": [{ "level": "sequence_mean", "estimator": "k3", "bounds": { "high": 0.01 } }],
///   "veto": 1e-4
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutCorrection {
    /// The weight of a token, before anything is dropped; 1 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<RolloutWeight>,
    /// Whether the weights are divided by their mean over the batch: over its tokens, or over its
    /// sequences where a sequence shares one. A statistic of the batch at hand, so shards do not
    /// add up to the undivided batch any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub normalize: bool,
    /// What a token or a sequence has to fulfil to be kept.
    #[serde(skip_serializing_if = "Filters::is_empty")]
    pub filters: Filters,
    /// Drops every sequence that holds a token with `rho` below it. Finite and above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub veto: Option<f64>,
    /// Whether filters and veto spare the tokens that an update brings back towards the sampler, those
    /// with `g A <= 0`: more likely than when they were sampled with a negative advantage, or less
    /// likely with a positive one ([arXiv 2603.01365](https://arxiv.org/abs/2603.01365)).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_moving_away: bool,
}

impl RolloutCorrection {
    /// Nothing, which `validate` refuses.
    const NONE: Self = Self {
        weight: None,
        normalize: false,
        filters: Filters::NONE,
        veto: None,
        only_moving_away: false,
    };

    /// A weight, and nothing is dropped but what the weight itself drops.
    #[must_use]
    pub const fn weigh(weight: RolloutWeight) -> Self {
        Self {
            weight: Some(weight),
            ..Self::NONE
        }
    }

    /// A filter without a weight: what is kept weighs 1.
    #[must_use]
    pub const fn filter(filter: Filter) -> Self {
        Self {
            filters: Filters::NONE.and(filter),
            ..Self::NONE
        }
    }

    /// Adds a filter, in the place of an earlier one on the same statistic.
    #[must_use]
    pub const fn with_filter(mut self, filter: Filter) -> Self {
        self.filters = self.filters.and(filter);
        self
    }

    /// Divides the weights by their mean over the batch.
    #[must_use]
    pub const fn with_normalization(mut self) -> Self {
        self.normalize = true;
        self
    }

    /// Drops every sequence that holds a token with `rho` below `floor`.
    #[must_use]
    pub const fn with_veto(mut self, floor: f64) -> Self {
        self.veto = Some(floor);
        self
    }

    /// Has filters and veto spare the tokens that an update moves towards the sampler.
    #[must_use]
    pub const fn with_only_moving_away(mut self) -> Self {
        self.only_moving_away = true;
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if_given(self.weight, RolloutWeight::validate)?;
        self.filters.iter().try_for_each(|it| it.validate())?;
        if_given(self.veto, |veto| positive("rollout_correction.veto", *veto))?;
        if self.only_moving_away && self.filters.is_empty() && self.veto.is_none() {
            return Err(ConfigError::Missing {
                field: "rollout_correction.filters",
                needed_by: "`rollout_correction.only_moving_away`",
                accepted: "a filter or a veto, or leave `only_moving_away` out",
            });
        }
        match (self.weight, self.normalize) {
            (None, true) => Err(ConfigError::Missing {
                field: "rollout_correction.weight",
                needed_by: "`rollout_correction.normalize`",
                accepted: "a weight to normalize, or leave `normalize` out",
            }),
            (None, false) if self.filters.is_empty() && self.veto.is_none() => {
                Err(ConfigError::Missing {
                    field: "rollout_correction.weight",
                    needed_by: "a correction without filters and veto",
                    accepted: "a weight, a filter or a veto; for no correction at all, leave \
                               `rollout_correction` out",
                })
            }
            (None, false) | (Some(_), _) => Ok(()),
        }
    }
}

/// What becomes of a valid token whose `rollout_log_probs` is NaN: a sampler that gave no log-prob
/// for it, such as one that forced a token.
///
/// ```text
/// propagate  the NaN goes on: into the loss, unless the correction rejects what has no ratio, as a
///            mask, a filter and a veto do; `non_finite` counts it
/// drop       the policy term of the token is 0, and so is its KL penalty against the sampler; to
///            all others it looks as with use_old
/// use_old    old_log_probs stand in: the gap is 0, rho is 1
/// ```
///
/// Whatever is chosen, the metric `missing_rollout_log_probs` counts them. The denominators of the
/// reduction, and means over a sequence, keep counting what was dropped. An infinite log-prob is not
/// a missing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingRolloutLogProbs {
    /// It stays NaN, and so does the loss, unless the correction rejects it.
    #[default]
    Propagate,
    /// The token is dropped.
    Drop,
    /// `old_log_probs` stand in.
    UseOld,
}

impl MissingRolloutLogProbs {
    /// Whether it is what an objective does that does not say.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The weight of a token in a [`RolloutCorrection`]. With the gap
/// `g = old_log_probs - rollout_log_probs`:
///
/// ```text
/// token      rho = exp(g)                                       of the token
/// sequence   rho = exp(clamp(sum of g, -20, 20))                 of its sequence
/// geometric  rho = exp(clamp(mean of g, -20, 20))                of its sequence
///
/// truncate   w = clamp(rho, low, high)
/// mask       w = rho where low <= rho <= high, else 0
/// raw        w = rho
/// ```
///
/// The product over a sequence is the exact correction, with a variance that grows with the
/// length; the token's own is biased, with little variance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutWeight {
    /// What the ratio is taken over.
    #[serde(default)]
    pub level: WeightLevel,
    /// What becomes of ratios that are small or large.
    pub mode: WeightMode,
}

/// What the ratio of a [`RolloutWeight`] is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLevel {
    /// Each token its own.
    #[default]
    Token,
    /// The product of a sequence's ratios.
    Sequence,
    /// The geometric mean of a sequence's ratios.
    Geometric,
}

/// What becomes of ratios that are small or large; see [`RolloutWeight`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightMode {
    /// They are moved to the bound.
    Truncate(Bounds),
    /// They become 0.
    Mask(Bounds),
    /// Nothing.
    Raw,
}

impl RolloutWeight {
    /// Ratios of tokens, moved into `bounds`.
    #[must_use]
    pub const fn truncate(bounds: Bounds) -> Self {
        Self::new(WeightMode::Truncate(bounds))
    }

    /// Ratios of tokens, 0 outside of `bounds`.
    #[must_use]
    pub const fn mask(bounds: Bounds) -> Self {
        Self::new(WeightMode::Mask(bounds))
    }

    /// Ratios of tokens as they are.
    #[must_use]
    pub const fn raw() -> Self {
        Self::new(WeightMode::Raw)
    }

    const fn new(mode: WeightMode) -> Self {
        Self {
            level: WeightLevel::Token,
            mode,
        }
    }

    /// The same of another level.
    #[must_use]
    pub const fn of_level(mut self, level: WeightLevel) -> Self {
        self.level = level;
        self
    }

    fn validate(&self) -> Result<(), ConfigError> {
        match self.mode {
            WeightMode::Truncate(bounds) => {
                bounds.validate(sides!("rollout_correction.weight.mode.truncate"))
            }
            WeightMode::Mask(bounds) => {
                bounds.validate(sides!("rollout_correction.weight.mode.mask"))
            }
            WeightMode::Raw => Ok(()),
        }
    }
}

/// A filter of a [`RolloutCorrection`]: what lies out of its bounds is dropped. With the gap
/// `g = old_log_probs - rollout_log_probs` of a token:
///
/// ```text
/// k1  g, the bounds are those of the ratio: ln(low) <= statistic <= ln(high)
/// k2  g^2 / 2                                low <= statistic <= high
/// k3  expm1(g) - g, g clamped to ±20         low <= statistic <= high
/// bernoulli_kl  max(D(p, q), D(q, p))        low <= statistic <= high
///     p = exp(old_log_probs), q = exp(rollout_log_probs), and p, q, 1 - p, 1 - q within [1e-8, 1]
///     D(p, q) = p ln(p / q) + (1 - p) ln((1 - p) / (1 - q))
/// difference  p - q                          low <= statistic <= high, of either sign
/// ratio_distance  |expm1(g)|, g clamped to ±20   low <= statistic <= high
///
/// token          of the token alone
/// sequence_sum   the sum over its sequence
/// sequence_mean  the mean over its sequence
/// sequence_max   the largest of its sequence
/// segment_mean   the mean over its segment, as of the [`Ratio`](super::Ratio) of segments
/// ```
///
/// Bounds of k1 are compared with `exp(statistic)`, in f32 unless `log_probs` is f64: within
/// `1e-38` and `3e38` there.
///
/// The KL divergence of a Bernoulli distribution, whether this token is sampled or another, sees what
/// a ratio does not: from 1e-6 to 1e-5 hardly anything has changed, from 0.9 to 0.99 the ratio has not.
///
/// A difference of probabilities sees what a ratio does where the policy is sure, and little else: of
/// tokens it is the trust region `|p - q| <= high` of ROLL with `low = -high`. The distance of the
/// ratio from 1, as the mean over a sequence, is what open-instruct calls total variation.
///
/// A token filter drops tokens, one of segments segments, the others whole sequences. With k1,
/// `sequence_sum` bounds the probability ratio of the sequence and `sequence_mean` its geometric mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// What is judged.
    pub level: FilterLevel,
    /// By which estimate of the mismatch.
    pub estimator: FilterEstimator,
    /// What is kept. Those of a difference may be of either sign.
    pub bounds: Bounds,
}

listed! {
    /// What a [`Filter`] judges.
    FilterLevel {
        /// Each token by its own estimate.
        token: Token,
        /// Each sequence by the sum of its tokens' estimates.
        sequence_sum: SequenceSum,
        /// Each sequence by the mean of its tokens' estimates.
        sequence_mean: SequenceMean,
        /// Each sequence by the largest of its tokens' estimates.
        sequence_max: SequenceMax,
        /// Each segment by the mean of its tokens' estimates.
        segment_mean: SegmentMean,
    }
}

listed! {
    /// The estimate of the mismatch at one token that a [`Filter`] is made of.
    FilterEstimator {
        /// The log-ratio; its bounds are ratios.
        k1: K1,
        /// Half of its square.
        k2: K2,
        /// The estimate that is never negative.
        k3: K3,
        /// The divergence of whether the token is sampled or another, in the direction in which it is
        /// larger.
        bernoulli_kl: BernoulliKl,
        /// How much more probable the token is than when it was sampled.
        difference: Difference,
        /// How far the ratio is from 1.
        ratio_distance: RatioDistance,
    }
}

impl FilterLevel {
    /// Whether its statistic is made of the sum of the estimates over a sequence.
    pub(crate) const fn adds_up(self) -> bool {
        match self {
            Self::SequenceSum | Self::SequenceMean => true,
            Self::Token | Self::SequenceMax | Self::SegmentMean => false,
        }
    }

    /// Whether its statistic is made of the smallest and the largest gap of a sequence.
    pub(crate) const fn needs_extremes(self) -> bool {
        match self {
            Self::SequenceMax => true,
            Self::Token | Self::SequenceSum | Self::SequenceMean | Self::SegmentMean => false,
        }
    }
}

impl FilterEstimator {
    /// The least value of the estimate.
    const fn least(self) -> f64 {
        match self {
            Self::Difference => f64::NEG_INFINITY,
            // Of k1 it is the ratio.
            Self::K1 | Self::K2 | Self::K3 | Self::BernoulliKl | Self::RatioDistance => 0.0,
        }
    }
}

impl Filter {
    /// A filter of any kind.
    #[must_use]
    pub const fn new(level: FilterLevel, estimator: FilterEstimator, bounds: Bounds) -> Self {
        Self {
            level,
            estimator,
            bounds,
        }
    }

    /// Keeps tokens whose ratio lies in `bounds`.
    #[must_use]
    pub const fn token_k1(bounds: Bounds) -> Self {
        Self::new(FilterLevel::Token, FilterEstimator::K1, bounds)
    }

    /// Keeps sequences whose geometric mean of ratios lies in `bounds`.
    #[must_use]
    pub const fn sequence_mean_k1(bounds: Bounds) -> Self {
        Self::new(FilterLevel::SequenceMean, FilterEstimator::K1, bounds)
    }

    /// Keeps sequences whose mean of k3 lies in `bounds`.
    #[must_use]
    pub const fn sequence_mean_k3(bounds: Bounds) -> Self {
        Self::new(FilterLevel::SequenceMean, FilterEstimator::K3, bounds)
    }

    /// The smallest statistic that is kept.
    pub(crate) fn low(&self) -> f64 {
        self.bounds.low.unwrap_or(self.estimator.least())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let fields = sides!("rollout_correction.filters[].bounds");
        match self.estimator {
            FilterEstimator::Difference => self.bounds.validate_of_either_sign(fields),
            FilterEstimator::K1
            | FilterEstimator::K2
            | FilterEstimator::K3
            | FilterEstimator::BernoulliKl
            | FilterEstimator::RatioDistance => self.bounds.validate(fields),
        }
    }
}

/// Any number of [`Filter`]s, all of which must hold. Of one statistic there is one at most: two
/// ranges of the same are their intersection. In JSON it is a list, in which two filters of one
/// statistic are refused.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Filters {
    /// By level and then by estimate.
    bounds: [[Option<Bounds>; FilterEstimator::ALL.len()]; FilterLevel::ALL.len()],
}

impl Filters {
    /// No filter.
    pub const NONE: Self = Self {
        bounds: [[None; FilterEstimator::ALL.len()]; FilterLevel::ALL.len()],
    };

    /// With one more, in the place of an earlier one on the same statistic.
    #[must_use]
    pub const fn and(mut self, filter: Filter) -> Self {
        self.bounds[filter.level as usize][filter.estimator as usize] = Some(filter.bounds);
        self
    }

    /// The bounds of a statistic, if a filter judges by it.
    #[must_use]
    pub const fn get(&self, level: FilterLevel, estimator: FilterEstimator) -> Option<Bounds> {
        self.bounds[level as usize][estimator as usize]
    }

    /// Every filter, by level and then by estimate.
    pub fn iter(&self) -> impl Iterator<Item = Filter> {
        let kinds = FilterLevel::ALL
            .into_iter()
            .flat_map(|level| FilterEstimator::ALL.map(|estimator| (level, estimator)));
        kinds.filter_map(|(level, estimator)| {
            let bounds = self.get(level, estimator)?;
            Some(Filter::new(level, estimator, bounds))
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether one judges segments.
    #[must_use]
    pub fn of_segments(&self) -> bool {
        self.iter()
            .any(|filter| filter.level == FilterLevel::SegmentMean)
    }
}

impl Serialize for Filters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Filters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut filters = Self::NONE;
        for filter in Vec::<Filter>::deserialize(deserializer)? {
            if filters.get(filter.level, filter.estimator).is_some() {
                return Err(serde::de::Error::custom(format!(
                    "two filters have the level \"{}\" and the estimator \"{}\"; accepted: one \
                     range for each pair, such as the intersection of the two",
                    filter.level.name(),
                    filter.estimator.name()
                )));
            }
            filters = filters.and(filter);
        }
        Ok(filters)
    }
}

//! What a token or a sequence has to fulfil to be kept.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::validate_bounds;
use crate::divergence::{expm1_minus_identity, k3_limit};
use crate::valid::Valid;
use crate::{Bounds, ConfigError};

/// A filter of a [`RolloutCorrection`](super::RolloutCorrection): what lies out of its bounds is
/// dropped. With the gap `g = old_log_probs - rollout_log_probs` of a token:
///
/// ```text
/// k1  g, the bounds are those of the ratio: ln(low) <= statistic <= ln(high)
/// k2  g^2 / 2                                low <= statistic <= high
/// k3  expm1(g) - g, g clamped to ±20         low <= statistic <= high
///
/// token          of the token alone
/// sequence_sum   the sum over its sequence
/// sequence_mean  the mean over its sequence
/// sequence_max   the largest of its sequence
/// ```
///
/// Bounds of k1 are compared with `exp(statistic)`, in f32 unless `log_probs` is f64: within
/// `1e-38` and `3e38` there.
///
/// A token filter drops tokens, the others whole sequences. With k1, `sequence_sum` bounds the
/// probability ratio of the sequence and `sequence_mean` its geometric mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// What is judged.
    pub level: FilterLevel,
    /// By which estimate of the mismatch.
    pub estimator: FilterEstimator,
    /// What is kept.
    pub bounds: Bounds,
}

/// What a [`Filter`] judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterLevel {
    /// Each token by its own estimate.
    Token,
    /// Each sequence by the sum of its tokens' estimates.
    SequenceSum,
    /// Each sequence by the mean of its tokens' estimates.
    SequenceMean,
    /// Each sequence by the largest of its tokens' estimates.
    SequenceMax,
}

/// The estimate of the mismatch at one token that a [`Filter`] is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterEstimator {
    /// The log-ratio; its bounds are ratios.
    K1,
    /// Half of its square.
    K2,
    /// The estimate that is never negative.
    K3,
}

impl FilterLevel {
    /// As it is written in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::SequenceSum => "sequence_sum",
            Self::SequenceMean => "sequence_mean",
            Self::SequenceMax => "sequence_max",
        }
    }
}

impl FilterEstimator {
    /// As it is written in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::K1 => "k1",
            Self::K2 => "k2",
            Self::K3 => "k3",
        }
    }
}

const LEVELS: usize = 4;
const ESTIMATORS: usize = 3;

impl Filter {
    /// A filter of any kind.
    pub const fn new(level: FilterLevel, estimator: FilterEstimator, bounds: Bounds) -> Self {
        Self {
            level,
            estimator,
            bounds,
        }
    }

    /// Keeps tokens whose ratio lies in `bounds`.
    pub const fn token_k1(bounds: Bounds) -> Self {
        Self::new(FilterLevel::Token, FilterEstimator::K1, bounds)
    }

    /// Keeps sequences whose geometric mean of ratios lies in `bounds`.
    pub const fn sequence_mean_k1(bounds: Bounds) -> Self {
        Self::new(FilterLevel::SequenceMean, FilterEstimator::K1, bounds)
    }

    /// Keeps sequences whose mean of k3 lies in `bounds`.
    pub const fn sequence_mean_k3(bounds: Bounds) -> Self {
        Self::new(FilterLevel::SequenceMean, FilterEstimator::K3, bounds)
    }

    /// Where it drops, `[B, T]`.
    pub(super) fn rejects(&self, gap: &Tensor<2>, valid: &Valid) -> Tensor<2, Bool> {
        let shape = gap.dims();
        let estimate = match self.estimator {
            FilterEstimator::K1 => gap.clone(),
            FilterEstimator::K2 => gap.clone().square() * 0.5,
            FilterEstimator::K3 => expm1_minus_identity(k3_limit(gap.clone())),
        };
        let statistic = match self.level {
            FilterLevel::Token => estimate,
            FilterLevel::SequenceSum => valid.sum_per_sequence(estimate),
            FilterLevel::SequenceMean => valid.mean_per_sequence(estimate),
            FilterLevel::SequenceMax => valid.max_per_sequence(estimate),
        };
        let kept = match self.estimator {
            // The ratio itself, so that a bound that is met exactly is kept.
            FilterEstimator::K1 => self.bounds.contain(statistic.exp()),
            _ => self.bounds.contain(statistic),
        };
        kept.bool_not().expand(shape)
    }

    const fn index(&self) -> usize {
        self.level as usize * ESTIMATORS + self.estimator as usize
    }

    fn validate(&self) -> Result<(), ConfigError> {
        validate_bounds(
            &self.bounds,
            "rollout_correction.filters[].bounds.low",
            "rollout_correction.filters[].bounds.high",
        )
    }
}

/// Any number of [`Filter`]s, all of which must hold. Of one statistic there is one at most: two
/// ranges of the same are their intersection.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Filters {
    of_each_kind: [Option<Filter>; LEVELS * ESTIMATORS],
}

impl Filters {
    /// No filter.
    pub const NONE: Self = Self {
        of_each_kind: [None; LEVELS * ESTIMATORS],
    };

    /// With one more, in the place of an earlier one on the same statistic.
    pub const fn and(mut self, filter: Filter) -> Self {
        self.of_each_kind[filter.index()] = Some(filter);
        self
    }

    /// Every filter, by level and then by estimate.
    pub fn iter(&self) -> impl Iterator<Item = &Filter> {
        self.of_each_kind.iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.iter().try_for_each(Filter::validate)
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
            if filters.of_each_kind[filter.index()].is_some() {
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

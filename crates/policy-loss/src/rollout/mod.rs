//! The correction for the mismatch between sampler and trainer.

mod filter;
#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
mod kernel;
mod weight;

use burn::tensor::{Bool, Tensor};
pub use filter::{Filter, FilterEstimator, FilterLevel, Filters};
use serde::{Deserialize, Serialize};
pub use weight::{RolloutWeight, Unbounded, WeightLevel, WeightMode};

use crate::config::positive;
use crate::valid::Valid;
use crate::{Bounds, ConfigError};

/// The correction for the mismatch between the policy that sampled and the policy that the update
/// started from. With the gap `g = old_log_probs - rollout_log_probs`, a constant, and
/// `rho = exp(g)`:
///
/// ```text
/// w = weight, normalized to mean 1 if asked for; 1 without one        RolloutWeight
/// w = 0 where a filter's statistic lies out of its bounds             Filter
/// w = 0 for a sequence that holds a token with rho below the veto
/// token_loss = -surrogate * w + ...
/// ```
///
/// The weight multiplies the policy term before a KL penalty or an entropy bonus is added. The
/// denominators of the reduction keep counting what was dropped. A rejected weight is 0 whatever
/// `rho` is.
///
/// ```
/// use policy_loss::{Bounds, Filter, RolloutCorrection, RolloutWeight};
///
/// let correction = RolloutCorrection::weigh(RolloutWeight::truncate(Bounds::at_most(2.0)))
///     .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.01)))
///     .with_veto(1e-4);
/// # assert!(policy_loss::PolicyLossConfig::new().with_rollout_correction(correction).init().is_ok());
/// ```
///
/// As JSON:
///
/// ```json
/// {
///   "weight": { "level": "token", "mode": { "type": "truncate", "high": 2.0 } },
///   "filters": [{ "level": "sequence_mean", "estimator": "k3", "bounds": { "high": 0.01 } }],
///   "veto": 1e-4
/// }
/// ```
///
/// Known by name are [`tis`](Self::tis), [`icepop`](Self::icepop) and
/// [`seq_mask_tis`](Self::seq_mask_tis).
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
}

impl RolloutCorrection {
    /// A weight, and nothing is dropped but what the weight itself drops.
    pub const fn weigh(weight: RolloutWeight) -> Self {
        Self {
            weight: Some(weight),
            normalize: false,
            filters: Filters::NONE,
            veto: None,
        }
    }

    /// A filter without a weight: what is kept weighs 1.
    pub const fn filter(filter: Filter) -> Self {
        Self {
            weight: None,
            normalize: false,
            filters: Filters::NONE.and(filter),
            veto: None,
        }
    }

    /// Adds a filter, in the place of an earlier one on the same statistic.
    pub const fn with_filter(mut self, filter: Filter) -> Self {
        self.filters = self.filters.and(filter);
        self
    }

    /// Divides the weights by their mean over the batch.
    pub const fn with_normalization(mut self) -> Self {
        self.normalize = true;
        self
    }

    /// Drops every sequence that holds a token with `rho` below `floor`.
    pub const fn with_veto(mut self, floor: f64) -> Self {
        self.veto = Some(floor);
        self
    }

    /// The weights of a gap `old - rollout`, `[B, T]`, that is 0 at padding.
    pub(crate) fn weights(&self, gap: Tensor<2>, valid: &Valid) -> Weights {
        let shape = gap.dims();
        let (mut weight, truncated, masked) = match self.weight {
            Some(weight) => weight.of(gap.clone(), valid),
            None => (gap.clone().ones_like(), None, None),
        };
        if let (true, Some(RolloutWeight { level, .. })) = (self.normalize, self.weight) {
            weight = level.normalized(weight, valid);
        }
        let rejections = self
            .filters
            .iter()
            .map(|filter| filter.rejects(&gap, valid));
        let vetoed = self.veto.map(|floor| {
            // rho >= floor, so that a NaN fails; ln is exact enough for a floor.
            let below = gap.clone().greater_equal_elem(floor.ln()).bool_not();
            let any = valid.per_sequence_any(below);
            any.expand(shape)
        });
        let zeroed = masked
            .into_iter()
            .chain(rejections)
            .chain(vetoed)
            .reduce(Tensor::bool_or);
        Weights {
            weight: match &zeroed {
                Some(zeroed) => weight.mask_fill(zeroed.clone(), 0),
                None => weight,
            },
            gap,
            truncated,
            zeroed,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(weight) = self.weight {
            weight.validate()?;
        }
        self.filters.validate()?;
        if let Some(veto) = self.veto {
            positive("rollout_correction.veto", veto)?;
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
            _ => Ok(()),
        }
    }
}

/// The rollout correction of each token, `[B, T]`.
pub(crate) struct Weights {
    /// `w`.
    pub weight: Tensor<2>,
    /// `old - rollout`, 0 at padding.
    pub gap: Tensor<2>,
    /// Where the weight was cut to a bound, for corrections that do so.
    pub truncated: Option<Tensor<2, Bool>>,
    /// Where the weight was set to 0, for corrections that do so.
    pub zeroed: Option<Tensor<2, Bool>>,
}

/// The range of a weight or a filter, checked.
fn validate_bounds(
    bounds: &Bounds,
    low_field: &'static str,
    high_field: &'static str,
) -> Result<(), ConfigError> {
    bounds.validate(low_field, high_field)
}

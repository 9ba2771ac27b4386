//! What to compute: an objective is a value composed of independent parts.
//!
//! These types are the one vocabulary of objectives. The kernels are compiled from them, the plain
//! tensor operations of `policy-loss` read them, and JSON holds them.

pub(crate) mod bounds;
#[doc(hidden)]
pub mod check;
mod entropy_mask;
mod future_weight;
mod off_policy_mask;
mod penalty;
mod ratio;
mod reduction;
pub(crate) mod rollout;
mod surrogate;

pub use bounds::*;
pub use check::ConfigError;
use check::if_given;
pub use entropy_mask::*;
pub use future_weight::*;
pub use off_policy_mask::*;
pub use penalty::*;
pub use ratio::*;
pub use reduction::*;
pub use rollout::*;
pub use surrogate::*;

use serde::{Deserialize, Serialize};

/// A policy loss as a value: independent parts, each with its own numbers.
///
/// ```text
/// token_loss = -surrogate(ratio, A) * mask * weight     Ratio, Surrogate, OffPolicyMask, EntropyMask,
///              + coefficient * kl                       FutureWeight, RolloutCorrection, KlPenalty,
///              - coefficient * entropy                  EntropyBonus,
/// loss       = reduce(token_loss)                       Reduction
/// ```
///
/// Every part has a default; together the defaults are PPO with a clip range of
/// `[0.8, 1.2]` and a token mean ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
///
/// As JSON, fields that are left out take their default, and unknown ones are refused:
///
/// ```
/// let objective: policy_loss_kernels::objective::Objective = serde_json::from_str(
///     r#"{
///         "ratio": { "level": "token", "against": "old" },
///         "surrogate": { "clip": { "low": 0.2, "high": 0.28 } },
///         "off_policy_mask": { "delta": 0.0001 },
///         "rollout_correction": { "weight": { "mode": { "truncate": { "high": 2.0 } } } },
///         "kl_penalty": { "coefficient": 0.001, "estimator": "k3" },
///         "entropy_bonus": { "coefficient": 0.01 },
///         "reduction": "token_mean"
///     }"#,
/// )?;
/// objective.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Objective {
    /// The probability ratio between the trained policy and the policy of the data.
    pub ratio: Ratio,
    /// The surrogate objective that is built from the ratio and the advantage.
    pub surrogate: Surrogate,
    /// Drops sequences that the policy has moved too far away from, if set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_policy_mask: Option<OffPolicyMask>,
    /// Drops tokens at which the policy hardly has a choice, if set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_mask: Option<EntropyMask>,
    /// The weight of a token by the log-ratios of it and of those that follow, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub future_weight: Option<FutureWeight>,
    /// The weight that corrects for the mismatch between sampler and trainer, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_correction: Option<RolloutCorrection>,
    /// What becomes of valid tokens whose `rollout_log_probs` is NaN: the sampler gave none.
    #[serde(skip_serializing_if = "MissingRolloutLogProbs::is_default")]
    pub missing_rollout_log_probs: MissingRolloutLogProbs,
    /// The penalty for moving away from a reference policy, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_penalty: Option<KlPenalty>,
    /// The reward for keeping the policy undecided, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_bonus: Option<EntropyBonus>,
    /// How token losses become one number.
    pub reduction: Reduction,
}

impl Objective {
    /// Checks every number, and that the parts have a meaning together.
    ///
    /// # Errors
    ///
    /// A number out of its range, or parts that have no meaning together: a rollout correction on
    /// a ratio that is already taken against the rollout policy, a ratio of a sequence in a
    /// surrogate that is made of token ratios, two bounds for the same thing. The error names the
    /// field, the value and what would be accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.surrogate.validate(self.ratio)?;
        if_given(self.off_policy_mask, OffPolicyMask::check_numbers)?;
        if_given(self.entropy_mask, EntropyMask::check_numbers)?;
        if_given(self.future_weight, FutureWeight::validate)?;
        if_given(self.kl_penalty, KlPenalty::validate)?;
        if_given(self.entropy_bonus, EntropyBonus::validate)?;
        self.reduction.validate()?;
        if !self.missing_rollout_log_probs.is_default() && !self.reads_rollout() {
            return Err(ConfigError::Missing {
                field: "rollout_correction",
                needed_by: "`missing_rollout_log_probs`",
                accepted: "a part that reads `rollout_log_probs` (`rollout_correction`, \
                           `ratio.against = rollout`, `kl_penalty.against = rollout`), or leave \
                           `missing_rollout_log_probs` out",
            });
        }
        let Some(correction) = self.rollout_correction else {
            return Ok(());
        };
        correction.validate()?;
        match self.ratio.against {
            Behavior::Old => Ok(()),
            Behavior::Rollout => Err(ConfigError::Combination {
                first: "ratio.against = rollout",
                second: "rollout_correction",
                reason: "the ratio already holds the whole mismatch between sampler and trainer, \
                         a weight would count it twice; take the ratio against `old`, or leave \
                         `rollout_correction` out",
            }),
        }
    }

    /// Whether the shards of a batch add up to the undivided batch, given its global totals, its entropy
    /// threshold where there is an entropy mask, and its second moment's limit where the surrogate has
    /// one. Every objective has this property but those with a statistic of the batch at hand:
    /// normalized rollout weights, and the surrogates of high covariance.
    #[must_use]
    pub fn is_exact_over_shards(&self) -> bool {
        let normalizes = |correction: RolloutCorrection| correction.normalize;
        (self.surrogate.scope() != SurrogateScope::Batch || self.surrogate.reads_second_moment())
            && !self.rollout_correction.is_some_and(normalizes)
    }

    /// Whether no token's gradient depends on the log-prob of another token. Then gradients can be
    /// made for some tokens before the log-probs of the others are known.
    #[must_use]
    pub fn decomposes_over_tokens(&self) -> bool {
        // Every part by name, so that a new one has to be thought about here.
        let Self {
            ratio,
            surrogate,
            off_policy_mask,
            // The entropies of all tokens have to be known first.
            entropy_mask,
            // A weight takes the log-ratios behind the token.
            future_weight,
            // Weights are made of constants; so are the counts of a reduction.
            rollout_correction: _,
            // Decided for each token by itself.
            missing_rollout_log_probs: _,
            // A divergence of each token.
            kl_penalty: _,
            // It has a gradient of its own, which this way does not make.
            entropy_bonus,
            reduction: _,
        } = self;
        ratio.level == RatioLevel::Token
            && surrogate.scope() == SurrogateScope::Token
            && off_policy_mask.is_none()
            && entropy_mask.is_none()
            && future_weight.is_none()
            && entropy_bonus.is_none()
    }

    /// Whether the log-probs of the policy that sampled take part.
    #[must_use]
    pub fn reads_rollout(&self) -> bool {
        let penalized = |penalty: KlPenalty| penalty.against == KlBase::Rollout;
        self.corrects_mismatch() || self.kl_penalty.is_some_and(penalized)
    }

    /// Whether the entropies of the policy's token distributions take part.
    #[must_use]
    pub fn reads_entropies(&self) -> bool {
        self.entropy_mask.is_some() || self.entropy_bonus.is_some()
    }

    /// Whether the segments of a sequence take part.
    #[must_use]
    pub fn reads_segments(&self) -> bool {
        let judges = |correction: RolloutCorrection| correction.filters.of_segments();
        self.ratio.level == RatioLevel::Segment || self.rollout_correction.is_some_and(judges)
    }

    /// The part that the fused kernels do not have, if there is one.
    #[must_use]
    pub fn part_without_kernel(&self) -> Option<&'static str> {
        match self.surrogate.kind() {
            Some(_) => None,
            None => Some("surrogate"),
        }
    }

    /// Whether the mismatch between sampler and trainer is corrected, by the ratio or by a weight.
    #[must_use]
    pub fn corrects_mismatch(&self) -> bool {
        self.ratio.against == Behavior::Rollout || self.rollout_correction.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    fn refusal(objective: Value) -> String {
        let read = from_value::<Objective>(objective).expect("it can be read");
        read.validate().expect_err("it has no meaning").to_string()
    }

    #[test]
    fn a_surrogate_is_called_in_json_as_its_name_says() {
        for surrogate in Surrogate::defaults() {
            let json = to_value(surrogate).expect("plain data");
            let keys: Vec<_> = json.as_object().expect("one key").keys().collect();
            assert_eq!(keys, [surrogate.name()]);
            assert_eq!(
                from_value::<Surrogate>(json).expect("reads back"),
                surrogate
            );
        }
    }

    #[test]
    fn a_reduction_is_called_in_json_as_its_name_says() {
        for reduction in Reduction::all(5) {
            let name = match to_value(reduction).expect("plain data") {
                Value::String(name) => name,
                json => json.as_object().expect("one key").keys().cloned().collect(),
            };
            assert_eq!(name, reduction.name());
        }
    }

    #[test]
    fn the_surrogates_of_a_batch_have_no_kernels() {
        for surrogate in Surrogate::defaults() {
            let of_batch = surrogate.scope() == SurrogateScope::Batch;
            let has_kernel = surrogate.kind().is_some();
            assert!(!(of_batch && has_kernel), "{}", surrogate.name());
        }
    }

    #[test]
    fn two_filters_of_one_statistic_are_refused() {
        let filter = json!({ "level": "token", "estimator": "k1", "bounds": { "high": 2.0 } });
        let objective = json!({ "rollout_correction": { "filters": [filter, filter] } });
        let error = from_value::<Objective>(objective).expect_err("two of one kind");
        let error = error.to_string();
        assert!(
            error.contains("\"token\"") && error.contains("\"k1\""),
            "{error}"
        );
    }

    #[test]
    fn errors_name_the_path_of_json() {
        for (objective, path) in [
            (
                json!({ "surrogate": { "policy_gradient": { "weight": { "ratio": {} } } } }),
                "`surrogate.policy_gradient.weight.ratio.high`",
            ),
            (
                json!({ "rollout_correction": {
                    "weight": { "mode": { "truncate": { "low": -1.0 } } }
                } }),
                "`rollout_correction.weight.mode.truncate.low`",
            ),
        ] {
            let error = refusal(objective);
            assert!(error.contains(path), "{error}");
        }
    }
}

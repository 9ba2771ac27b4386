//! What to compute: an objective is a value composed of independent parts.

use burn::config::Config;
use serde::{Deserialize, Serialize};

use crate::{
    Behavior, ConfigError, EntropyBonus, Implementation, KlPenalty, OffPolicyMask, PolicyLoss,
    Ratio, Reduction, RolloutCorrection, Surrogate,
};

/// Configuration of a [`PolicyLoss`].
///
/// An objective is composed of independent parts, each with its own fields:
///
/// ```text
/// token_loss = -surrogate(ratio, A) * mask * weight     Ratio, Surrogate, OffPolicyMask,
///              + coefficient * kl                       RolloutCorrection, KlPenalty,
///              - coefficient * entropy                  EntropyBonus,
/// loss       = reduce(token_loss)                       Reduction
/// ```
///
/// Every part has a default; together the defaults are PPO with a clip range of
/// `[0.8, 1.2]` and a token mean ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
///
/// ```
/// use policy_loss::{Clip, KlPenalty, PolicyLossConfig, Reduction};
///
/// let loss = PolicyLossConfig::new()
///     .with_surrogate(Clip::new(0.2, 0.28).with_dual_clip(3.0))
///     .with_kl_penalty(KlPenalty::new(1e-3))
///     .with_reduction(Reduction::SequenceMean)
///     .init()?;
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
///
/// As JSON (fields that are left out take their default, unknown ones are refused):
///
/// ```
/// # use policy_loss::PolicyLossConfig;
/// let config: PolicyLossConfig = serde_json::from_str(
///     r#"{
///         "ratio": { "level": "token", "against": "old" },
///         "surrogate": { "type": "clip", "low": 0.2, "high": 0.28 },
///         "rollout_correction": {
///             "weight": { "mode": { "type": "truncate", "low": 0.5, "high": 5.0 } }
///         },
///         "kl_penalty": { "coefficient": 0.001, "estimator": "k3" },
///         "reduction": "token_mean"
///     }"#,
/// )?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PolicyLossConfig {
    /// The probability ratio between the trained policy and the policy of the data.
    pub ratio: Ratio,
    /// The surrogate objective that is built from the ratio and the advantage.
    pub surrogate: Surrogate,
    /// Drops sequences that the policy has moved too far away from, if set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_policy_mask: Option<OffPolicyMask>,
    /// The weight that corrects for the mismatch between sampler and trainer, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_correction: Option<RolloutCorrection>,
    /// The penalty for moving away from a reference policy, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_penalty: Option<KlPenalty>,
    /// The reward for keeping the policy undecided, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_bonus: Option<EntropyBonus>,
    /// How token losses become one number.
    pub reduction: Reduction,
    /// How it is computed; the results agree.
    pub implementation: Implementation,
}

impl Config for PolicyLossConfig {}

impl PolicyLossConfig {
    /// PPO with a clip range of `[0.8, 1.2]` and a token mean.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the probability ratio.
    pub fn with_ratio(mut self, ratio: Ratio) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets the surrogate objective.
    pub fn with_surrogate(mut self, surrogate: impl Into<Surrogate>) -> Self {
        self.surrogate = surrogate.into();
        self
    }

    /// Sets which sequences are dropped because the policy has moved away from them.
    pub fn with_off_policy_mask(mut self, mask: impl Into<Option<OffPolicyMask>>) -> Self {
        self.off_policy_mask = mask.into();
        self
    }

    /// Sets the correction for the mismatch between sampler and trainer.
    pub fn with_rollout_correction(
        mut self,
        rollout_correction: impl Into<Option<RolloutCorrection>>,
    ) -> Self {
        self.rollout_correction = rollout_correction.into();
        self
    }

    /// Sets the penalty for moving away from a reference policy.
    pub fn with_kl_penalty(mut self, kl_penalty: impl Into<Option<KlPenalty>>) -> Self {
        self.kl_penalty = kl_penalty.into();
        self
    }

    /// Sets the reward for keeping the policy undecided.
    pub fn with_entropy_bonus(mut self, entropy_bonus: impl Into<Option<EntropyBonus>>) -> Self {
        self.entropy_bonus = entropy_bonus.into();
        self
    }

    /// Sets how token losses become one number.
    pub fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Sets how the loss is computed.
    pub fn with_implementation(mut self, implementation: Implementation) -> Self {
        self.implementation = implementation;
        self
    }

    /// Whether the shards of a batch add up to the undivided batch, given
    /// [`GlobalTotals`](crate::GlobalTotals). Every objective has this property but those with a
    /// statistic of the batch at hand: normalized rollout weights, and the surrogates of high
    /// covariance.
    pub fn is_exact_over_shards(&self) -> bool {
        let normalizes = |correction: RolloutCorrection| correction.normalize;
        self.surrogate.is_local() && !self.rollout_correction.is_some_and(normalizes)
    }

    /// Checks the configuration and builds the loss.
    ///
    /// # Errors
    ///
    /// A number out of its range, or parts that have no meaning together: a rollout correction on
    /// a ratio that is already taken against the rollout policy, a ratio of a sequence in a
    /// surrogate that is made of token ratios, two bounds for the same thing. The error names the
    /// field, the value and what would be accepted.
    pub fn init(&self) -> Result<PolicyLoss, ConfigError> {
        self.validate()?;
        Ok(PolicyLoss::from_valid(*self))
    }

    /// Checks the configuration without building anything; [`init`](Self::init) does the same.
    ///
    /// # Errors
    ///
    /// As [`init`](Self::init).
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.surrogate.validate(self.ratio)?;
        if let Some(mask) = self.off_policy_mask {
            mask.validate()?;
        }
        if let Some(penalty) = self.kl_penalty {
            penalty.validate()?;
        }
        if let Some(bonus) = self.entropy_bonus {
            bonus.validate()?;
        }
        self.reduction.validate()?;
        let Some(correction) = self.rollout_correction else {
            return Ok(());
        };
        correction.validate()?;
        if self.ratio.against == Behavior::Rollout {
            return Err(ConfigError::Combination {
                first: "ratio.against = rollout",
                second: "rollout_correction",
                reason: "the ratio already holds the whole mismatch between sampler and trainer, \
                         a weight would count it twice; take the ratio against `old`, or leave \
                         `rollout_correction` out",
            });
        }
        Ok(())
    }
}

impl PolicyLossConfig {
    /// Whether no token's gradient depends on the log-prob of another token. Then gradients can be
    /// made for some tokens before the log-probs of the others are known.
    #[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
    pub(crate) fn decomposes_over_tokens(&self) -> bool {
        // Every part by name, so that a new one has to be thought about here.
        let Self {
            ratio,
            surrogate,
            off_policy_mask,
            // Weights are made of constants; so are the counts of a reduction.
            rollout_correction: _,
            // A divergence of each token.
            kl_penalty: _,
            // It has a gradient of its own, which this way does not make.
            entropy_bonus,
            reduction: _,
            implementation: _,
        } = self;
        let ratio_is_of_tokens = match ratio.level {
            crate::RatioLevel::Token => true,
            crate::RatioLevel::Sequence
            | crate::RatioLevel::SequenceToken
            | crate::RatioLevel::SequenceSum => false,
        };
        ratio_is_of_tokens
            && surrogate.is_of_tokens()
            && off_policy_mask.is_none()
            && entropy_bonus.is_none()
    }
}

/// A bound: finite and above 0.
pub(crate) fn positive(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        accepted: "a finite number above 0",
    })
}

/// A dual clip: finite and above 1, or none.
pub(crate) fn above_one(field: &'static str, value: Option<f64>) -> Result<(), ConfigError> {
    match value {
        Some(value) if !(value.is_finite() && value > 1.0) => Err(ConfigError::OutOfRange {
            field,
            value: value.to_string(),
            accepted: "a finite number above 1, or none",
        }),
        _ => Ok(()),
    }
}

/// A coefficient: finite, 0 or above.
pub(crate) fn not_negative(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        accepted: "a finite number, 0 or above",
    })
}

/// A share: above 0, and 1 at most.
pub(crate) fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value > 0.0 && value <= 1.0 {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        accepted: "a number above 0, 1 at most",
    })
}

//! The configuration of a policy loss: an objective, and how it is computed.

use burn::config::Config;
use serde::{Deserialize, Serialize};

use crate::{
    ConfigError, EntropyBonus, EntropyMask, FutureWeight, Implementation, KlPenalty,
    MissingRolloutLogProbs, Objective, OffPolicyMask, PolicyLoss, Ratio, Reduction,
    RolloutCorrection, Surrogate,
};

/// Configuration of a [`PolicyLoss`]: an [`Objective`], and how it is computed.
///
/// The parts of an objective are independent of each other, and every part has a default; together
/// the defaults are PPO with a clip range of `[0.8, 1.2]` and a token mean
/// ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
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
/// As JSON it is the objective alone (fields that are left out take their default, unknown ones are
/// refused): how a loss is computed does not change what it is.
///
/// ```
/// # use policy_loss::PolicyLossConfig;
/// let config: PolicyLossConfig = serde_json::from_str(
///     r#"{
///         "ratio": { "level": "token", "against": "old" },
///         "surrogate": { "clip": { "low": 0.2, "high": 0.28 } },
///         "rollout_correction": {
///             "weight": { "mode": { "truncate": { "low": 0.5, "high": 5.0 } } }
///         },
///         "kl_penalty": { "coefficient": 0.001, "estimator": "k3" },
///         "reduction": "token_mean"
///     }"#,
/// )?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[non_exhaustive]
pub struct PolicyLossConfig {
    /// What is computed.
    pub objective: Objective,
    /// How it is computed; the results agree. No part of the objective: JSON does not hold it.
    #[serde(skip)]
    pub implementation: Implementation,
}

impl From<Objective> for PolicyLossConfig {
    fn from(objective: Objective) -> Self {
        Self {
            objective,
            implementation: Implementation::default(),
        }
    }
}

impl Config for PolicyLossConfig {}

impl PolicyLossConfig {
    /// PPO with a clip range of `[0.8, 1.2]` and a token mean.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets the probability ratio.
        with_ratio(ratio: Ratio) of objective;
        /// Sets the surrogate objective.
        with_surrogate(surrogate: impl Into<Surrogate>) of objective;
        /// Sets which sequences are dropped because the policy has moved away from them.
        with_off_policy_mask(off_policy_mask: impl Into<Option<OffPolicyMask>>) of objective;
        /// Sets which tokens are dropped because the policy hardly has a choice there.
        with_entropy_mask(entropy_mask: impl Into<Option<EntropyMask>>) of objective;
        /// Sets the weight of tokens by the log-ratios of them and of those that follow.
        with_future_weight(future_weight: impl Into<Option<FutureWeight>>) of objective;
        /// Sets the correction for the mismatch between sampler and trainer.
        with_rollout_correction(rollout_correction: impl Into<Option<RolloutCorrection>>) of objective;
        /// Sets what becomes of valid tokens for which the sampler gave no log-prob, but NaN.
        with_missing_rollout_log_probs(missing_rollout_log_probs: MissingRolloutLogProbs) of objective;
        /// Sets the penalty for moving away from a reference policy.
        with_kl_penalty(kl_penalty: impl Into<Option<KlPenalty>>) of objective;
        /// Sets the reward for keeping the policy undecided.
        with_entropy_bonus(entropy_bonus: impl Into<Option<EntropyBonus>>) of objective;
        /// Sets how token losses become one number.
        with_reduction(reduction: Reduction) of objective;
        /// Sets how the loss is computed.
        with_implementation(implementation: Implementation);
    }

    /// Checks the configuration and builds the loss.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self) -> Result<PolicyLoss, ConfigError> {
        self.validate()?;
        Ok(PolicyLoss::from_valid(*self))
    }

    /// Checks the configuration without building anything.
    ///
    /// # Errors
    ///
    /// As [`Objective::validate`]: a number out of its range, or parts that have no meaning
    /// together. The error names the field, the value and what would be accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.objective.validate()
    }
}

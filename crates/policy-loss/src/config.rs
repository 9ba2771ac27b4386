//! What to compute: an objective is a value composed of independent parts.

use burn::config::Config;
use serde::{Deserialize, Serialize};

use crate::{
    Behavior, ConfigError, Implementation, PolicyLoss, Ratio, Reduction, RolloutCorrection,
    Surrogate,
};

/// Configuration of a [`PolicyLoss`].
///
/// Every part has a default; together the defaults are PPO with a clip range of
/// `[0.8, 1.2]` and a token mean ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
///
/// ```
/// use policy_loss::{Clip, PolicyLossConfig, Reduction};
///
/// let loss = PolicyLossConfig::new()
///     .with_surrogate(Clip::new(0.2, 0.28).with_dual_clip(3.0))
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
///         "rollout_correction": { "type": "truncate", "low": 0.5, "high": 5.0 },
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
    /// The weight that corrects for the mismatch between sampler and trainer, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_correction: Option<RolloutCorrection>,
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

    /// Sets the correction for the mismatch between sampler and trainer.
    pub fn with_rollout_correction(
        mut self,
        rollout_correction: impl Into<Option<RolloutCorrection>>,
    ) -> Self {
        self.rollout_correction = rollout_correction.into();
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

    /// Checks the configuration and builds the loss.
    ///
    /// # Errors
    ///
    /// A bound that is not finite or not above 0, `low` above `high`, a `dual_clip` that is not
    /// above 1, or a rollout correction on a ratio that is already taken against the rollout
    /// policy. The error names the field, the value and what would be accepted.
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
        self.surrogate.validate()?;
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
    #[cfg(any(
        feature = "flex",
        feature = "ndarray",
        feature = "wgpu",
        feature = "cuda"
    ))]
    pub(crate) fn decomposes_over_tokens(&self) -> bool {
        // Every part by name, so that a new one has to be thought about here.
        let Self {
            ratio,
            surrogate: Surrogate::Clip(_),
            // Weights are made of constants; so are the counts of a reduction.
            rollout_correction: _,
            reduction: Reduction::TokenMean | Reduction::SequenceMean,
            implementation: _,
        } = self;
        match ratio.level {
            crate::RatioLevel::Token => true,
            crate::RatioLevel::Sequence => false,
        }
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

/// A range `[low, high]` of positive numbers.
pub(crate) fn ordered(
    low_field: &'static str,
    high_field: &'static str,
    (low, high): (f64, f64),
) -> Result<(), ConfigError> {
    positive(low_field, low)?;
    positive(high_field, high)?;
    if low <= high {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field: low_field,
        value: format!("{low}, above `{high_field}` = {high}"),
        accepted: "low <= high",
    })
}

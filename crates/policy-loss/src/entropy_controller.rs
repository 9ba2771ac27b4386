//! How much entropy is worth, from step to step.

use policy_loss_kernels::objective::check::{not_negative, positive, require};
use serde::{Deserialize, Serialize};

use crate::{BatchError, ConfigError};

/// Configuration of an [`EntropyController`], which keeps the entropy of the policy from falling
/// below a target:
///
/// ```text
/// applied     = coefficient, where the last step's mean entropy <= target; else 0
/// coefficient = min(coefficient + delta, maximum)     after a step with mean entropy <= target
///               max(coefficient - delta, minimum)     after any other
/// ```
///
/// Before the first step nothing is known of the entropy, and nothing is applied.
///
/// ```
/// use policy_loss::{EntropyBonus, EntropyControllerConfig, Preset};
///
/// let mut controller = EntropyControllerConfig::new(0.2).init()?;
/// let config = Preset::Grpo.config();
/// for mean_entropy in [0.15, 0.1, 0.3] {
///     let bonus = EntropyBonus::new(controller.coefficient());
///     let loss = config.with_entropy_bonus(bonus).init()?;
///     // ... one step, which observes a mean entropy over all valid tokens:
///     controller.update(mean_entropy)?;
/// }
/// assert_eq!(controller.coefficient(), 0.0); // the entropy is high enough
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As JSON (fields that are left out take their default, unknown ones are refused):
///
/// ```
/// # use policy_loss::EntropyControllerConfig;
/// let config: EntropyControllerConfig = serde_json::from_str(r#"{ "target": 0.4 }"#)?;
/// assert_eq!(config, EntropyControllerConfig::new(0.4));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// Paper: [arXiv 2505.22312](https://arxiv.org/abs/2505.22312), as TRL computes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyControllerConfig {
    /// The mean entropy to keep, in nats. Finite, 0 or above.
    pub target: f64,
    /// How far one step moves the coefficient. Finite and above 0.
    pub delta: f64,
    /// The coefficient to begin with. From `minimum` to `maximum`.
    pub initial: f64,
    /// The least coefficient. Finite, 0 or above.
    pub minimum: f64,
    /// The largest coefficient. Finite, `minimum` or above.
    pub maximum: f64,
    /// The mean entropy of the step before, where there was one: what a checkpoint continues from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_entropy: Option<f64>,
}

impl Default for EntropyControllerConfig {
    fn default() -> Self {
        Self::new(0.2)
    }
}

impl EntropyControllerConfig {
    /// With this target: from 0 on in steps of 0.005, up to 1.
    #[must_use]
    pub const fn new(target: f64) -> Self {
        Self {
            target,
            delta: 0.005,
            initial: 0.0,
            minimum: 0.0,
            maximum: 1.0,
            last_entropy: None,
        }
    }

    /// Sets how far one step moves the coefficient.
    #[must_use]
    pub const fn with_delta(mut self, delta: f64) -> Self {
        self.delta = delta;
        self
    }

    /// Sets the coefficient to begin with.
    #[must_use]
    pub const fn with_initial(mut self, initial: f64) -> Self {
        self.initial = initial;
        self
    }

    /// Sets the least and the largest coefficient.
    #[must_use]
    pub const fn with_limits(mut self, minimum: f64, maximum: f64) -> Self {
        self.minimum = minimum;
        self.maximum = maximum;
        self
    }

    /// Checks the configuration and builds the controller.
    ///
    /// # Errors
    ///
    /// A number outside its range: the error names the field, the value and what would be accepted.
    pub fn init(&self) -> Result<EntropyController, ConfigError> {
        not_negative("target", self.target)?;
        positive("delta", self.delta)?;
        not_negative("minimum", self.minimum)?;
        require(
            self.maximum.is_finite() && self.maximum >= self.minimum,
            "maximum",
            self.maximum,
            "a finite number, `minimum` or above",
        )?;
        require(
            (self.minimum..=self.maximum).contains(&self.initial),
            "initial",
            self.initial,
            "a number from `minimum` to `maximum`",
        )?;
        let last = self.last_entropy.unwrap_or(0.0);
        require(
            last.is_finite(),
            "last_entropy",
            last,
            "a finite number, or none",
        )?;
        Ok(EntropyController { config: *self })
    }
}

/// The coefficient of the entropy bonus, on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyController {
    /// With the coefficient as it is now.
    config: EntropyControllerConfig,
}

impl EntropyController {
    /// The coefficient to apply in the coming step: 0 while the entropy is above the target.
    pub fn coefficient(&self) -> f64 {
        match self.config.last_entropy {
            Some(last) if last <= self.config.target => self.config.initial,
            _ => 0.0,
        }
    }

    /// A configuration that continues from here: what a checkpoint keeps. Its `initial` is the
    /// coefficient as it is now, applied or not.
    pub fn config(&self) -> &EntropyControllerConfig {
        &self.config
    }

    /// Adapts the coefficient to the mean entropy over all valid tokens of the step.
    ///
    /// # Errors
    ///
    /// An entropy that is not finite. The coefficient is then left as it was.
    pub fn update(&mut self, mean_entropy: f64) -> Result<(), BatchError> {
        if !mean_entropy.is_finite() {
            return Err(BatchError::OutOfRange {
                field: "mean_entropy",
                value: mean_entropy.to_string(),
                accepted: "a finite number".into(),
            });
        }
        let config = &mut self.config;
        config.initial = match mean_entropy <= config.target {
            true => (config.initial + config.delta).min(config.maximum),
            false => (config.initial - config.delta).max(config.minimum),
        };
        // What f32 does not hold is not accepted where a checkpoint is read.
        config.last_entropy = Some(match mean_entropy.abs() < f64::from(f32::MIN_POSITIVE) {
            true => 0.0,
            false => mean_entropy,
        });
        Ok(())
    }
}

//! How much the distance to the reference policy costs, from step to step.

use policy_loss_kernels::objective::check::{not_negative, positive};
use serde::{Deserialize, Serialize};

use crate::{BatchError, ConfigError};

/// The largest relative error that one update reacts to.
const ERROR_LIMIT: f64 = 0.2;

/// Configuration of a [`KlController`].
///
/// ```
/// use policy_loss::KlControllerConfig;
///
/// let mut controller = KlControllerConfig::adaptive(0.2, 6.0, 10_000.0).init()?;
/// controller.update(12.0, 256)?; // twice the target: the coefficient grows
/// assert!(controller.coefficient() > 0.2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As JSON, unknown fields are refused:
///
/// ```
/// # use policy_loss::KlControllerConfig;
/// let config: KlControllerConfig = serde_json::from_str(
///     r#"{ "adaptive": { "initial": 0.2, "target": 6.0, "horizon": 10000.0 } }"#,
/// )?;
/// assert_eq!(config, KlControllerConfig::adaptive(0.2, 6.0, 10_000.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum KlControllerConfig {
    /// The same coefficient all the time.
    Fixed {
        /// The coefficient. Finite and not below 0.
        coefficient: f64,
    },
    /// A coefficient that follows the observed KL
    /// ([arXiv 1909.08593](https://arxiv.org/abs/1909.08593), section 2.2):
    ///
    /// ```text
    /// error        = clamp(kl / target - 1, -0.2, 0.2)
    /// coefficient *= 1 + error * steps / horizon
    /// ```
    Adaptive {
        /// The coefficient to begin with. Finite and above 0.
        initial: f64,
        /// The KL to keep, in whatever unit is observed. Finite and above 0.
        target: f64,
        /// Over how many steps the coefficient adapts. Finite and above 0.
        horizon: f64,
    },
}

impl KlControllerConfig {
    /// The same coefficient all the time.
    pub const fn fixed(coefficient: f64) -> Self {
        Self::Fixed { coefficient }
    }

    /// A coefficient that follows the observed KL.
    pub const fn adaptive(initial: f64, target: f64, horizon: f64) -> Self {
        Self::Adaptive {
            initial,
            target,
            horizon,
        }
    }

    /// Checks the configuration and builds the controller.
    ///
    /// # Errors
    ///
    /// A number outside its range: the error names the field, the value and what would be accepted.
    pub fn init(&self) -> Result<KlController, ConfigError> {
        match *self {
            Self::Fixed { coefficient } => not_negative("fixed.coefficient", coefficient)?,
            Self::Adaptive {
                initial,
                target,
                horizon,
            } => {
                positive("adaptive.initial", initial)?;
                positive("adaptive.target", target)?;
                positive("adaptive.horizon", horizon)?;
            }
        }
        Ok(KlController { config: *self })
    }
}

/// The coefficient of the KL in the reward, on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlController {
    /// With the coefficient as it is now.
    config: KlControllerConfig,
}

impl KlController {
    /// The coefficient as it is now.
    pub fn coefficient(&self) -> f64 {
        match self.config {
            KlControllerConfig::Fixed { coefficient } => coefficient,
            KlControllerConfig::Adaptive { initial, .. } => initial,
        }
    }

    /// A configuration that continues from here: what a checkpoint keeps.
    pub fn config(&self) -> &KlControllerConfig {
        &self.config
    }

    /// Adapts the coefficient to the mean KL of the last `steps` sequences. A fixed one stays as it
    /// is, but what is observed is checked all the same.
    ///
    /// # Errors
    ///
    /// A KL that is not finite, and so many steps that the coefficient could drop to 0 or below:
    /// 5 times the horizon or more. The coefficient is then left as it was.
    pub fn update(&mut self, kl: f64, steps: usize) -> Result<(), BatchError> {
        let refused = |field, value: String, accepted| {
            Err(BatchError::OutOfRange {
                field,
                value,
                accepted,
            })
        };
        if !kl.is_finite() {
            return refused("kl", kl.to_string(), "a finite number".into());
        }
        let KlControllerConfig::Adaptive {
            initial,
            target,
            horizon,
        } = &mut self.config
        else {
            return Ok(());
        };
        let limit = *horizon / ERROR_LIMIT;
        let passed = steps as f64;
        if passed >= limit {
            let accepted = format!("fewer than {limit}, 5 times the horizon");
            return refused("steps", steps.to_string(), accepted);
        }
        let error = (kl / *target - 1.0).clamp(-ERROR_LIMIT, ERROR_LIMIT);
        // Held where f32 holds it, or it could not move again, nor go on from a checkpoint.
        *initial = (*initial * (1.0 + error * passed / *horizon))
            .clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX));
        Ok(())
    }
}

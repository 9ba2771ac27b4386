//! The policy gradient with a squared log-ratio as its penalty.

use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens};
use crate::ConfigError;
use crate::config::positive;

/// The policy gradient with a squared log-ratio that keeps the policy near the base of the ratio:
///
/// ```text
/// surrogate = A * log_probs - coefficient / 2 * d^2
/// ```
///
/// Gradient: `A - coefficient * d`. The penalty is part of the policy term: a rollout correction
/// weighs it, which is what tells it from a KL penalty of k2. Kimi k1.5 calls the coefficient
/// `tau`, DRO `beta`; their objectives are the same. Default: 0.1.
///
/// Papers: Kimi k1.5 [arXiv 2501.12599](https://arxiv.org/abs/2501.12599), DRO
/// [arXiv 2405.19107](https://arxiv.org/abs/2405.19107). Used by ROLL and verl.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SquaredLogRatio {
    /// What half of the squared log-ratio is multiplied by. Finite and above 0.
    pub coefficient: f64,
}

impl Default for SquaredLogRatio {
    fn default() -> Self {
        Self { coefficient: 0.1 }
    }
}

impl Formula for SquaredLogRatio {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let penalty = tokens.log_ratio.clone().square() * (self.coefficient / 2.0);
        Surrogated {
            surrogate: tokens.log_probs.clone() * tokens.advantages.clone() - penalty,
            clipped: tokens.nowhere(),
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.coefficient", self.coefficient)
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::SquaredLogRatio {
            coefficient: self.coefficient,
        })
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some("this surrogate is made of each token's own log-ratio; use `ratio.level = token`")
    }
}

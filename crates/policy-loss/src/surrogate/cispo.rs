//! Clipped importance weights as constants.

use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens, WEIGHS_LOG_PROBS, cut, weighted_log_probs};
use crate::{Bounds, ConfigError};

/// The surrogate of CISPO: a policy gradient whose importance weight is clipped and constant, so
/// that no token loses its gradient:
///
/// ```text
/// surrogate = sg(clamp(r, min, max)) * A * log_probs
/// ```
///
/// Gradient: `clamp(r, min, max) * A`. `min` and `max` bound the ratio itself, not its distance
/// from 1; TRL and Liger-Kernel call `max` `epsilon_high`. A token counts as clipped where the
/// weight was cut. Default: no `min`, `max` 5.
///
/// Paper: MiniMax-M1, [arXiv 2506.13585](https://arxiv.org/abs/2506.13585). Used by TRL, verl,
/// Liger-Kernel, slime, NeMo-RL, ROLL and SkyRL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cispo {
    /// Smallest weight. Finite and above 0, or left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest weight. Finite, above 0 and not below `min`.
    pub max: f64,
}

impl Default for Cispo {
    fn default() -> Self {
        Self::new(5.0)
    }
}

impl Cispo {
    /// Weights of `max` at most.
    pub const fn new(max: f64) -> Self {
        Self { min: None, max }
    }

    /// And of `min` at least.
    pub const fn with_min(mut self, min: f64) -> Self {
        self.min = Some(min);
        self
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            low: self.min,
            high: Some(self.max),
        }
    }
}

impl Formula for Cispo {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let ratio = tokens.constant_ratio();
        let bounds = self.bounds();
        Surrogated {
            surrogate: weighted_log_probs(tokens, bounds.clamp(ratio.clone())),
            clipped: cut(tokens, bounds.contain(ratio).bool_not()),
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.bounds().validate("surrogate.min", "surrogate.max")
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::LogProbs {
            weighed: kernels::Weighed::All,
            range: self.bounds().range(),
        })
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(WEIGHS_LOG_PROBS)
    }
}

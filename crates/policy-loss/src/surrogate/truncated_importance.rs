//! The policy gradient with a truncated importance weight.

use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens, WEIGHS_LOG_PROBS, cut, weighted_log_probs};
use crate::{Bounds, ConfigError};

/// The policy gradient with a truncated importance weight (TIS-PG):
///
/// ```text
/// surrogate = sg(clamp(r, low, high)) * A * log_probs
/// ```
///
/// Gradient: `clamp(r, low, high) * A`. With `high` 1, the default, no token counts more than on
/// policy; [`Cispo`](super::Cispo) is the same formula with room above 1. A token counts as
/// clipped where the weight was cut.
///
/// Source: truncated importance sampling
/// ([Ionides 2008](https://doi.org/10.1198/106186008X320456)). Used by ROLL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TruncatedImportance {
    /// Smallest weight. Finite and above 0, or left out for 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Largest weight. Finite, above 0 and not below `low`.
    pub high: f64,
}

impl Default for TruncatedImportance {
    fn default() -> Self {
        Self {
            low: None,
            high: 1.0,
        }
    }
}

impl TruncatedImportance {
    fn bounds(&self) -> Bounds {
        Bounds {
            low: self.low,
            high: Some(self.high),
        }
    }
}

impl Formula for TruncatedImportance {
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
        self.bounds().validate("surrogate.low", "surrogate.high")
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

//! Truncated importance weights for negative advantages alone.

use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens, WEIGHS_LOG_PROBS, weighted_log_probs};
use crate::{Bounds, ConfigError};

/// The surrogate of TOPR (tapered off-policy REINFORCE): what went well is learnt whatever its
/// ratio, what went badly fades as it becomes unlikely:
///
/// ```text
/// surrogate = A * log_probs                     where A > 0
///             sg(clamp(r, 0, 1)) * A * log_probs  elsewhere
/// ```
///
/// Gradient: `A` and `min(r, 1) * A`. A token counts as clipped where its weight was cut to 1.
///
/// Paper: [arXiv 2503.14286](https://arxiv.org/abs/2503.14286). Used by ROLL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topr {}

impl Formula for Topr {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let shape = tokens.shape();
        let ratio = tokens.constant_ratio();
        let positive = tokens.advantages.clone().greater_elem(0).expand(shape);
        let negative = tokens.advantages.clone().lower_elem(0).expand(shape);
        let clipped = ratio.clone().greater_elem(1).bool_and(negative);
        let weight = ratio.clamp_max(1).mask_fill(positive, 1);
        Surrogated {
            surrogate: weighted_log_probs(tokens, weight),
            clipped,
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::LogProbs {
            weighed: kernels::Weighed::Negative,
            range: Bounds::at_most(1.0).range(),
        })
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(WEIGHS_LOG_PROBS)
    }
}

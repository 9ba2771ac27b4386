//! The plain policy gradient.

use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens};
use crate::{Bounds, ConfigError};

/// The surrogate of REINFORCE, without any ratio:
///
/// ```text
/// surrogate = A * log_probs
/// ```
///
/// Gradient: `A`. Right where the batch was sampled by the policy that is trained.
///
/// Source: [Williams 1992](https://doi.org/10.1007/BF00992696); as GPG
/// [arXiv 2504.02546](https://arxiv.org/abs/2504.02546). Used by verl, ROLL, NeMo-RL and rlax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reinforce {}

impl Formula for Reinforce {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        Surrogated {
            surrogate: tokens.log_probs.clone() * tokens.advantages.clone(),
            clipped: tokens.nowhere(),
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::LogProbs {
            weighed: kernels::Weighed::None,
            range: Bounds::at_most(1.0).range(),
        })
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some("this surrogate has no ratio; leave `ratio` out")
    }
}

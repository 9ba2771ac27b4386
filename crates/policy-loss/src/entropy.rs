//! The reward for keeping a policy undecided.

use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::config::not_negative;

/// An entropy bonus in the loss, from the entropies of the policy's token distributions:
///
/// ```text
/// token_loss -= coefficient * entropy
/// ```
///
/// The entropies are the second tracked input, [`with_entropies`](crate::PolicyBatch::with_entropies):
/// their gradient is `-coefficient` times that of the reduction. A rollout correction does not
/// weigh them. Source: A3C ([arXiv 1602.01783](https://arxiv.org/abs/1602.01783)), PPO
/// ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyBonus {
    /// What the entropy is multiplied by. Finite, 0 or above.
    pub coefficient: f64,
}

impl EntropyBonus {
    /// A bonus of `coefficient` times the entropy.
    pub const fn new(coefficient: f64) -> Self {
        Self { coefficient }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        not_negative("entropy_bonus.coefficient", self.coefficient)
    }
}

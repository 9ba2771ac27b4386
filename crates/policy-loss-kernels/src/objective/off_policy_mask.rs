//! Sequences that the policy has moved too far away from.

use serde::{Deserialize, Serialize};

use super::check::{ConfigError, positive};

/// The off-policy sequence mask (OPSM): tokens with a negative advantage are dropped where their
/// sequence has become unlikely,
///
/// ```text
/// dropped where A < 0 and mean of (base - log_probs) over the sequence > delta
/// ```
///
/// with the `base` of the [`Ratio`](super::Ratio). Pushing down what the policy would hardly
/// sample any more teaches nothing and destabilises. A dropped token has policy term 0 and no
/// gradient from it; the denominators of the reduction keep counting it.
/// Source: [arXiv 2512.02556](https://arxiv.org/abs/2512.02556).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OffPolicyMask {
    /// The largest mean of `base - log_probs` that is kept. Finite and above 0.
    pub delta: f64,
}

impl Default for OffPolicyMask {
    fn default() -> Self {
        Self::new(1e-4)
    }
}

impl OffPolicyMask {
    /// Drops beyond a mean of `delta`.
    #[must_use]
    pub const fn new(delta: f64) -> Self {
        Self { delta }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        positive("off_policy_mask.delta", self.delta)
    }
}

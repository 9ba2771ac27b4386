//! Generalised advantage estimation.

use burn::tensor::Tensor;
use policy_loss_kernels::objective::check::unit;
use serde::{Deserialize, Serialize};

use super::AdvantageOutput;
use super::recurrence::{ahead, backwards};
use super::whitening::Whitening;
use crate::ConfigError;
use crate::valid::Valid;

/// Generalised advantage estimation from the values of a critic.
///
/// Over the valid tokens of a sequence, from its last one backwards:
///
/// ```text
/// delta_t     = reward_t + gamma * value_{t+1} - value_t
/// advantage_t = delta_t + gamma * lambda * advantage_{t+1}
/// return_t    = advantage_t + value_t
/// ```
///
/// Beyond the last valid token both are 0. A gap in the mask is carried over: for a token before
/// the gap, `t + 1` is the first valid token behind it. Returns are made of the advantages before
/// they are whitened.
///
/// Paper: [arXiv 1506.02438](https://arxiv.org/abs/1506.02438).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeneralizedAdvantage {
    /// The discount of a reward per token. From 0 to 1.
    pub gamma: f64,
    /// 0 trusts the critic (one step), 1 the rewards (the whole return). From 0 to 1.
    pub lambda: f64,
    /// One scale for the advantages of the batch, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitening: Option<Whitening>,
}

impl Default for GeneralizedAdvantage {
    fn default() -> Self {
        Self::new(1.0, 0.95)
    }
}

impl GeneralizedAdvantage {
    /// With this discount and this weight of longer returns, not whitened.
    pub const fn new(gamma: f64, lambda: f64) -> Self {
        Self {
            gamma,
            lambda,
            whitening: None,
        }
    }

    /// Sets the whitening.
    pub fn with_whitening(mut self, whitening: impl Into<Option<Whitening>>) -> Self {
        self.whitening = whitening.into();
        self
    }

    /// `rewards` and `values` are 0 at padding.
    pub(crate) fn of(
        &self,
        rewards: Tensor<2>,
        values: Tensor<2>,
        valid: &Valid,
    ) -> AdvantageOutput {
        // The value at the first valid token at or behind t: padding looks one further on.
        let carried = values.zeros_like().mask_fill(valid.padding.clone(), 1);
        let next_values = ahead(&backwards(carried.clone(), values.clone()), 1);
        let delta = valid.select(rewards + next_values * self.gamma - values.clone());
        let factor = carried.mask_fill(valid.tokens.clone(), self.gamma * self.lambda);
        let advantages = valid.select(backwards(factor, delta));
        AdvantageOutput {
            returns: Some(advantages.clone() + values),
            advantages: match self.whitening {
                Some(whitening) => whitening.of(advantages, valid),
                None => advantages,
            },
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        unit("generalized.gamma", self.gamma)?;
        unit("generalized.lambda", self.lambda)
    }
}

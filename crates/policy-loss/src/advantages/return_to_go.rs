//! Discounted returns, with or without a baseline that the caller measured.

use burn::tensor::Tensor;
use policy_loss_kernels::objective::check::unit;
use serde::{Deserialize, Serialize};

use super::AdvantageOutput;
use super::recurrence::backwards;
use super::whitening::Whitening;
use crate::ConfigError;
use crate::valid::Valid;

/// The discounted sum of the rewards from a token on.
///
/// Over the valid tokens of a sequence, from its last one backwards:
///
/// ```text
/// return_t    = reward_t + gamma * return_{t+1}
/// advantage_t = return_t, and - baseline of the sequence where `subtract_baseline` is set
/// ```
///
/// A gap in the mask is carried over, as in [`GeneralizedAdvantage`](super::GeneralizedAdvantage).
///
/// Papers: REINFORCE++ whitens the returns ([arXiv 2501.03262](https://arxiv.org/abs/2501.03262));
/// ReMax subtracts the reward of the greedy answer to the same prompt
/// ([arXiv 2310.10505](https://arxiv.org/abs/2310.10505)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReturnToGo {
    /// The discount of a reward per token. From 0 to 1.
    pub gamma: f64,
    /// Whether the batch's baseline of each sequence is subtracted.
    pub subtract_baseline: bool,
    /// One scale for the advantages of the batch, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitening: Option<Whitening>,
}

impl Default for ReturnToGo {
    fn default() -> Self {
        Self::new(1.0)
    }
}

impl ReturnToGo {
    /// With this discount, no baseline and no whitening.
    pub const fn new(gamma: f64) -> Self {
        Self {
            gamma,
            subtract_baseline: false,
            whitening: None,
        }
    }

    /// Sets whether the batch's baseline of each sequence is subtracted.
    pub const fn with_subtract_baseline(mut self, subtract_baseline: bool) -> Self {
        self.subtract_baseline = subtract_baseline;
        self
    }

    /// Sets the whitening.
    pub fn with_whitening(mut self, whitening: impl Into<Option<Whitening>>) -> Self {
        self.whitening = whitening.into();
        self
    }

    /// `rewards` are 0 at padding; `baselines` are `[B, 1]`.
    pub(crate) fn of(
        &self,
        rewards: Tensor<2>,
        baselines: Option<Tensor<2>>,
        valid: &Valid,
    ) -> AdvantageOutput {
        let shape = rewards.dims();
        let factor = rewards
            .zeros_like()
            .mask_fill(valid.tokens.clone(), self.gamma)
            .mask_fill(valid.padding.clone(), 1);
        let returns = valid.select(backwards(factor, rewards));
        let advantages = match baselines {
            Some(baselines) => {
                let baselines = valid.select(baselines).expand(shape);
                valid.select(returns.clone() - baselines)
            }
            None => returns.clone(),
        };
        AdvantageOutput {
            returns: Some(returns),
            advantages: match self.whitening {
                Some(whitening) => whitening.of(advantages, valid),
                None => advantages,
            },
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        unit("return_to_go.gamma", self.gamma)
    }
}

//! Discounted returns, with or without a baseline that the caller measured.

use burn::tensor::Tensor;
use policy_loss_kernels::objective::check::unit;
use serde::{Deserialize, Serialize};

use super::AdvantageOutput;
use super::recurrence::backwards;
use super::token_baseline::TokenBaseline;
use super::whitening::Whitening;
use crate::ConfigError;
use crate::valid::Valid;

/// The discounted sum of the rewards from a token on.
///
/// Over the valid tokens of a sequence, from its last one backwards:
///
/// ```text
/// return_t    = reward_t + gamma * return_{t+1}
/// advantage_t = return_t, and - baseline of the sequence where `subtract_baseline` is set,
///                         or - baseline of the token where `token_baseline` is
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
    /// Subtracts the baseline of each token that leaves the least variance, if given. Not together
    /// with `subtract_baseline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_baseline: Option<TokenBaseline>,
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
            token_baseline: None,
            whitening: None,
        }
    }

    /// Sets whether the batch's baseline of each sequence is subtracted.
    pub const fn with_subtract_baseline(mut self, subtract_baseline: bool) -> Self {
        self.subtract_baseline = subtract_baseline;
        self
    }

    setters! {
        /// Sets the baseline of each token.
        with_token_baseline(token_baseline: impl Into<Option<TokenBaseline>>);
        /// Sets the whitening.
        with_whitening(whitening: impl Into<Option<Whitening>>);
    }

    /// `rewards` are 0 at padding; `compared` makes advantages of returns.
    pub(super) fn of(
        &self,
        rewards: Tensor<2>,
        valid: &Valid,
        compared: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> AdvantageOutput {
        let factor = rewards
            .zeros_like()
            .mask_fill(valid.tokens.clone(), self.gamma)
            .mask_fill(valid.padding.clone(), 1);
        let returns = valid.select(backwards(factor, rewards));
        let advantages = valid.select(compared(returns.clone()));
        AdvantageOutput {
            returns: Some(returns),
            advantages: match self.whitening {
                Some(whitening) => whitening.of(advantages, valid),
                None => advantages,
            },
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(baseline) = self.token_baseline {
            baseline.validate()?;
            if self.subtract_baseline {
                return Err(ConfigError::Combination {
                    first: "return_to_go.subtract_baseline",
                    second: "return_to_go.token_baseline",
                    reason: "a return is compared with one of them; leave the other out",
                });
            }
        }
        unit("return_to_go.gamma", self.gamma)
    }
}

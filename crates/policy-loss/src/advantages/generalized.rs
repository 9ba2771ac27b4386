//! Generalised advantage estimation.

use burn::tensor::Tensor;
use policy_loss_kernels::objective::check::{positive, unit};
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
/// Policy and critic may look ahead differently far, each with a lambda of its own; and that of the
/// policy may grow with the length of the answer, so that the reward at the end of a long one still
/// reaches its beginning:
///
/// ```text
/// length_adaptive:  lambda of the advantages = 1 - 1 / max(length_adaptive * valid tokens, 1)
/// return_lambda:    lambda of the advantages that returns are made of
/// ```
///
/// Papers: [arXiv 1506.02438](https://arxiv.org/abs/1506.02438); the two lambdas are those of VAPO
/// ([arXiv 2504.05118](https://arxiv.org/abs/2504.05118)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeneralizedAdvantage {
    /// The discount of a reward per token. From 0 to 1.
    pub gamma: f64,
    /// 0 trusts the critic (one step), 1 the rewards (the whole return). From 0 to 1. Of whatever
    /// the next two leave to it.
    pub lambda: f64,
    /// Makes the lambda of the advantages depend on the length, if given. Finite and above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_adaptive: Option<f64>,
    /// The lambda of the returns, if it is not `lambda`. From 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_lambda: Option<f64>,
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
            length_adaptive: None,
            return_lambda: None,
            whitening: None,
        }
    }

    setters! {
        /// Sets how the lambda of the advantages grows with the length.
        with_length_adaptive(length_adaptive: impl Into<Option<f64>>);
        /// Sets the lambda of the returns.
        with_return_lambda(return_lambda: impl Into<Option<f64>>);
        /// Sets the whitening.
        with_whitening(whitening: impl Into<Option<Whitening>>);
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
        let next_values = ahead(&backwards(carried, values.clone()), 1);
        let delta = valid.select(rewards + next_values * self.gamma - values.clone());
        // Padding looks one further on here as well.
        let steps = |factor: Tensor<2>| {
            let factor = factor.mask_fill(valid.padding.clone(), 1);
            valid.select(backwards(factor, delta.clone()))
        };
        let fixed = |lambda: f64| steps(delta.full_like(self.gamma * lambda));
        let returned = self.return_lambda.unwrap_or(self.lambda);
        let for_returns = fixed(returned);
        let advantages = match self.length_adaptive {
            Some(share) => {
                let horizon = (valid.per_sequence.clone() * share).clamp_min(1);
                let factor = (horizon.recip().neg() + 1) * self.gamma;
                steps(factor.expand(delta.dims()))
            }
            None if returned == self.lambda => for_returns.clone(),
            None => fixed(self.lambda),
        };
        AdvantageOutput {
            returns: Some(for_returns + values),
            advantages: match self.whitening {
                Some(whitening) => whitening.of(advantages, valid),
                None => advantages,
            },
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        unit("generalized.gamma", self.gamma)?;
        if let Some(share) = self.length_adaptive {
            positive("generalized.length_adaptive", share)?;
        }
        if let Some(lambda) = self.return_lambda {
            unit("generalized.return_lambda", lambda)?;
        }
        unit("generalized.lambda", self.lambda)
    }
}

//! A soft gate in the place of the clip.

use burn::tensor::Tensor;
use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens};
use crate::ConfigError;
use crate::config::positive;

/// The surrogate of SAPO: the gradient fades smoothly as the ratio moves away from 1, faster for
/// negative advantages:
///
/// ```text
/// tau = positive_temperature where A > 0, else negative_temperature
/// surrogate = A * sigmoid(tau * (r - 1)) * 4 / tau
/// ```
///
/// Gradient: `4 p (1 - p) * r * A` with `p = sigmoid(tau (r - 1))`; at `r = 1` that is `A`.
/// Defaults: 1 and 1.05.
///
/// Paper: [arXiv 2511.20347](https://arxiv.org/abs/2511.20347). Used by TRL, verl, Liger-Kernel
/// and AReaL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sapo {
    /// The temperature where `A > 0`. Finite and above 0.
    pub positive_temperature: f64,
    /// The temperature elsewhere. Finite and above 0.
    pub negative_temperature: f64,
}

impl Default for Sapo {
    fn default() -> Self {
        Self::new(1.0, 1.05)
    }
}

impl Sapo {
    /// With the temperatures of positive and of negative advantages.
    pub const fn new(positive_temperature: f64, negative_temperature: f64) -> Self {
        Self {
            positive_temperature,
            negative_temperature,
        }
    }
}

impl Formula for Sapo {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let advantages = tokens.advantages.clone();
        let positive = advantages.clone().greater_elem(0);
        let temperature = advantages
            .zeros_like()
            .add_scalar(self.negative_temperature)
            .mask_fill(positive, self.positive_temperature);
        let x = (tokens.ratio.clone() - 1.0) * temperature.clone();
        Surrogated {
            surrogate: accurate_sigmoid(x) * (advantages * 4.0 / temperature),
            clipped: tokens.nowhere(),
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.positive_temperature", self.positive_temperature)?;
        positive("surrogate.negative_temperature", self.negative_temperature)
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::Gate {
            positive: self.positive_temperature,
            negative: self.negative_temperature,
        })
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        None
    }
}

/// `sigmoid(x)`, whose gradient `p (1 - p)` keeps its digits where `p` is near 1.
fn accurate_sigmoid(x: Tensor<2>) -> Tensor<2> {
    let positive = x.clone().without_autodiff().greater_elem(0);
    // Not the absolute value, which has no gradient at 0; and not Burn's sigmoid, which NdArray
    // computes in f32 whatever the type.
    let small = x.clone().mask_where(positive.clone(), x.neg()).exp();
    let below_half = small.clone() / (small + 1.0);
    let above_half = below_half.clone().neg() + 1.0;
    below_half.mask_where(positive, above_half)
}

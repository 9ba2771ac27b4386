//! A smooth weight of the whole sequence's ratio.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens, weighted_log_probs};
use policy_loss_kernels::{self as kernels, LEAST_LOG_RATIO};

use crate::ConfigError;
use crate::config::positive;
use crate::ratio::LOG_RATIO_LIMIT;

/// The surrogate of VESPO: a policy gradient whose weight is a smooth function of the ratio of the
/// whole sequence, like the density of a gamma distribution:
///
/// ```text
/// W = clamp(sum of clamp(d, -20, 20) over the sequence, ln 1e-8, 20)
/// phi = exp(lambda + k W - lambda e^W),  k and lambda by the sign of A (A = 0 as positive)
/// surrogate = sg(phi) * A * log_probs
/// ```
///
/// Gradient: `phi * A`; at `W = 0` that is `A`. `phi` is 0 where it is not a number. Defaults:
/// k 2 and 3, lambda 3 and 2.
///
/// Paper: [arXiv 2602.10693](https://arxiv.org/abs/2602.10693). Used by TRL and Liger-Kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vespo {
    /// `k` where `A >= 0`. Finite and above 0.
    pub positive_k: f64,
    /// `lambda` where `A >= 0`. Finite and above 0.
    pub positive_lambda: f64,
    /// `k` where `A < 0`. Finite and above 0.
    pub negative_k: f64,
    /// `lambda` where `A < 0`. Finite and above 0.
    pub negative_lambda: f64,
}

impl Default for Vespo {
    fn default() -> Self {
        Self {
            positive_k: 2.0,
            positive_lambda: 3.0,
            negative_k: 3.0,
            negative_lambda: 2.0,
        }
    }
}

impl Formula for Vespo {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let shape = tokens.shape();
        let clamped = tokens
            .log_ratio
            .clone()
            .without_autodiff()
            .clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
        let sum = tokens.valid.sum_per_sequence(clamped);
        let log_ratio = sum.clamp(LEAST_LOG_RATIO, LOG_RATIO_LIMIT);
        let phi = |k: f64, lambda: f64| -> Tensor<2> {
            let exponent = log_ratio.clone() * k - (log_ratio.clone().exp() - 1.0) * lambda;
            let phi = exponent.exp();
            let not_a_number = phi.clone().is_nan();
            phi.mask_fill(not_a_number, 0).expand(shape)
        };
        let negative = tokens.advantages.clone().lower_elem(0).expand(shape);
        let weight = phi(self.positive_k, self.positive_lambda)
            .mask_where(negative, phi(self.negative_k, self.negative_lambda));
        Surrogated {
            surrogate: weighted_log_probs(tokens, weight),
            clipped: tokens.nowhere(),
            dual_clipped: None,
        }
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::SequenceWeight {
            positive: kernels::Gamma {
                k: self.positive_k,
                lambda: self.positive_lambda,
            },
            negative: kernels::Gamma {
                k: self.negative_k,
                lambda: self.negative_lambda,
            },
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.positive_k", self.positive_k)?;
        positive("surrogate.positive_lambda", self.positive_lambda)?;
        positive("surrogate.negative_k", self.negative_k)?;
        positive("surrogate.negative_lambda", self.negative_lambda)
    }

    fn is_of_tokens(&self) -> bool {
        false
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(
            "this surrogate takes the ratio of the sequence itself, from the log-ratios of its \
             tokens; use `ratio.level = token`",
        )
    }
}

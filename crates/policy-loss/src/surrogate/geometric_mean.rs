//! The geometric mean of a sequence's clipped ratios.

use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens};
use policy_loss_kernels as kernels;

use crate::ConfigError;
use crate::config::positive;
use crate::ratio::LOG_RATIO_LIMIT;

/// The surrogate of GMPO: the geometric mean of a sequence's ratios, each clipped in log space on
/// the side where it would gain:
///
/// ```text
/// c = min(d, high) where A > 0, max(d, -low) where A < 0, 0 where A = 0;  d clamped to ±20
/// surrogate = mean of A * exp(mean of c)      means over the valid tokens of the sequence
/// ```
///
/// Gradient: `surrogate / n_b` for every token that is not clipped, 0 for the others. The losses of
/// all tokens of the sequence have it: with rollout weights, the gradient of each token takes the
/// sum of the weights of its sequence, not its own. The geometric mean is less sensitive to a
/// single large ratio than the mean. Defaults: 0.4 and 0.4.
///
/// Paper: [arXiv 2507.20673](https://arxiv.org/abs/2507.20673). Used by verl and TRL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeometricMean {
    /// The log-ratio is bounded below by `-low` where `A < 0`. Above 0, at most 20.
    pub low: f64,
    /// The log-ratio is bounded above by `high` where `A > 0`. Above 0, at most 20.
    pub high: f64,
}

impl Default for GeometricMean {
    fn default() -> Self {
        Self::new(0.4, 0.4)
    }
}

impl GeometricMean {
    /// Clips log-ratios to `[-low, high]` on the side where they would gain.
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }
}

impl Formula for GeometricMean {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let shape = tokens.shape();
        let valid = tokens.valid;
        let advantages = valid.select(tokens.advantages.clone().expand(shape));
        let log_ratio = tokens.log_ratio.clone();
        let constant = log_ratio.clone().without_autodiff();
        let positive = advantages.clone().greater_elem(0);
        let negative = advantages.clone().lower_elem(0);
        let above = positive.bool_and(constant.clone().greater_elem(self.high));
        let below = negative.bool_and(constant.lower_elem(-self.low));
        let neutral = advantages.clone().equal_elem(0);
        let clipped_log_ratio = log_ratio
            .clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
            .mask_fill(above.clone(), self.high)
            .mask_fill(below.clone(), -self.low)
            .mask_fill(neutral, 0);
        let ratio = valid.mean_per_sequence(clipped_log_ratio).exp();
        Surrogated {
            surrogate: ratio * valid.mean_per_sequence(advantages),
            clipped: above.bool_or(below),
            dual_clipped: None,
        }
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::GeometricMean {
            low: self.low,
            high: self.high,
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        for (field, bound) in [("surrogate.low", self.low), ("surrogate.high", self.high)] {
            positive(field, bound)?;
            if bound > LOG_RATIO_LIMIT {
                return Err(ConfigError::OutOfRange {
                    field,
                    value: bound.to_string(),
                    accepted: "a number above 0, at most 20, where every log-ratio is clamped",
                });
            }
        }
        Ok(())
    }

    fn is_of_tokens(&self) -> bool {
        false
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(
            "the geometric mean is taken over the clipped ratios of the tokens; \
             use `ratio.level = token`",
        )
    }
}

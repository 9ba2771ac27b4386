//! The ratio, with a penalty on the tokens of the highest covariance.

use serde::{Deserialize, Serialize};

use super::covariance::{covariance, smallest};
use super::{Formula, Surrogated, Tokens};
use crate::ConfigError;
use crate::config::{positive, share};

/// The surrogate of KL-Cov: nothing is clipped; the tokens of the highest covariance between
/// log-prob and advantage, which is what the entropy falls with, are held back instead:
///
/// ```text
/// cov = (A - mean A) * (log_probs - mean log_probs)      means over the batch, constants
/// surrogate = r * A                        everywhere
///             - coefficient * abs(d)       at the max(1, floor(share * n)) largest cov
/// ```
///
/// Gradient: `r * A - coefficient * sign(d)` there, `r * A` elsewhere. Tokens that tie with the
/// last of the largest are held back as well. Defaults: share 2e-4, coefficient 1.
///
/// The means and the share are those of the batch at hand: shards do not add up to the undivided
/// batch.
///
/// Paper: [arXiv 2505.22617](https://arxiv.org/abs/2505.22617). Used by verl and SkyRL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlCov {
    /// The share of the valid tokens that is held back. Above 0, 1 at most.
    pub share: f64,
    /// What the absolute log-ratio is multiplied by. Finite and above 0.
    pub coefficient: f64,
}

impl Default for KlCov {
    fn default() -> Self {
        Self {
            share: 2e-4,
            coefficient: 1.0,
        }
    }
}

impl Formula for KlCov {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let shape = tokens.shape();
        // Smallest first: the largest covariances, and padding last of all.
        let order = covariance(tokens)
            .neg()
            .mask_fill(tokens.valid.padding.clone(), f32::MAX);
        let last = smallest(order.clone(), self.share, tokens);
        let last = last.reshape([1, 1]).expand(shape);
        let elsewhere = order.greater(last);
        let penalty = tokens.log_ratio.clone().abs() * self.coefficient;
        Surrogated {
            surrogate: tokens.ratio.clone() * tokens.advantages.clone()
                - penalty.mask_fill(elsewhere, 0),
            clipped: tokens.nowhere(),
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        share("surrogate.share", self.share)?;
        positive("surrogate.coefficient", self.coefficient)
    }

    fn is_of_tokens(&self) -> bool {
        false
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some("covariances are those of tokens, and so are the ratios; use `ratio.level = token`")
    }

    fn is_local(&self) -> bool {
        false
    }
}

//! The clip, without a random share of the tokens of high covariance.

use serde::{Deserialize, Serialize};

use super::covariance::{covariance, shuffled, smallest};
use super::{Clip, Formula, Surrogated, Tokens};
use crate::ConfigError;
use crate::config::{positive, share};

/// The surrogate of Clip-Cov: few tokens carry most of the covariance between log-prob and
/// advantage, which is what the entropy falls with; a random few of them are dropped:
///
/// ```text
/// cov = (A - mean A) * (log_probs - mean log_probs)      means over the batch, constants
/// candidates: unclipped tokens with min_covariance < cov < max_covariance
/// dropped: max(1, floor(share * n)) of the candidates, by chance; or all, if there are fewer
/// surrogate = that of Clip, 0 where dropped
/// ```
///
/// Gradient: that of [`Clip`](super::Clip), 0 where dropped; the denominators keep counting what
/// was dropped, and it counts as clipped. The chance is that of `seed` and of the position in the
/// batch, the same on every device. Defaults: 0.2 and 0.2, share 2e-4, covariances from 1 to 5.
///
/// The means, the share and the positions are those of the batch at hand: shards do not add up to
/// the undivided batch.
///
/// Paper: [arXiv 2505.22617](https://arxiv.org/abs/2505.22617). Used by verl and SkyRL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipCov {
    /// The lower bound of the ratio is `1 - low`. Finite and above 0.
    pub low: f64,
    /// The upper bound of the ratio is `1 + high`. Finite and above 0.
    pub high: f64,
    /// The share of the valid tokens that is dropped. Above 0, 1 at most.
    pub share: f64,
    /// Candidates have more covariance. Finite and above 0.
    pub min_covariance: f64,
    /// Candidates have less covariance. Finite and above `min_covariance`.
    pub max_covariance: f64,
    /// Chooses among the candidates.
    pub seed: u64,
}

impl Default for ClipCov {
    fn default() -> Self {
        Self {
            low: 0.2,
            high: 0.2,
            share: 2e-4,
            min_covariance: 1.0,
            max_covariance: 5.0,
            seed: 0,
        }
    }
}

impl Formula for ClipCov {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let shape = tokens.shape();
        let Surrogated {
            surrogate, clipped, ..
        } = Clip::new(self.low, self.high).of(tokens);
        let covariance = covariance(tokens);
        let candidate = covariance
            .clone()
            .greater_elem(self.min_covariance)
            .bool_and(covariance.clone().lower_elem(self.max_covariance))
            .bool_and(clipped.clone().bool_not())
            .bool_and(tokens.valid.tokens.clone());
        let order = shuffled(self.seed, &covariance);
        let behind_all = shape.iter().product::<usize>() as f64;
        let order = order.mask_fill(candidate.clone().bool_not(), behind_all);
        let last = smallest(order.clone(), self.share, tokens);
        let last = last.reshape([1, 1]).expand(shape);
        let dropped = candidate.bool_and(order.lower_equal(last));
        Surrogated {
            surrogate: surrogate.mask_fill(dropped.clone(), 0),
            clipped: clipped.bool_or(dropped),
            dual_clipped: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.low", self.low)?;
        positive("surrogate.high", self.high)?;
        share("surrogate.share", self.share)?;
        positive("surrogate.min_covariance", self.min_covariance)?;
        positive("surrogate.max_covariance", self.max_covariance)?;
        match self.min_covariance < self.max_covariance {
            true => Ok(()),
            false => Err(ConfigError::OutOfRange {
                field: "surrogate.min_covariance",
                value: format!(
                    "{}, not below `surrogate.max_covariance` = {}",
                    self.min_covariance, self.max_covariance
                ),
                accepted: "min_covariance < max_covariance",
            }),
        }
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

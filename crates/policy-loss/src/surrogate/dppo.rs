//! The policy gradient within a trust region of the divergence.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens, WEIGHS_LOG_PROBS, weighted_log_probs};
use policy_loss_kernels as kernels;

use crate::ConfigError;
use crate::config::positive;

/// Keeps a probability of 1 out of a logarithm of 0.
const LEAST_PROBABILITY: f64 = 1e-8;

/// The surrogate of DPPO: a token takes part unless its probability has already moved out of a
/// trust region, to the side that its advantage asks for. A ratio says little about how far a
/// policy has moved: from 1e-6 to 1e-5 it is 10, and hardly anything has changed.
///
/// With `p` and `q` the probabilities of the token, now and in the base of the ratio:
///
/// ```text
/// total_variation  dropped where A > 0 and p - q > high, or A < 0 and q - p > low
/// kl               dropped where D > high, A > 0 and p > q, or D > low, A < 0 and p < q
///                  D = q ln(q / p) + (1 - q) ln(max(1 - q, 1e-8) / max(1 - p, 1e-8))
/// surrogate = sg(min(r, max_ratio)) * A * log_probs, 0 where dropped
/// ```
///
/// Gradient: `min(r, max_ratio) * A`, 0 where dropped. Tokens that are dropped count as clipped.
/// Defaults: total variation, 0.2 and 0.2, `max_ratio` 20.
///
/// Paper: [arXiv 2602.04879](https://arxiv.org/abs/2602.04879). Used by verl, SkyRL and prime-rl.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dppo {
    /// How far the probability has moved.
    pub divergence: Divergence,
    /// The bound where `A < 0`. Finite and above 0.
    pub low: f64,
    /// The bound where `A > 0`. Finite and above 0.
    pub high: f64,
    /// The largest weight. Finite and above 0.
    pub max_ratio: f64,
}

/// How far the probability of a sampled token has moved; see [`Dppo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// By the difference of its probabilities.
    #[default]
    TotalVariation,
    /// By the KL divergence between the token and everything else.
    Kl,
}

impl Default for Dppo {
    fn default() -> Self {
        Self::new(Divergence::TotalVariation, 0.2, 0.2)
    }
}

impl Dppo {
    /// Within `low` and `high` of a divergence.
    pub const fn new(divergence: Divergence, low: f64, high: f64) -> Self {
        Self {
            divergence,
            low,
            high,
            max_ratio: 20.0,
        }
    }

    /// Where the probability has moved up, and down, by more than the bounds.
    fn moved(&self, tokens: &Tokens) -> [Tensor<2, Bool>; 2] {
        let log_p = tokens.log_probs.clone().without_autodiff();
        let log_q = tokens.base_log_probs.clone();
        let (p, q) = (log_p.clone().exp(), log_q.clone().exp());
        match self.divergence {
            Divergence::TotalVariation => {
                let change = p - q;
                [
                    change.clone().greater_elem(self.high),
                    change.lower_elem(-self.low),
                ]
            }
            Divergence::Kl => {
                let rest = |p: &Tensor<2>| (p.clone().neg() + 1.0).clamp_min(LEAST_PROBABILITY).log();
                let of_the_token = q.clone() * (log_q - log_p);
                let of_the_rest = (q.clone().neg() + 1.0) * (rest(&q) - rest(&p));
                let divergence = of_the_token + of_the_rest;
                let up = p.clone().greater(q.clone());
                [
                    divergence.clone().greater_elem(self.high).bool_and(up),
                    divergence.greater_elem(self.low).bool_and(p.lower(q)),
                ]
            }
        }
    }
}

impl Formula for Dppo {
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let shape = tokens.shape();
        let [up, down] = self.moved(tokens);
        let positive = tokens.advantages.clone().greater_elem(0).expand(shape);
        let negative = tokens.advantages.clone().lower_elem(0).expand(shape);
        let dropped = up.bool_and(positive).bool_or(down.bool_and(negative));
        let weight = tokens.constant_ratio().clamp_max(self.max_ratio);
        Surrogated {
            surrogate: weighted_log_probs(tokens, weight).mask_fill(dropped.clone(), 0),
            clipped: dropped,
            dual_clipped: None,
        }
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::TrustRegion {
            distance: match self.divergence {
                Divergence::TotalVariation => kernels::Distance::TotalVariation,
                Divergence::Kl => kernels::Distance::Kl,
            },
            low: self.low,
            high: self.high,
            most: self.max_ratio,
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.low", self.low)?;
        positive("surrogate.high", self.high)?;
        positive("surrogate.max_ratio", self.max_ratio)
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(WEIGHS_LOG_PROBS)
    }
}

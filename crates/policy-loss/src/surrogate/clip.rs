//! The clipped surrogate of PPO.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::Surrogated;
use crate::ConfigError;
use crate::config::{above_one, positive};

/// The clipped surrogate:
///
/// ```text
/// s1 = r * A
/// s2 = clamp(r, 1 - low, 1 + high) * A
/// surrogate = min(s1, s2);  with dual_clip c and A < 0: max(min(s1, s2), c * A)
/// ```
///
/// Where `s1 == s2` the unclipped branch is taken; a clipped token has gradient 0.
/// Papers: PPO [arXiv 1707.06347](https://arxiv.org/abs/1707.06347), dual clip
/// [arXiv 1912.09729](https://arxiv.org/abs/1912.09729), clip-higher (DAPO)
/// [arXiv 2503.14476](https://arxiv.org/abs/2503.14476).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// The lower bound of the ratio is `1 - low`. Finite and above 0.
    pub low: f64,
    /// The upper bound of the ratio is `1 + high`. Finite and above 0.
    pub high: f64,
    /// For `A < 0` the surrogate is bounded below by `dual_clip * A`. Finite and above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
}

impl Default for Clip {
    fn default() -> Self {
        Self::new(0.2, 0.2)
    }
}

impl Clip {
    /// Clips the ratio to `[1 - low, 1 + high]`.
    pub const fn new(low: f64, high: f64) -> Self {
        Self {
            low,
            high,
            dual_clip: None,
        }
    }

    /// Also bounds the surrogate below by `dual_clip * A` where `A < 0`.
    pub const fn with_dual_clip(mut self, dual_clip: f64) -> Self {
        self.dual_clip = Some(dual_clip);
        self
    }

    /// The clipped branches are constants of the ratio, so that a clipped token has gradient 0.
    ///
    /// `min` and `clamp` are written as comparisons and selects because their sub-gradients at a
    /// tie and at a bound differ between frameworks; here the unclipped branch wins a tie.
    pub(crate) fn of(&self, ratio: Tensor<2>, advantages: Tensor<2>) -> Surrogated {
        let constant_ratio = ratio.clone().without_autodiff();
        let s1 = ratio * advantages.clone();
        let s2 = constant_ratio.clamp(1.0 - self.low, 1.0 + self.high) * advantages.clone();
        let clipped = s2.clone().lower(s1.clone().without_autodiff());
        let surrogate = s1.mask_where(clipped.clone(), s2);
        let Some(dual_clip) = self.dual_clip else {
            return Surrogated {
                surrogate,
                clipped,
                dual_clipped: None,
            };
        };
        let floor = advantages.clone() * dual_clip;
        let dual_clipped = surrogate
            .clone()
            .without_autodiff()
            .lower(floor.clone())
            .bool_and(advantages.lower_elem(0));
        Surrogated {
            surrogate: surrogate.mask_where(dual_clipped.clone(), floor),
            clipped,
            dual_clipped: Some(dual_clipped),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.low", self.low)?;
        positive("surrogate.high", self.high)?;
        above_one("surrogate.dual_clip", self.dual_clip)
    }
}

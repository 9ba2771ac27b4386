//! The clipped surrogate of PPO.

use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::{Formula, Surrogated, Tokens};
use crate::ConfigError;
use crate::config::{above_one, positive};

/// The clipped surrogate:
///
/// ```text
/// s1 = r * A;  with delta: min(r, delta) * A
/// s2 = clamp(r, 1 - low, 1 + high) * A
/// surrogate = min(s1, s2);  with dual_clip c and A < 0: max(min(s1, s2), c * A)
/// ```
///
/// Gradient: `r * A` on the unclipped branch, 0 on every other; where `s1 == s2` the unclipped
/// branch is taken. With a sequence ratio it is the surrogate of GSPO.
///
/// Papers: PPO [arXiv 1707.06347](https://arxiv.org/abs/1707.06347), dual clip
/// [arXiv 1912.09729](https://arxiv.org/abs/1912.09729), clip-higher (DAPO)
/// [arXiv 2503.14476](https://arxiv.org/abs/2503.14476), two-sided clip with `delta`
/// (INTELLECT-2) [arXiv 2505.07291](https://arxiv.org/abs/2505.07291). Used by every framework.
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
    /// The unclipped branch uses `min(r, delta)`. Finite, `1 + high` or above; there it matters
    /// for `A < 0` alone, and is a dual clip of the same size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
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
            delta: None,
        }
    }

    /// Also bounds the surrogate below by `dual_clip * A` where `A < 0`.
    pub const fn with_dual_clip(mut self, dual_clip: f64) -> Self {
        self.dual_clip = Some(dual_clip);
        self
    }

    /// Also bounds the ratio of the unclipped branch by `delta`.
    pub const fn with_delta(mut self, delta: f64) -> Self {
        self.delta = Some(delta);
        self
    }

    /// `c`, where the surrogate of a negative advantage is bounded below by `c * A`.
    pub(crate) fn lower_bound(&self) -> Option<f64> {
        self.dual_clip.or(self.delta)
    }
}

impl Formula for Clip {
    /// The clipped branches are constants of the ratio, so that a clipped token has gradient 0.
    ///
    /// `min` and `clamp` are written as comparisons and selects because their sub-gradients at a
    /// tie and at a bound differ between frameworks; here the unclipped branch wins a tie.
    fn of(&self, tokens: &Tokens) -> Surrogated {
        let advantages = tokens.advantages.clone();
        let s1 = tokens.ratio.clone() * advantages.clone();
        let bounded_ratio = tokens
            .constant_ratio()
            .clamp(1.0 - self.low, 1.0 + self.high);
        let s2 = bounded_ratio * advantages.clone();
        let clipped = s2.clone().lower(s1.clone().without_autodiff());
        let surrogate = s1.mask_where(clipped.clone(), s2);
        let Some(dual_clip) = self.lower_bound() else {
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

    fn validate(&self) -> Result<(), ConfigError> {
        positive("surrogate.low", self.low)?;
        positive("surrogate.high", self.high)?;
        above_one("surrogate.dual_clip", self.dual_clip)?;
        above_one("surrogate.delta", self.delta)?;
        let least = 1.0 + self.high;
        match (self.dual_clip, self.delta) {
            (None, Some(delta)) if delta < least => Err(ConfigError::OutOfRange {
                field: "surrogate.delta",
                value: format!("{delta}, below 1 + `surrogate.high` = {least}"),
                accepted: "1 + high or above",
            }),
            (Some(_), Some(_)) => Err(ConfigError::Combination {
                first: "surrogate.dual_clip",
                second: "surrogate.delta",
                reason: "both bound what a negative advantage can do; leave one of them out",
            }),
            _ => Ok(()),
        }
    }

    fn kernel(&self) -> Option<kernels::Surrogate> {
        Some(kernels::Surrogate::Clip(kernels::Clip {
            low: self.low,
            high: self.high,
            dual: self.lower_bound(),
        }))
    }

    fn is_of_tokens(&self) -> bool {
        true
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        None
    }
}

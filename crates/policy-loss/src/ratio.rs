//! The probability ratio between the trained policy and the policy of the data.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::valid::Valid;

/// The log-ratio is clamped to plus and minus this before it is exponentiated: e^20 is 4.9e8, far
/// outside any clip range, and far inside the range of f32.
pub(crate) const LOG_RATIO_LIMIT: f64 = 20.0;

/// The probability ratio `r`.
///
/// With `d = log_probs - base`, 0 at masked positions, where `base` is chosen by `against`:
///
/// ```text
/// token     r = exp(clamp(d, -20, 20))                          one per token
/// sequence  r = exp(clamp(mean of d over valid tokens, -20, 20))  one per sequence
/// ```
///
/// The gradient of the sequence ratio flows through the mean to every valid token.
/// Beyond ±20 it is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ratio {
    /// One ratio per token, or one per sequence.
    pub level: RatioLevel,
    /// The policy in the denominator.
    pub against: Behavior,
}

impl Ratio {
    /// One ratio per token, against the old policy (PPO).
    pub const TOKEN: Self = Self {
        level: RatioLevel::Token,
        against: Behavior::Old,
    };
    /// One ratio per sequence, against the old policy (GSPO,
    /// [arXiv 2507.18071](https://arxiv.org/abs/2507.18071)).
    pub const SEQUENCE: Self = Self {
        level: RatioLevel::Sequence,
        against: Behavior::Old,
    };

    /// `r` of a log-ratio `[B, T]` that is 0 at padding: `[B, T]` for tokens, `[B, 1]` for
    /// sequences.
    pub(crate) fn of(self, log_ratio: Tensor<2>, valid: &Valid) -> Tensor<2> {
        let log_ratio = match self.level {
            RatioLevel::Token => log_ratio,
            RatioLevel::Sequence => valid.mean_per_sequence(log_ratio),
        };
        log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    }

    /// The same ratio against another policy.
    pub fn against(mut self, against: Behavior) -> Self {
        self.against = against;
        self
    }
}

/// The level at which a [`Ratio`] is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// One ratio per token.
    #[default]
    Token,
    /// One ratio per sequence: the geometric mean of its tokens' ratios.
    Sequence,
}

/// The behavior policy: the one in the denominator of a [`Ratio`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behavior {
    /// The policy that the update started from, `old_log_probs`.
    #[default]
    Old,
    /// The policy that sampled, as the inference engine reports it, `rollout_log_probs`.
    Rollout,
}

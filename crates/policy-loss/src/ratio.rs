//! The probability ratio between the trained policy and the policy of the data.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::valid::Valid;

/// The log-ratio is clamped to plus and minus this before it is exponentiated: e^20 is 4.9e8, far
/// outside any clip range, and far inside the range of f32.
pub(crate) const LOG_RATIO_LIMIT: f64 = 20.0;

/// The probability ratio `r`.
///
/// With `d = log_probs - base`, 0 at masked positions, where `base` is chosen by `against`, means
/// and sums over the valid tokens of a sequence, and `sg` stopping the gradient:
///
/// ```text
/// token           r = exp(clamp(d, -20, 20))                       one per token
/// sequence        r = exp(clamp(mean of d, -20, 20))               one per sequence
/// sequence_token  r = exp(log_probs - sg(log_probs) + sg(clamp(mean of d, -20, 20)))
/// sequence_sum    r = exp(clamp(sum of d, -20, 20))                one per sequence
/// ```
///
/// The gradient of `sequence` and `sequence_sum` flows through the mean or the sum to every valid
/// token; that of `sequence_token`, whose value is that of `sequence`, to the token itself.
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
    pub const TOKEN: Self = Self::old(RatioLevel::Token);
    /// One ratio per sequence, against the old policy (GSPO,
    /// [arXiv 2507.18071](https://arxiv.org/abs/2507.18071)).
    pub const SEQUENCE: Self = Self::old(RatioLevel::Sequence);
    /// The value of a sequence's ratio with the gradient of the token, against the old policy
    /// (GSPO-token, [arXiv 2507.18071](https://arxiv.org/abs/2507.18071)).
    pub const SEQUENCE_TOKEN: Self = Self::old(RatioLevel::SequenceToken);
    /// The probability ratio of the whole sequence, against the old policy.
    pub const SEQUENCE_SUM: Self = Self::old(RatioLevel::SequenceSum);

    const fn old(level: RatioLevel) -> Self {
        Self {
            level,
            against: Behavior::Old,
        }
    }

    /// `r` of a log-ratio `[B, T]` that is 0 at padding: `[B, T]`, or `[B, 1]` where a sequence
    /// shares it.
    pub(crate) fn of(
        self,
        log_ratio: Tensor<2>,
        log_probs: &Tensor<2>,
        valid: &Valid,
    ) -> Tensor<2> {
        let exp = |log_ratio: Tensor<2>| log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp();
        match self.level {
            RatioLevel::Token => exp(log_ratio),
            RatioLevel::Sequence => exp(valid.mean_per_sequence(log_ratio)),
            RatioLevel::SequenceSum => exp(valid.sum_per_sequence(log_ratio)),
            RatioLevel::SequenceToken => {
                let constant = log_probs.clone().without_autodiff();
                let mean = valid.mean_per_sequence(log_ratio.without_autodiff());
                let beyond = mean.clone().abs().greater_elem(LOG_RATIO_LIMIT);
                let value = exp(mean).expand(constant.dims());
                // exp(0), with the slope 1.
                let one = (log_probs.clone() - constant).exp();
                (one * value.clone()).mask_where(beyond.expand(value.dims()), value)
            }
        }
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
    /// The value of `Sequence`, with the gradient of each token alone.
    SequenceToken,
    /// One ratio per sequence: the product of its tokens' ratios.
    SequenceSum,
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

//! The probability ratio between the trained policy and the policy of the data.

use serde::{Deserialize, Serialize};

/// The log-ratio is clamped to plus and minus this before it is exponentiated: e^20 is 4.9e8, far
/// outside any clip range, and far inside the range of f32.
pub const LOG_RATIO_LIMIT: f64 = 20.0;

/// The logarithm of the smallest ratio of a sequence that a [`GammaWeight`](super::GammaWeight)
/// tells from 0: ln 1e-8.
pub const LEAST_LOG_RATIO: f64 = -18.420_680_743_952_367;

/// The least log-prob that the bounds of a [`DynamicClip`](super::DynamicClip) are made of: below it
/// f32 has no probabilities.
pub const LEAST_BASE_LOG_PROB: f64 = -80.0;

/// The smallest probability whose logarithm is taken: it keeps a probability of 1 out of a
/// logarithm of 0 in a [`TrustRegion`](super::TrustRegion).
pub const LEAST_PROBABILITY: f64 = 1e-8;

/// The probability ratio `r`.
///
/// With `d = log_probs - base`, 0 at masked positions, where `base` is chosen by `against`, means
/// and sums over the valid tokens of a sequence, or of a segment, and `sg` stopping the gradient:
///
/// ```text
/// token           r = exp(clamp(d, -20, 20))                       one per token
/// sequence        r = exp(clamp(mean of d, -20, 20))               one per sequence
/// sequence_token  r = exp(log_probs - sg(log_probs) + sg(clamp(mean of d, -20, 20)))
/// sequence_sum    r = exp(clamp(sum of d, -20, 20))                one per sequence
/// segment         r = exp(clamp(mean of d, -20, 20))               one per segment
/// ```
///
/// A segment is a run of valid tokens between masked ones, such as the turn of a conversation; it is
/// that of ROLL. Without a mask a sequence is one segment. Where the batch has segment ids, a segment is
/// a run of valid tokens with the same id instead, whatever is masked between them: a turn, a sentence,
/// a tool call.
///
/// The gradient of `sequence` and `sequence_sum` flows through the mean or the sum to every valid
/// token, that of `segment` to every token of the segment; that of `sequence_token`, whose value is
/// that of `sequence`, to the token itself.
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

    /// One ratio per segment, against the old policy (ROLL).
    pub const SEGMENT: Self = Self::old(RatioLevel::Segment);

    const fn old(level: RatioLevel) -> Self {
        Self {
            level,
            against: Behavior::Old,
        }
    }

    /// The same ratio against another policy.
    #[must_use]
    pub const fn against(mut self, against: Behavior) -> Self {
        self.against = against;
        self
    }
}

/// The level at which a [`Ratio`] is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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
    /// One ratio per segment: the geometric mean of its tokens' ratios.
    Segment,
}

/// The behavior policy: the one in the denominator of a [`Ratio`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behavior {
    /// The policy that the update started from, `old_log_probs`.
    #[default]
    Old,
    /// The policy that sampled, as the inference engine reports it, `rollout_log_probs`.
    Rollout,
}

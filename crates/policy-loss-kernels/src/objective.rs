//! What to compute: shared by all kernels.

use crate::{Correction, Penalty, Weight};

/// Log-ratios are clamped to `[-20, 20]` before they are exponentiated.
pub const LOG_RATIO_BOUND: f64 = 20.0;

/// The logarithm of the smallest ratio of a sequence that a [`Surrogate::SequenceWeight`] tells
/// from 0, ln 1e-8.
pub const LEAST_LOG_RATIO: f64 = -18.420_680_743_952_367;

/// The policy loss as numbers: every field has already been checked by the caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Whether each token has its own ratio or shares that of its sequence.
    pub ratio_level: RatioLevel,
    /// The policy that the ratio is taken against.
    pub ratio_base: RatioBase,
    /// What is made of the ratio and the advantage.
    pub surrogate: Surrogate,
    /// The constant that multiplies a token's surrogate; without one it is 1.
    pub correction: Option<Correction>,
    /// Tokens with `A < 0` have the surrogate 0, a constant, where their sequence's
    /// `mean over valid tokens of (base - log_probs)` is above this.
    pub off_policy: Option<f64>,
    /// What is added to a token's loss.
    pub penalty: Option<Penalty>,
    /// How token losses become one number.
    pub reduction: Reduction,
    /// Replaces the factor `1 / count` of the reduction, where `count` is the number of
    /// valid tokens or sequences: `world_size / global_count` under data parallelism.
    pub scale: Option<f64>,
}

/// Where the ratio is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatioLevel {
    /// `exp(log_probs - base)` of each token.
    Token,
    /// `exp(mean over valid tokens of (log_probs - base))` of each sequence; the gradient
    /// flows through the mean to every valid token.
    Sequence,
    /// The value of `Sequence`, with the gradient of the token alone.
    SequenceToken,
    /// `exp(sum over valid tokens of (log_probs - base))` of each sequence; the gradient flows
    /// through the sum.
    SequenceSum,
}

impl RatioLevel {
    /// Whether the gradient of a ratio is the same for all tokens of a sequence.
    #[must_use]
    pub const fn shares_gradient(self) -> bool {
        matches!(self, Self::Sequence | Self::SequenceSum)
    }
}

/// The log-probabilities that the ratio is taken against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatioBase {
    /// `old_log_probs`.
    Old,
    /// `rollout_log_probs`.
    Rollout,
}

/// The surrogate of a token, from its ratio `r` and its advantage `A`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Surrogate {
    /// `min(r A, clamp(r, 1 - low, 1 + high) A)`.
    Clip(Clip),
    /// `w A log_probs`, where the constant `w` is `r` moved into `range` for some tokens, and 1
    /// for the others. The ratio is that of the token.
    LogProbs {
        /// The tokens that are weighed.
        weighed: Weighed,
        /// The range of their weight.
        range: Range,
    },
    /// `A sigmoid(t (r - 1)) 4 / t`.
    Gate {
        /// `t` where `A > 0`.
        positive: f64,
        /// `t` elsewhere.
        negative: f64,
    },
    /// `A log_probs - coefficient / 2 d²`, where `d` is the logarithm of the ratio, not clamped.
    /// The ratio is that of the token.
    SquaredLogRatio {
        /// What half of the square is multiplied by.
        coefficient: f64,
    },
    /// `w A log_probs` with the constant `w = min(r, most)`, but the constant 0 where the
    /// probability has moved too far to the side that `A` asks for. The ratio is that of the
    /// token; `p` and `q` are `exp` of `log_probs` and of the base.
    TrustRegion {
        /// How far a probability has moved.
        distance: Distance,
        /// The bound where `A < 0` and `p < q`.
        low: f64,
        /// The bound where `A > 0` and `p > q`.
        high: f64,
        /// The largest weight.
        most: f64,
    },
    /// `w A log_probs` with the constant `w = exp(lambda + k W - lambda exp(W))`, 0 where it is
    /// not a number, and `W` the sum over the sequence of the logarithms of the tokens' ratios,
    /// each of them and `W` itself within ±20, `W` no smaller than ln 1e-8.
    SequenceWeight {
        /// Where `A >= 0`.
        positive: Gamma,
        /// Where `A < 0`.
        negative: Gamma,
    },
    /// `exp(mean of c) * mean of A` over the valid tokens of the sequence, where `c` is the
    /// logarithm of the token's ratio, at most `high` where `A > 0`, at least `-low` where
    /// `A < 0`, and 0 where `A = 0`. The ratio is that of the token.
    GeometricMean {
        /// Distance of the lower bound of the logarithm from 0.
        low: f64,
        /// Distance of the upper bound of the logarithm from 0.
        high: f64,
    },
}

/// How far a probability has moved from `q` to `p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// `|p - q|`.
    TotalVariation,
    /// `q ln(q / p) + (1 - q) ln(max(1 - q, 1e-8) / max(1 - p, 1e-8))`.
    Kl,
}

/// The shape of a [`Surrogate::SequenceWeight`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gamma {
    /// What the logarithm is multiplied by.
    pub k: f64,
    /// What the ratio is multiplied by.
    pub lambda: f64,
}

impl Gamma {
    /// The weight of a sequence whose tokens' log-ratios add up to `sum`.
    #[must_use]
    pub fn weight(self, sum: f64) -> f64 {
        let sum = sum.clamp(LEAST_LOG_RATIO, LOG_RATIO_BOUND);
        let weight = (sum * self.k - sum.exp_m1() * self.lambda).exp();
        if weight.is_nan() { 0.0 } else { weight }
    }
}

/// The tokens that a weight applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// None of them.
    None,
    /// Those with `A < 0`.
    Negative,
    /// All of them.
    All,
}

/// Bounds, both of them included; an infinity is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// The clip range `[1 - low, 1 + high]` of the ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Distance of the lower bound from 1.
    pub low: f64,
    /// Distance of the upper bound from 1.
    pub high: f64,
    /// `c > 1`: where `A < 0` the surrogate is bounded below by `c * A`.
    pub dual: Option<f64>,
}

/// How token losses become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The mean over all valid tokens.
    TokenMean,
    /// The mean, over sequences with a valid token, of each sequence's token mean.
    SequenceMean,
    /// The sum over all valid tokens, divided by `length` times the number of sequences with a
    /// valid token.
    SequenceSum {
        /// What each sequence counts for.
        length: usize,
    },
    /// The sum over all valid tokens.
    TokenSum,
}

impl Reduction {
    /// What the sum is divided by, with `tokens` valid tokens in `sequences` sequences.
    #[must_use]
    pub fn count(self, tokens: f64, sequences: f64) -> f64 {
        match self {
            Self::TokenMean => tokens.max(1.0),
            Self::SequenceMean => sequences.max(1.0),
            Self::SequenceSum { length } => sequences.max(1.0) * length as f64,
            Self::TokenSum => 1.0,
        }
    }
}

impl Objective {
    /// Whether `rollout_log_probs` takes part.
    #[must_use]
    pub fn uses_rollout(&self) -> bool {
        self.ratio_base == RatioBase::Rollout || self.correction.is_some()
    }

    /// Whether the batch brings the weights.
    #[must_use]
    pub fn uses_given_weights(&self) -> bool {
        let weight = self.correction.map(|correction| correction.weight);
        weight == Some(Weight::Given)
    }
}

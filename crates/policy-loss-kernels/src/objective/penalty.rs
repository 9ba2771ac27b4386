//! What is added to the loss of a token: a penalty for moving away from a reference policy, and a
//! bonus for staying undecided.

use serde::{Deserialize, Serialize};

use super::check::{ConfigError, if_given, not_negative, positive};

/// A KL penalty in the loss, against a frozen reference policy, or against the sampler:
///
/// ```text
/// token_loss += coefficient * kl
///
/// q = log_probs - ref_log_probs, or log_probs - rollout_log_probs
/// k1   kl = q                     unbiased, may be negative; its gradient is that of log_probs
/// k2   kl = q^2 / 2               biased a little; its gradient is that of KL itself
/// k3   kl = expm1(-q) + q         unbiased, never negative; q clamped to ±20
/// abs  kl = |q|
///
/// with max_log_ratio   q is clamped to ± max_log_ratio first
/// with max_divergence  kl is clamped to ± max_divergence then; beyond either it has no gradient
/// ```
///
/// The reference has to be frozen: a copy of the policy from before the training, whose parameters
/// no gradient reaches. A rollout correction does not weigh the penalty, nor does a surrogate that drops
/// a token take it away. Against the sampler, k2 is the squared log-ratio of prime-rl, whose `kl_tau` is
/// half the coefficient.
///
/// Estimators: [Schulman 2020](http://joschu.net/blog/kl-approx.html); in the loss since GRPO
/// ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlPenalty {
    /// What the divergence is multiplied by. Finite, 0 or above.
    pub coefficient: f64,
    /// The estimate of the divergence of one token.
    #[serde(default)]
    pub estimator: KlEstimator,
    /// The gradient of the estimate.
    #[serde(default)]
    pub gradient: KlGradient,
    /// The policy that it is a penalty to move away from.
    #[serde(default)]
    pub against: KlBase,
    /// The largest `q`, of either sign. Finite and above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_log_ratio: Option<f64>,
    /// The largest divergence of one token, of either sign. Finite and above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_divergence: Option<f64>,
}

/// The policy that a [`KlPenalty`] keeps the trained one near to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlBase {
    /// The frozen reference policy: `ref_log_probs`.
    #[default]
    Reference,
    /// The sampler: `rollout_log_probs`.
    Rollout,
}

/// The estimate of KL(new, base) from one sampled token, with the difference `q` of the two
/// log-probs; see [`KlPenalty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `q`.
    K1,
    /// `q^2 / 2`.
    K2,
    /// `expm1(-q) + q`.
    #[default]
    K3,
    /// `|q|`.
    Abs,
}

/// The gradient that a [`KlPenalty`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlGradient {
    /// That of the estimator.
    #[default]
    Estimator,
    /// That of k2, `q`, whatever the value: the gradient of KL itself where the sample is of the
    /// policy that is trained.
    StraightThrough,
    /// That of the estimator, plus its value: `kl + dkl/dq`. The value times the gradient of
    /// `log_probs` is what the policy's way of sampling adds; with it the gradient is that of KL itself
    /// for every estimate, where the sample is of the policy that is trained
    /// ([arXiv 2506.09477](https://arxiv.org/abs/2506.09477)). Used by NeMo-RL.
    ScoreFunction,
    /// The estimate is multiplied by the [`Ratio`](super::Ratio) of the objective, and the
    /// gradient flows through both: unbiased where the sample is of the old policy.
    ImportanceCorrected,
}

impl KlPenalty {
    /// A penalty by the estimate k3 with its own gradient.
    #[must_use]
    pub const fn new(coefficient: f64) -> Self {
        Self {
            coefficient,
            estimator: KlEstimator::K3,
            gradient: KlGradient::Estimator,
            against: KlBase::Reference,
            max_log_ratio: None,
            max_divergence: None,
        }
    }

    /// Sets the estimate.
    #[must_use]
    pub const fn with_estimator(mut self, estimator: KlEstimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// Sets the gradient.
    #[must_use]
    pub const fn with_gradient(mut self, gradient: KlGradient) -> Self {
        self.gradient = gradient;
        self
    }

    /// Sets the policy that it is a penalty to move away from.
    #[must_use]
    pub const fn against(mut self, against: KlBase) -> Self {
        self.against = against;
        self
    }

    /// Bounds `q`, beyond which the estimate of a token has no gradient.
    #[must_use]
    pub const fn with_max_log_ratio(mut self, max_log_ratio: f64) -> Self {
        self.max_log_ratio = Some(max_log_ratio);
        self
    }

    /// Bounds the estimate of one token, beyond which it has no gradient. With
    /// [`KlGradient::ImportanceCorrected`] that of the ratio stays.
    #[must_use]
    pub const fn with_max_divergence(mut self, max_divergence: f64) -> Self {
        self.max_divergence = Some(max_divergence);
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        not_negative("kl_penalty.coefficient", self.coefficient)?;
        if_given(self.max_log_ratio, |most| {
            positive("kl_penalty.max_log_ratio", *most)
        })?;
        if_given(self.max_divergence, |most| {
            positive("kl_penalty.max_divergence", *most)
        })?;
        if self.estimator == KlEstimator::K2 && self.gradient == KlGradient::StraightThrough {
            return Err(ConfigError::Combination {
                first: "kl_penalty.estimator = k2",
                second: "kl_penalty.gradient = straight_through",
                reason: "the gradient of k2 is what straight_through puts in the place of an \
                         estimator's own; write `estimator` for the same result",
            });
        }
        Ok(())
    }
}

/// An entropy bonus in the loss, from the entropies of the policy's token distributions:
///
/// ```text
/// token_loss -= coefficient * entropy
/// ```
///
/// The entropies are a second tracked input of a batch: their gradient is `-coefficient` times that
/// of the reduction. A rollout correction does not weigh them. What an entropy mask drops gets none.
/// Source: A3C
/// ([arXiv 1602.01783](https://arxiv.org/abs/1602.01783)), PPO
/// ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyBonus {
    /// What the entropy is multiplied by. Finite, 0 or above.
    pub coefficient: f64,
}

impl EntropyBonus {
    /// A bonus of `coefficient` times the entropy.
    #[must_use]
    pub const fn new(coefficient: f64) -> Self {
        Self { coefficient }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        not_negative("entropy_bonus.coefficient", self.coefficient)
    }
}

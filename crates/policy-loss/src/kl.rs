//! The penalty for moving away from a reference policy.

use burn::tensor::Tensor;
use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::config::not_negative;
use crate::divergence::{expm1_minus_identity, k3_limit};

/// A KL penalty in the loss, against a frozen reference policy:
///
/// ```text
/// token_loss += coefficient * kl
///
/// q = log_probs - ref_log_probs
/// k1   kl = q                     unbiased, may be negative; its gradient is that of log_probs
/// k2   kl = q^2 / 2               biased a little; its gradient is that of KL itself
/// k3   kl = expm1(-q) + q         unbiased, never negative; q clamped to ±20
/// abs  kl = |q|
/// ```
///
/// The reference has to be frozen: a copy of the policy from before the training, taken with
/// `policy.valid()`, whose parameters no gradient reaches.
///
/// A rollout correction does not weigh it. Needs [`ref_log_probs`](crate::PolicyBatch).
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
}

/// The estimate of KL(new, reference) from one sampled token; see [`KlPenalty`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlGradient {
    /// That of the estimator.
    #[default]
    Estimator,
    /// That of k2, `q`, whatever the value: the gradient of KL itself where the sample is of the
    /// policy that is trained.
    StraightThrough,
    /// The estimate is multiplied by the [`Ratio`](crate::Ratio) of the objective, and the
    /// gradient flows through both: unbiased where the sample is of the old policy.
    ImportanceCorrected,
}

impl KlPenalty {
    /// A penalty by the estimate k3 with its own gradient.
    pub const fn new(coefficient: f64) -> Self {
        Self {
            coefficient,
            estimator: KlEstimator::K3,
            gradient: KlGradient::Estimator,
        }
    }

    /// Sets the estimate.
    pub const fn with_estimator(mut self, estimator: KlEstimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// Sets the gradient.
    pub const fn with_gradient(mut self, gradient: KlGradient) -> Self {
        self.gradient = gradient;
        self
    }

    /// The divergence of each token, before the coefficient; `q` is 0 at padding.
    pub(crate) fn of(&self, q: Tensor<2>, ratio: &Tensor<2>) -> Tensor<2> {
        match self.gradient {
            KlGradient::Estimator => self.estimator.of(q),
            KlGradient::ImportanceCorrected => self.estimator.of(q) * ratio.clone(),
            KlGradient::StraightThrough => {
                let constant = q.clone().without_autodiff();
                let value = self.estimator.of(constant.clone());
                // The difference is 0 and has the slope of k2. Not k2 - sg(k2): that is infinity
                // minus infinity where q is large.
                value + (q - constant.clone()) * constant
            }
        }
    }

    /// The penalty in the kernels' terms.
    pub(crate) fn kernel(self) -> kernels::Penalty {
        kernels::Penalty {
            coefficient: self.coefficient,
            estimator: match self.estimator {
                KlEstimator::K1 => kernels::Estimator::K1,
                KlEstimator::K2 => kernels::Estimator::K2,
                KlEstimator::K3 => kernels::Estimator::K3,
                KlEstimator::Abs => kernels::Estimator::Abs,
            },
            gradient: match self.gradient {
                KlGradient::Estimator => kernels::PenaltyGradient::Estimator,
                KlGradient::StraightThrough => kernels::PenaltyGradient::StraightThrough,
                KlGradient::ImportanceCorrected => kernels::PenaltyGradient::ImportanceCorrected,
            },
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        not_negative("kl_penalty.coefficient", self.coefficient)?;
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

impl KlEstimator {
    fn of(self, q: Tensor<2>) -> Tensor<2> {
        match self {
            Self::K1 => q,
            Self::K2 => q.square() * 0.5,
            Self::K3 => expm1_minus_identity(k3_limit(q.neg())),
            Self::Abs => q.abs(),
        }
    }
}

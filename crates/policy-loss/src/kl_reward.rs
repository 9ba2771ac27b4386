//! The distance to a reference policy, taken out of the rewards.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use crate::advantages::{Rewards, per_token};
use crate::alike::Alike;
use crate::composed::arithmetic;
use crate::composed::kl::estimate;
use crate::valid::Valid;
use crate::{BatchError, KlEstimator};

/// An estimate of KL(policy, reference) from one sampled token, subtracted from its reward.
///
/// With `d = log_probs - ref_log_probs` of the sampled token:
///
/// ```text
/// k1   d                        unbiased, may be negative
/// k2   d^2 / 2                  biased, little variance
/// k3   expm1(-d) + d            unbiased, never negative; d clamped to ±20
/// abs  |d|
/// ```
///
/// k3 is computed from a series near 0: `exp(-d) - 1 + d` in f32 is 3.3 times too large at
/// `d = 1e-4`.
///
/// Source: [Schulman 2020](http://joschu.net/blog/kl-approx.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KlReward {
    /// The estimate; k1 by default, whose expectation is the divergence itself.
    pub estimator: KlEstimator,
}

impl Default for KlReward {
    fn default() -> Self {
        Self::new(KlEstimator::K1)
    }
}

/// Rewards to be shaped, with the log-probs that the distance is measured by.
///
/// | tensor | shape | meaning |
/// |---|---|---|
/// | `rewards` | `[B, T]` or `[B]` | per token, or per sequence (given at its last valid token) |
/// | `log_probs` | `[B, T]` | of the policy that sampled |
/// | `ref_log_probs` | `[B, T]` | of the reference policy |
/// | `action_mask` | `[B, T]` bool | true where the policy generated the token; absent: all |
#[derive(Debug, Clone)]
pub struct KlRewardBatch {
    rewards: Rewards,
    log_probs: Tensor<2>,
    ref_log_probs: Tensor<2>,
    action_mask: Option<Tensor<2, Bool>>,
}

impl KlRewardBatch {
    /// A batch in which every token is valid; see [`KlRewardBatch`] for the shapes.
    pub fn new(
        rewards: impl Into<Rewards>,
        log_probs: Tensor<2>,
        ref_log_probs: Tensor<2>,
    ) -> Self {
        Self {
            rewards: rewards.into(),
            log_probs,
            ref_log_probs,
            action_mask: None,
        }
    }

    /// Sets which tokens the policy generated.
    pub fn with_action_mask(mut self, action_mask: Tensor<2, Bool>) -> Self {
        self.action_mask = Some(action_mask);
        self
    }
}

/// Shaped rewards, detached and still on the device; f64 where `log_probs` is f64, else f32.
#[derive(Debug, Clone)]
pub struct KlRewardOutput {
    /// `[B, T]`, `reward - coefficient * kl`, 0 at masked positions.
    pub rewards: Tensor<2>,
    /// `[B, T]`, the estimates, 0 at masked positions.
    pub kl: Tensor<2>,
    /// `[1]`, their mean over the valid tokens, which a [`KlController`](crate::KlController)
    /// wants to see; 0 where there is no valid token.
    pub mean_kl: Tensor<1>,
}

impl KlReward {
    /// By an estimate.
    #[must_use]
    pub const fn new(estimator: KlEstimator) -> Self {
        Self { estimator }
    }

    /// Subtracts `coefficient * kl` from the reward of every valid token. Nothing is read back from
    /// the device, and no gradient flows.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`KlRewardBatch`]
    /// - output: `[B, T]`
    ///
    /// # Errors
    ///
    /// A coefficient that is negative or not finite, shapes or devices that differ, a type that the
    /// device does not compute. All of it is found before any device work.
    pub fn forward(
        self,
        batch: KlRewardBatch,
        coefficient: f64,
    ) -> Result<KlRewardOutput, BatchError> {
        if !(coefficient.is_finite() && coefficient >= 0.0) {
            return Err(BatchError::OutOfRange {
                field: "coefficient",
                value: coefficient.to_string(),
                accepted: "a finite number not below 0".into(),
            });
        }
        let alike = Alike::of("log_probs", &batch.log_probs)?;
        alike.tokens("ref_log_probs", &batch.ref_log_probs)?;
        batch.rewards.check(&alike)?;
        let mask = alike.mask(batch.action_mask)?;

        let dtype = arithmetic(batch.log_probs.dtype());
        let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
        if alike.shape.contains(&0) {
            let nothing = constant(batch.log_probs);
            return Ok(KlRewardOutput {
                mean_kl: nothing.clone().sum(),
                rewards: nothing.clone(),
                kl: nothing,
            });
        }
        let valid = Valid::new(mask, dtype);
        let distance = constant(batch.log_probs) - constant(batch.ref_log_probs);
        let kl = estimate(self.estimator, valid.select(distance));
        let rewards = per_token(batch.rewards.constant(dtype), &valid);
        Ok(KlRewardOutput {
            rewards: rewards - kl.clone() * coefficient,
            mean_kl: valid.mean(kl.clone()),
            kl,
        })
    }
}

//! The loss itself: the visible steps of one forward pass.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::checked::CheckedBatch;
use crate::device::describe;
use crate::fused::Support;
use crate::output::PolicyLossOutput;
use crate::token_details::TokenDetails;
use crate::{BatchError, Implementation, PolicyBatch, PolicyLossConfig, composed, fused};

/// The policy loss of reinforcement learning from feedback.
///
/// With the parts of its [`PolicyLossConfig`], per token:
///
/// ```text
/// r          = the ratio                       (Ratio)
/// surrogate  = min(r A, clamp(r, ..) A)        (Surrogate), 0 where an OffPolicyMask or EntropyMask drops it
/// f          = the weight by what is behind, or 1 (FutureWeight)
/// w          = the rollout weight, or 1        (RolloutCorrection)
/// token_loss = -surrogate * f * w + kl - entropy (KlPenalty, EntropyBonus)
/// loss       = the mean of token_loss          (Reduction)
/// ```
///
/// It is a [`Module`] without parameters, so that it can sit inside a model.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Tensor};
/// use policy_loss::{PolicyBatch, PolicyLossConfig};
///
/// let device = Device::flex().autodiff();
/// let log_probs = Tensor::<2>::from_floats([[-1.0, -0.5, -2.0]], &device).require_grad();
/// let old_log_probs = Tensor::<2>::from_floats([[-1.1, -0.5, -1.5]], &device);
/// let advantages = Tensor::<1>::from_floats([1.0], &device);
///
/// let loss = PolicyLossConfig::new().init()?;
/// let output = loss.forward(PolicyBatch::new(log_probs.clone(), old_log_probs, advantages))?;
/// let gradients = output.loss.backward();
/// assert!(log_probs.grad(&gradients).is_some());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct PolicyLoss {
    #[module(skip)]
    config: PolicyLossConfig,
}

impl PolicyLoss {
    pub(crate) fn from_valid(config: PolicyLossConfig) -> Self {
        Self { config }
    }

    /// The configuration that this loss was built from.
    pub fn config(&self) -> &PolicyLossConfig {
        &self.config
    }

    /// Computes the loss of a batch, with its metrics. Nothing is read back from the device.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`PolicyBatch`]
    /// - `loss`: `[1]`
    ///
    /// # Errors
    ///
    /// Shapes or devices differ, a tensor is missing that the objective needs, the device does not
    /// compute a tensor's type, the global totals do not fit the reduction, the fused implementation
    /// is asked for where there is none, or this build lacks the feature that has the device's
    /// kernels. All of it is found before any device work.
    pub fn forward(&self, batch: PolicyBatch) -> Result<PolicyLossOutput, BatchError> {
        let objective = &self.config.objective;
        let batch = batch.check(objective)?;
        let implementation = self.implementation(&batch)?;
        if batch.is_empty() {
            return Ok(PolicyLossOutput::empty(objective, batch, implementation));
        }
        let batch = batch.padded();
        let outputs = match implementation {
            Implementation::Fused => fused::forward(objective, batch),
            Implementation::Auto | Implementation::Composed => composed::forward(objective, batch),
        };
        Ok(PolicyLossOutput::new(objective, outputs, implementation))
    }

    /// The implementation that a batch's device has for this objective.
    pub(crate) fn implementation(
        &self,
        batch: &CheckedBatch,
    ) -> Result<Implementation, BatchError> {
        let must_be_fused = match self.config.implementation {
            Implementation::Composed => return Ok(Implementation::Composed),
            Implementation::Auto => false,
            Implementation::Fused => true,
        };
        let device = batch.log_probs.device();
        let name = || describe(&device);
        match fused::support(&self.config.objective, &device, batch.tokens()) {
            Support::Full => Ok(Implementation::Fused),
            Support::FeatureMissing(feature) => Err(BatchError::FeatureMissing {
                device: name(),
                feature,
            }),
            Support::NoKernels if must_be_fused => Err(BatchError::NotFused { device: name() }),
            Support::AllBut(part) if must_be_fused => Err(BatchError::PartNotFused {
                part,
                device: name(),
            }),
            Support::NoKernels | Support::AllBut(_) => Ok(Implementation::Composed),
        }
    }

    /// Computes the token losses of a batch without reducing them, 0 at masked positions. They are
    /// always composed: an unreduced loss has no one gradient that could be computed beforehand.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`PolicyBatch`]
    /// - output: `[B, T]`
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_no_reduction(&self, batch: PolicyBatch) -> Result<Tensor<2>, BatchError> {
        let mut batch = batch.check(&self.config.objective)?.padded();
        let dtype = batch.log_probs.dtype();
        if batch.is_empty() {
            return Ok(batch.log_probs.cast(composed::arithmetic(dtype)));
        }
        let packing = batch.packing.take();
        let (token_loss, ..) = composed::token_losses(&self.config.objective, batch);
        Ok(match packing {
            Some(packing) => packing.unpad(token_loss),
            None => token_loss,
        })
    }

    /// What the loss makes of each token: its ratio and its weight, and what was clipped or dropped.
    /// Composed like [`forward_no_reduction`](Self::forward_no_reduction), detached, and nothing is
    /// read back.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`PolicyBatch`]
    /// - output: every tensor `[B, T]`
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and for a batch without a single token.
    pub fn token_details(&self, batch: PolicyBatch) -> Result<TokenDetails, BatchError> {
        let mut batch = batch.check(&self.config.objective)?.padded();
        if batch.is_empty() {
            return Err(BatchError::Shape {
                tensor: "log_probs",
                expected: "a token at least".into(),
                got: batch.log_probs.dims().to_vec(),
            });
        }
        let packing = batch.packing.take();
        let (token_loss, valid, observed) = composed::token_losses(&self.config.objective, batch);
        let details = TokenDetails::new(token_loss.without_autodiff(), valid, observed);
        Ok(match packing {
            Some(packing) => details.unpad(&packing),
            None => details,
        })
    }
}

//! What is given of each token.

use burn::tensor::{Bool, Device, Int, Tensor};

use super::checks;
use crate::BatchError;

/// The tokens whose log-probs are taken, and what is said of each of them. Targets alone are enough:
/// every method that takes this takes a tensor of targets, too.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Bool, Device, Int, Tensor};
/// use policy_loss::LogProbsTokens;
///
/// let device = Device::flex();
/// let targets = Tensor::<1, Int>::from_ints([2, 0], &device);
/// let mask = Tensor::<1, Bool>::from_data([true, false], &device);
/// let tokens = LogProbsTokens::new(targets).with_action_mask(mask);
/// # }
/// ```
///
/// # Shapes
///
/// Every tensor has the shape of the hidden states or logits without their last dimension.
#[derive(Debug, Clone)]
pub struct LogProbsTokens<const D: usize> {
    pub(super) targets: Tensor<D, Int>,
    pub(super) action_mask: Option<Tensor<D, Bool>>,
}

impl<const D: usize> LogProbsTokens<D> {
    /// Tokens that are all valid.
    pub fn new(targets: Tensor<D, Int>) -> Self {
        Self {
            targets,
            action_mask: None,
        }
    }

    /// Sets which tokens are valid, if there is a mask. The others may hold anything: their
    /// log-probs and gradients are 0.
    pub fn with_action_mask(mut self, action_mask: impl Into<Option<Tensor<D, Bool>>>) -> Self {
        self.action_mask = action_mask.into();
        self
    }

    pub(super) fn check(&self, shape: &[usize; D], device: &Device) -> Result<(), BatchError> {
        checks::shape("targets", &self.targets.dims(), shape)?;
        checks::device("targets", &self.targets.device(), device)?;
        if let Some(mask) = &self.action_mask {
            checks::shape("action_mask", &mask.dims(), shape)?;
            checks::device("action_mask", &mask.device(), device)?;
        }
        Ok(())
    }

    /// The same tokens, one after another.
    pub(super) fn flat(self) -> LogProbsTokens<1> {
        let count = self.targets.shape().num_elements();
        LogProbsTokens {
            targets: self.targets.reshape([count]),
            action_mask: self.action_mask.map(|mask| mask.reshape([count])),
        }
    }
}

impl<const D: usize> From<Tensor<D, Int>> for LogProbsTokens<D> {
    fn from(targets: Tensor<D, Int>) -> Self {
        Self::new(targets)
    }
}

//! What is given of each token.

use burn::tensor::{Bool, DType, Int, Tensor};

use super::{KeptTokens, LogProbsConfig};
use crate::BatchError;
use crate::alike::Alike;

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
    pub(super) kept_tokens: Option<KeptTokens>,
    pub(super) temperatures: Option<Tensor<D>>,
}

impl<const D: usize> LogProbsTokens<D> {
    /// Tokens that are all valid.
    pub fn new(targets: Tensor<D, Int>) -> Self {
        Self {
            targets,
            action_mask: None,
            kept_tokens: None,
            temperatures: None,
        }
    }

    setters! {
        /// Sets which tokens are valid, if there is a mask. The others may hold anything: their
        /// log-probs and gradients are 0.
        with_action_mask(action_mask: impl Into<Option<Tensor<D, Bool>>>);
        /// Sets what a sampler kept of the vocabulary, if it drew from a part of it, as top-k, top-p and
        /// min-p do. Log-probs and entropies are then those of the distribution that it drew from,
        ///
        /// ```text
        /// log_prob = z[target] - log(sum_kept exp(z_v))
        /// entropy  = -sum_kept p_v log(p_v),   p = softmax of the kept z
        /// ```
        ///
        /// after the softcap and the temperature, and the gradient of every other logit is 0. A target
        /// is always kept, whether it stands in its list or not; where nothing else is, log-prob,
        /// entropy and gradient are 0.
        ///
        /// A policy has to be restricted to the same tokens wherever its log-probs are compared: the
        /// old ones, and those of the sampler, are of this distribution, too. Those for a KL penalty are
        /// usually of the whole vocabulary, which takes a second call.
        ///
        /// Chunks of tokens hold the places of their lists on the device, filled up to the longest of
        /// them, beside their logits.
        with_kept_tokens(kept_tokens: impl Into<Option<KeptTokens>>);
        /// Sets a temperature for each token, if they differ: what its logits are divided by, in place
        /// of the one of the configuration, which stays 1 then. They receive no gradient.
        ///
        /// What is not finite or not above 0 makes its token's log-prob NaN, or is an error where
        /// [`check_targets`](LogProbsConfig::check_targets) asks for that. A masked token may have any
        /// temperature.
        with_temperatures(temperatures: impl Into<Option<Tensor<D>>>);
    }

    pub(super) fn check(
        &self,
        alike: &Alike<D>,
        vocabulary: usize,
        config: &LogProbsConfig,
    ) -> Result<(), BatchError> {
        alike.shaped("targets", &self.targets)?;
        if let Some(mask) = &self.action_mask {
            alike.shaped("action_mask", mask)?;
        }
        if let Some(temperatures) = &self.temperatures {
            alike.tokens("temperatures", temperatures)?;
            if config.temperature != 1.0 {
                return Err(BatchError::Twice {
                    tensor: "temperature",
                    accepted: "`LogProbsConfig::with_temperature` or `LogProbsTokens::with_temperatures`",
                });
            }
        }
        match &self.kept_tokens {
            Some(kept) => kept.check(alike.shape.iter().product(), vocabulary),
            None => Ok(()),
        }
    }

    /// The same tokens, one after another.
    pub(super) fn flat(self) -> LogProbsTokens<1> {
        let count = self.targets.shape().num_elements();
        LogProbsTokens {
            targets: self.targets.reshape([count]),
            action_mask: self.action_mask.map(|mask| mask.reshape([count])),
            kept_tokens: self.kept_tokens,
            temperatures: self
                .temperatures
                .map(|temperatures| temperatures.without_autodiff().reshape([count])),
        }
    }
}

/// Ids of words in the one type that all operations take them in. Words that it cannot count are none.
pub(super) fn as_indices<const D: usize>(ids: Tensor<D, Int>) -> Tensor<D, Int> {
    let ids = match ids.dtype() {
        DType::I32 => return ids,
        DType::I64 => ids.clamp(-1, i32::MAX),
        DType::U32 | DType::U64 => ids.clamp_max(i32::MAX),
        _ => ids,
    };
    ids.cast(DType::I32)
}

impl<const D: usize> From<Tensor<D, Int>> for LogProbsTokens<D> {
    fn from(targets: Tensor<D, Int>) -> Self {
        Self::new(targets)
    }
}

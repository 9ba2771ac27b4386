//! Log-probs of hidden states, without their logits.

use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Tensor};

use super::config::{HalfProducts, TokenLogProbs};
use super::plan::{Plane, Settings};
use super::prepared::{Chosen, Place, Work};
use super::seam::{self, Head, Tokens};
use super::tokens::as_indices;
use super::{LinearHead, LogProbs, LogProbsTokens, VocabularyShard, checks};
use crate::BatchError;
use crate::composed::arithmetic;
use crate::device::describe;

impl TokenLogProbs {
    /// The log-probs of `tokens` under `hidden * weight + bias`, without holding the logits.
    ///
    /// Chunks of tokens are multiplied with the head one after another; the backward pass computes
    /// each chunk's logits again, so that four products are made in all, and the memory does not
    /// depend on tokens times vocabulary. Where hidden states, weight or bias are not tracked,
    /// their gradients are not computed. The arithmetic, and the sums of gradients, are f64 where
    /// the hidden states are, else f32; [`HalfProducts`] says how half types are multiplied, and
    /// their gradients are rounded once.
    ///
    /// Tokens whose mask is false are left out before the products. The number of the others
    /// has to be known for that, so the mask is read back once; on a GPU that is one
    /// synchronisation.
    ///
    /// ```
    /// # #[cfg(feature = "flex")] {
    /// use burn::tensor::{Device, Distribution, Int, Tensor};
    /// use policy_loss::{LinearHead, LogProbsConfig};
    ///
    /// let device = Device::flex().autodiff();
    /// let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device).require_grad();
    /// let (hidden, weight) = (random([4, 8]), random([8, 100]));
    /// let targets = Tensor::<1, Int>::from_ints([3, 99, 0, 7], &device);
    ///
    /// let log_probs = LogProbsConfig::new().init()?;
    /// let head = LinearHead::new(weight.clone());
    /// let output = log_probs.forward_linear(hidden, &head, targets)?;
    /// let gradients = output.log_probs.sum().backward();
    /// assert!(weight.grad(&gradients).is_some());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Shapes
    ///
    /// - `hidden`: `[B, T, H]` or `[N, H]`, or any other of rank `D`
    /// - `tokens` (targets, or [`LogProbsTokens`]), and every output: the same without `H`, of rank
    ///   `E = D - 1`
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and a head that does not fit the hidden states. A target
    /// outside of the vocabulary is no error where the mask is false.
    pub fn forward_linear<const D: usize, const E: usize>(
        &self,
        hidden: Tensor<D>,
        head: &LinearHead,
        tokens: impl Into<LogProbsTokens<E>>,
    ) -> Result<LogProbs<E>, BatchError> {
        let (work, place) = self.prepare_linear(hidden, head, tokens.into(), None)?;
        Ok(self.finished(work, &place))
    }

    /// Checks hidden states and a head, a shard of it if it lies in several. There is no work without
    /// a token.
    pub(super) fn prepare_linear<const D: usize, const E: usize>(
        &self,
        hidden: Tensor<D>,
        head: &LinearHead,
        tokens: LogProbsTokens<E>,
        shard: Option<VocabularyShard>,
    ) -> Result<(Option<Work>, Place<E>), BatchError> {
        const { assert!(D == E + 1, "`tokens` have the rank of `hidden`, less one") };
        let alike = checks::rows("hidden", &hidden)?;
        let (count, width) = (alike.shape.iter().product(), hidden.dims()[D - 1]);
        checks::head(head, width, &alike)?;
        let [_, words] = head.dims();
        let (vocabulary, is_fused) = self.check(&tokens, &alike, words, shard)?;
        let plain = alike.device.clone().without_autodiff();
        let wide = arithmetic(hidden.dtype());
        let dtype = match self.is_native(hidden.dtype(), head.weight.dtype(), &plain, is_fused)? {
            true => hidden.dtype(),
            false => wide,
        };
        let mut place = Place::of_all(alike, wide);
        if count == 0 {
            return Ok((None, place));
        }
        let tokens = tokens.flat();
        let mut valid = checks::valid_tokens(tokens.action_mask.as_ref())?;
        if self.config.check_targets {
            checks::values(&tokens, valid.as_deref(), vocabulary)?;
        }
        let chosen = Chosen::new(&mut valid, &plain);
        let kept = tokens.kept_tokens.map(|kept| match valid {
            Some(valid) => kept.select(valid.into_iter()),
            None => kept.sorted(),
        });
        let targets = chosen.select(as_indices(tokens.targets.without_autodiff()));
        // That of a token that stands in may be anything.
        let temperatures = tokens.temperatures.filter(|_| !chosen.is_empty);
        let temperatures = temperatures.map(|temperatures| chosen.select(temperatures));
        let hidden = chosen.rows(hidden.reshape([count, width]));
        place.chosen = chosen;
        let bias = match &head.bias {
            Some(bias) => bias.clone().cast(wide),
            None => Tensor::zeros([1], (&plain, wide)),
        };
        let [count, _] = hidden.dims();
        let head_is_tracked = head.weight.is_tracked() || bias.is_tracked();
        let plane = Plane {
            tokens: count,
            width,
            vocabulary: words,
            dtype,
            is_tracked: hidden.is_tracked() || head_is_tracked,
            is_weight_tracked: head.weight.is_tracked(),
        };
        let work = Work {
            settings: Settings {
                has_weight: true,
                transposed: head.transposed,
                has_bias: head.bias.is_some(),
                ..self.settings(plane, shard, &plain)
            },
            head: Head {
                hidden: hidden.cast(dtype),
                weight: head.weight.clone().cast(dtype),
                bias,
            },
            tokens: Tokens {
                targets,
                scales: self.scales(temperatures, count, (&plain, wide)),
                kept,
                candidates: None,
            },
            is_fused,
        };
        Ok((Some(work), place))
    }

    /// Whether hidden states and weight are multiplied in their half type.
    fn is_native(
        &self,
        hidden: DType,
        weight: DType,
        device: &Device,
        is_fused: bool,
    ) -> Result<bool, BatchError> {
        let is_half = matches!(hidden, DType::F16 | DType::BF16);
        let possible = is_half && hidden == weight && is_fused && seam::is_gpu(device);
        match self.config.half_products {
            HalfProducts::Native if is_half && !possible => Err(BatchError::NotNative {
                hidden,
                weight,
                device: describe(device),
            }),
            HalfProducts::Auto | HalfProducts::Native => Ok(possible),
            HalfProducts::Widened => Ok(false),
        }
    }
}

/// A vector of `length` with values at their places, and 0 elsewhere.
pub(super) fn scattered(
    values: Tensor<1>,
    places: Tensor<1, Int>,
    length: usize,
    dtype: DType,
) -> Tensor<1> {
    let device = values.device();
    Tensor::zeros([length], (&device, dtype)).select_assign(
        0,
        places,
        values,
        IndexingUpdateOp::Add,
    )
}

/// Exactly 0, whatever stood there, in the same graph.
pub(super) fn emptied<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let plain = tensor.device().without_autodiff();
    let everywhere = Tensor::<D, Bool>::ones(tensor.dims(), &plain);
    tensor.mask_fill(everywhere, 0.0)
}

//! Log-probs of logits.

use burn::tensor::{DType, Device, Tensor};

use super::config::{Entropy, TokenLogProbs};
use super::plan::{Cut, Plane, Settings};
use super::prepared::{Place, Work};
use super::seam::{self, Head, Tokens};
use super::tokens::as_indices;
use super::{LogProbs, LogProbsTokens, VocabularyShard, checks};
use crate::composed::arithmetic;
use crate::device::describe;
use crate::{BatchError, Implementation};

impl TokenLogProbs {
    /// The log-probs of `tokens` under `logits`.
    ///
    /// The arithmetic is f64 where the logits are, else f32; the gradient of the logits has their
    /// type. Kept for the backward pass are the logits, which are never modified, and two numbers
    /// a token. A logit of -inf takes its token out of the vocabulary, unless there is a softcap. The gradient of a token
    /// whose log-prob receives none is exactly 0, whatever its logits hold; its target may then be
    /// anything.
    ///
    /// ```
    /// # #[cfg(feature = "flex")] {
    /// use burn::tensor::{Device, Int, Tensor};
    /// use policy_loss::LogProbsConfig;
    ///
    /// let device = Device::flex().autodiff();
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0, 3.0]], &device).require_grad();
    /// let targets = Tensor::<1, Int>::from_ints([2], &device);
    ///
    /// let output = LogProbsConfig::new().init()?.forward(logits.clone(), targets)?;
    /// let gradients = output.log_probs.sum().backward();
    /// assert!(logits.grad(&gradients).is_some());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Shapes
    ///
    /// - `logits`: `[B, T, V]` or `[N, V]`, or any other of rank `D`
    /// - `tokens` (targets, or [`LogProbsTokens`]), and every output: the same without `V`, of rank
    ///   `E = D - 1`
    ///
    /// # Errors
    ///
    /// Shapes or devices differ, the device does not compute the type of the logits, lists of kept
    /// tokens do not fit, one temperature is given and one for each token, or the fused
    /// implementation is asked for where there is none; and, where the configuration asks for the
    /// check, a target outside of the vocabulary, or a temperature of a token that is not finite and
    /// above 0. Without that check such a target or temperature gives NaN.
    pub fn forward<const D: usize, const E: usize>(
        &self,
        logits: Tensor<D>,
        tokens: impl Into<LogProbsTokens<E>>,
    ) -> Result<LogProbs<E>, BatchError> {
        let (work, place) = self.prepare(logits, tokens.into(), None)?;
        Ok(self.finished(work, &place))
    }

    /// Checks logits, of a shard of the vocabulary if it lies in several. There is no work without a
    /// token.
    pub(super) fn prepare<const D: usize, const E: usize>(
        &self,
        logits: Tensor<D>,
        tokens: LogProbsTokens<E>,
        shard: Option<VocabularyShard>,
    ) -> Result<(Option<Work>, Place<E>), BatchError> {
        const { assert!(D == E + 1, "`tokens` have the rank of `logits`, less one") };
        let alike = checks::rows("logits", &logits)?;
        let (count, words) = (alike.shape.iter().product(), logits.dims()[D - 1]);
        if words == 0 {
            return Err(BatchError::Shape {
                tensor: "logits",
                expected: "a last dimension above 0".into(),
                got: logits.dims().to_vec(),
            });
        }
        let (vocabulary, is_fused) = self.check(&tokens, &alike, words, shard)?;
        let (plain, dtype) = (
            alike.device.clone().without_autodiff(),
            arithmetic(logits.dtype()),
        );
        let mut place = Place::of_all(alike, dtype);
        if count == 0 {
            return Ok((None, place));
        }
        let tokens = tokens.flat();
        if self.config.check_targets {
            let valid = checks::valid_tokens(tokens.action_mask.as_ref())?;
            checks::values(&tokens, valid.as_deref(), vocabulary)?;
        }
        let plane = Plane {
            tokens: count,
            width: 0,
            vocabulary: words,
            dtype,
            is_tracked: logits.is_tracked(),
            is_weight_tracked: false,
        };
        let settings = self.settings(plane, shard, &plain);
        let logits: Tensor<2> = logits.reshape([count, words]);
        place.masked = tokens.action_mask.map(Tensor::bool_not);
        let tokens = Tokens {
            targets: as_indices(tokens.targets.without_autodiff()),
            scales: self.scales(tokens.temperatures, count, (&plain, dtype)),
            kept: tokens.kept_tokens.map(|kept| kept.sorted()),
            candidates: None,
        };
        let logits = match &place.masked {
            Some(masked) if !is_fused => logits.mask_fill(masked.clone().reshape([count, 1]), 0.0),
            _ => logits,
        };
        let work = Work {
            head: Head::of_logits(logits),
            tokens,
            settings,
            is_fused,
        };
        Ok((Some(work), place))
    }

    /// Whether the device's backend computes a chunk at a time.
    pub(super) fn is_fused(&self, vocabulary: usize, device: &Device) -> Result<bool, BatchError> {
        match (self.config.implementation, seam::available(device)) {
            (Implementation::Composed, _) | (Implementation::Auto, false) => Ok(false),
            // Every log-prob is 0 where there is one word, and Burn's fusion (0.22.1) fails to
            // merge reductions of a single number.
            (Implementation::Auto | Implementation::Fused, true) => Ok(vocabulary > 1),
            (Implementation::Fused, false) => Err(BatchError::NotFused {
                device: describe(device),
            }),
        }
    }

    /// What the configuration means for a plane of logits.
    pub(super) fn settings(
        &self,
        plane: Plane,
        shard: Option<VocabularyShard>,
        device: &Device,
    ) -> Settings {
        let config = &self.config;
        let cut = Cut::of(plane, config, device);
        Settings {
            softcap: config.logit_softcap,
            entropy: config.entropy != Entropy::None,
            entropy_gradient: config.entropy == Entropy::Tracked,
            squares: config.sum_of_squares,
            candidates: 0,
            words: plane.vocabulary,
            shard,
            chunk_tokens: cut.tokens,
            chunk_words: cut.words,
            forward_tokens: cut.forward_tokens,
            has_weight: false,
            transposed: false,
            has_bias: false,
        }
    }

    /// What the logits of `count` tokens are multiplied by. It is NaN where a temperature means
    /// nothing, so that nobody takes what follows for a log-prob.
    pub(super) fn scales(
        &self,
        temperatures: Option<Tensor<1>>,
        count: usize,
        (device, dtype): (&Device, DType),
    ) -> Tensor<1> {
        match temperatures {
            Some(temperatures) => {
                let temperatures = temperatures.cast(dtype);
                let scales = temperatures.clone().recip();
                // That of an infinite temperature is 0.
                let meaningless = temperatures
                    .lower_equal_elem(0.0)
                    .bool_or(scales.clone().lower_equal_elem(0.0));
                scales.mask_fill(meaningless, f64::NAN)
            }
            None => Tensor::full([count], self.config.temperature.recip(), (device, dtype)),
        }
    }
}

//! From hidden states to the policy loss.

use burn::tensor::Tensor;

use super::config::{Entropy, TokenLogProbs};
use super::eager;
use super::{LinearHead, LogProbsTokens};
use crate::alike::Alike;
use crate::{BatchError, PolicyBatch, PolicyLoss, PolicyLossOutput};

impl PolicyLoss {
    /// The loss of a batch whose log-probs are those of `tokens` under `hidden * weight + bias`.
    ///
    /// The same as [`TokenLogProbs::forward_linear`] followed by [`forward`](Self::forward), and
    /// faster where the objective is a sum over tokens (a ratio per token, a surrogate of tokens, no
    /// off-policy mask, no entropy mask, no future weight and no entropy bonus): then the gradients of
    /// hidden states and head are made in the forward pass, while a chunk's logits are still
    /// there, with three products in all and not four. The backward pass only scales them. Where a
    /// sequence shares a ratio, each chunk's logits are computed again.
    ///
    /// The batch is made with [`PolicyBatch::without_log_probs`] or, on policy,
    /// [`PolicyBatch::on_policy_without_log_probs`]; tokens outside of its action mask are left out
    /// before the products. `log_probs` says the temperature and the memory budget. An
    /// [`EntropyMask`](crate::EntropyMask) and an [`EntropyBonus`](crate::EntropyBonus) get their
    /// entropies from the same logits; the batch needs none. A mask may come with the batch or with
    /// the tokens, not with both.
    ///
    /// ```
    /// # #[cfg(feature = "flex")] {
    /// use burn::tensor::{Device, Distribution, Int, Tensor};
    /// use policy_loss::{LinearHead, LogProbsConfig, PolicyBatch, PolicyLossConfig};
    ///
    /// let device = Device::flex().autodiff();
    /// let hidden = Tensor::<3>::random([1, 4, 8], Distribution::Default, &device).require_grad();
    /// let weight = Tensor::<2>::random([8, 100], Distribution::Default, &device).require_grad();
    /// let targets = Tensor::<2, Int>::from_ints([[3, 99, 0, 7]], &device);
    /// let old_log_probs = Tensor::<2>::full([1, 4], -4.6, &device);
    /// let advantages = Tensor::<1>::from_floats([1.0], &device);
    ///
    /// let loss = PolicyLossConfig::new().init()?;
    /// let log_probs = LogProbsConfig::new().init()?;
    /// let head = LinearHead::new(weight.clone());
    /// let batch = PolicyBatch::without_log_probs(old_log_probs, advantages);
    /// let output = loss.forward_linear(&log_probs, hidden, &head, targets, batch)?;
    /// let gradients = output.loss.backward();
    /// assert!(weight.grad(&gradients).is_some());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Shapes
    ///
    /// - `hidden`: `[B, T, H]`
    /// - `tokens` (targets, or [`LogProbsTokens`]): `[B, T]`
    /// - `batch`: see [`PolicyBatch`]
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward) and [`TokenLogProbs::forward_linear`], two masks, and a batch
    /// with log-probs.
    pub fn forward_linear(
        &self,
        log_probs: &TokenLogProbs,
        hidden: Tensor<3>,
        head: &LinearHead,
        tokens: impl Into<LogProbsTokens<2>>,
        mut batch: PolicyBatch,
    ) -> Result<PolicyLossOutput, BatchError> {
        let mut given = tokens.into();
        match (&batch.action_mask, given.action_mask.take()) {
            (Some(_), Some(_)) => {
                return Err(BatchError::Twice {
                    tensor: "action_mask",
                    accepted: "`PolicyBatch::with_action_mask` or `LogProbsTokens::with_action_mask`",
                });
            }
            (None, mask) => batch.action_mask = mask,
            (Some(_), None) => {}
        }
        // Found before any product. Entropies are made on the way, too.
        let objective = &self.config().objective;
        if batch.log_probs.is_some() {
            return Err(BatchError::Twice {
                tensor: "log_probs",
                accepted: "the hidden states, in a batch of `PolicyBatch::without_log_probs` or \
                    `PolicyBatch::on_policy_without_log_probs`",
            });
        }
        let known = match &batch.old_log_probs {
            Some(old_log_probs) => old_log_probs.clone().without_autodiff(),
            None => {
                let [sequences, tokens, _] = hidden.dims();
                Tensor::zeros([sequences, tokens], &hidden.device().without_autodiff())
            }
        };
        let [sequences, tokens] = known.dims();
        let reference = match batch.old_log_probs {
            Some(_) => "old_log_probs",
            None => "hidden",
        };
        let alike = Alike {
            reference,
            shape: known.dims(),
            device: known.device(),
        };
        let mut complete = batch.clone();
        complete.log_probs = Some(known.clone());
        if objective.reads_entropies() {
            complete.entropies = Some(known);
        }
        self.implementation(&complete.check_as(reference, objective)?)?;
        alike.device("hidden", &hidden.device())?;
        let got = hidden.dims();
        if got[..2] != [sequences, tokens] {
            return Err(BatchError::Shape {
                tensor: "hidden",
                expected: format!("[{sequences}, {tokens}, H], like the batch"),
                got: got.to_vec(),
            });
        }
        given.action_mask = batch.action_mask.clone();
        let mut config = *log_probs.config();
        config.entropy = match objective.entropy_bonus {
            Some(_) => Entropy::Tracked,
            None if objective.reads_entropies() => Entropy::Metric,
            None => Entropy::None,
        };
        config.sum_of_squares = false;
        let log_probs = TokenLogProbs { config };
        let (work, place) = log_probs.prepare_linear(hidden, head, given, None)?;
        // Without old log-probs the new ones take their place: all of them have to be known.
        let is_sum = objective.decomposes_over_tokens() && batch.old_log_probs.is_some();
        let work = match work {
            Some(work) if is_sum && eager::pays(&work) => {
                return eager::forward(self, work, &place, &batch);
            }
            work => work,
        };
        let log_probs = log_probs.finished(work, &place);
        self.forward(PolicyBatch {
            log_probs: Some(log_probs.log_probs),
            entropies: log_probs.entropies,
            ..batch
        })
    }
}

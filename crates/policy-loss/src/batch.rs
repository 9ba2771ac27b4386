//! What goes in.

use burn::tensor::{Bool, Int, Tensor};

use crate::GlobalTotals;

/// One batch of `B` sequences of `T` tokens.
///
/// | tensor | shape | meaning |
/// |---|---|---|
/// | `log_probs` | `[B, T]` | log π_θ(a_t \| s_t) of the policy being trained; receives a gradient; absent where [`PolicyLoss::forward_linear`](crate::PolicyLoss::forward_linear) computes them |
/// | `old_log_probs` | `[B, T]` | of the policy that the update started from; absent [on policy](Self::on_policy) |
/// | `advantages` | `[B, T]`, `[B, 1]` or `[B]` | advantage estimates, per token or per sequence |
/// | `action_mask` | `[B, T]` bool | true where the policy generated the token; absent: all |
/// | `rollout_log_probs` | `[B, T]` | as the inference engine reported them when it sampled |
/// | `ref_log_probs` | `[B, T]` | of a frozen reference policy; a KL penalty reads it |
/// | `segment_ids` | `[B, T]` integers | equal at tokens of the same turn, sentence or tool call; what is made of segments reads them; absent: a segment is a run of valid tokens |
/// | `entropies` | `[B, T]` | of the policy's token distributions; an entropy mask and an entropy bonus read it; only the bonus gives it a gradient |
///
/// Inputs may be f64, f32, f16 or bf16, also mixed. Everything but `log_probs` and `entropies` is a
/// constant: gradients stop there. A value at a masked position, whatever it is, changes nothing.
///
/// Sequences of very different length may also lie one behind the other in a single row: see
/// [`with_sequence_ids`](Self::with_sequence_ids).
#[derive(Debug, Clone)]
pub struct PolicyBatch {
    pub(crate) log_probs: Option<Tensor<2>>,
    pub(crate) old_log_probs: Option<Tensor<2>>,
    pub(crate) advantages: Advantages,
    pub(crate) action_mask: Option<Tensor<2, Bool>>,
    pub(crate) rollout_log_probs: Option<Tensor<2>>,
    pub(crate) ref_log_probs: Option<Tensor<2>>,
    pub(crate) entropies: Option<Tensor<2>>,
    pub(crate) segment_ids: Option<Tensor<2, Int>>,
    pub(crate) sequence_ids: Option<Vec<usize>>,
    pub(crate) prompt_ids: Option<Vec<i64>>,
    pub(crate) prompt_tokens: Option<Vec<usize>>,
    pub(crate) entropy_threshold: Option<f64>,
    pub(crate) second_moment_limit: Option<f64>,
    pub(crate) totals: Option<GlobalTotals>,
}

/// Advantage estimates, per token or per sequence.
#[derive(Debug, Clone)]
pub enum Advantages {
    /// `[B, T]`; `[B, 1]` is read as one per sequence.
    Token(Tensor<2>),
    /// `[B]`, the same for every token of a sequence.
    Sequence(Tensor<1>),
}

impl From<Tensor<2>> for Advantages {
    fn from(advantages: Tensor<2>) -> Self {
        Self::Token(advantages)
    }
}

impl From<Tensor<1>> for Advantages {
    fn from(advantages: Tensor<1>) -> Self {
        Self::Sequence(advantages)
    }
}

impl PolicyBatch {
    /// A batch in which every token is valid; see [`PolicyBatch`] for the shapes.
    pub fn new(
        log_probs: Tensor<2>,
        old_log_probs: Tensor<2>,
        advantages: impl Into<Advantages>,
    ) -> Self {
        Self {
            old_log_probs: Some(old_log_probs),
            ..Self::on_policy(log_probs, advantages)
        }
    }

    /// A batch that was sampled by the very policy that is trained, and that no step has moved
    /// yet: `old_log_probs` are `log_probs` without their gradient, so that every ratio is 1, with
    /// a gradient.
    pub fn on_policy(log_probs: Tensor<2>, advantages: impl Into<Advantages>) -> Self {
        Self {
            log_probs: Some(log_probs),
            ..Self::on_policy_without_log_probs(advantages)
        }
    }

    /// A batch whose log-probs are computed together with the loss, by
    /// [`PolicyLoss::forward_linear`](crate::PolicyLoss::forward_linear). Any other method refuses it.
    pub fn without_log_probs(old_log_probs: Tensor<2>, advantages: impl Into<Advantages>) -> Self {
        Self {
            old_log_probs: Some(old_log_probs),
            ..Self::on_policy_without_log_probs(advantages)
        }
    }

    /// As [`without_log_probs`](Self::without_log_probs), sampled by the very policy that is trained:
    /// see [`on_policy`](Self::on_policy).
    pub fn on_policy_without_log_probs(advantages: impl Into<Advantages>) -> Self {
        Self {
            log_probs: None,
            old_log_probs: None,
            advantages: advantages.into(),
            action_mask: None,
            rollout_log_probs: None,
            ref_log_probs: None,
            entropies: None,
            segment_ids: None,
            sequence_ids: None,
            prompt_ids: None,
            prompt_tokens: None,
            entropy_threshold: None,
            second_moment_limit: None,
            totals: None,
        }
    }

    setters! {
        /// Sets which tokens the policy generated. Trainers that hold a float or integer mask turn it
        /// into this one with [`action_mask`](crate::action_mask).
        with_action_mask(action_mask: Tensor<2, Bool>);
        /// Adds the log-probs that the inference engine reported when it sampled.
        #[doc(alias = "vllm_log_probs")]
        with_rollout_log_probs(rollout_log_probs: Tensor<2>);
        /// Adds the log-probs of a frozen reference policy, which a
        /// [`KlPenalty`](crate::KlPenalty) needs.
        with_ref_log_probs(ref_log_probs: Tensor<2>);
        /// Adds the entropies of the policy's token distributions. An
        /// [`EntropyMask`](crate::EntropyMask) reads them; an [`EntropyBonus`](crate::EntropyBonus) needs
        /// them tracked, since it gives them a gradient.
        with_entropies(entropies: Tensor<2>);
        /// Says which turn, sentence or tool call each token belongs to, for ratios and filters of segments
        /// ([`Ratio::SEGMENT`](crate::Ratio::SEGMENT),
        /// [`FilterLevel::SegmentMean`](crate::FilterLevel::SegmentMean)): a segment is a run of valid
        /// tokens of a sequence with the same number. Any numbers will do; what is masked between two
        /// tokens does not part them.
        with_segment_ids(segment_ids: Tensor<2, Int>);
    }

    /// Says which sequence each token of a packed row belongs to: the tensors are `[1, N]`, and
    /// `sequence_ids[i]` is the number of the sequence of token `i`, counted from 0. Advantages are
    /// `[1, N]`, or one per sequence. The results are those of the padded batch, whose shape the
    /// tokens are brought into on the device.
    ///
    /// Tokens of no sequence, such as the padding at the end of the row, are masked; give them the
    /// number of any sequence, such as the last. Each number up to the largest is a row of the padded
    /// batch, which is as long as the longest sequence.
    pub fn with_sequence_ids(mut self, sequence_ids: impl Into<Vec<usize>>) -> Self {
        self.sequence_ids = Some(sequence_ids.into());
        self
    }

    /// Says which prompt each sequence answers, which a mean over prompts needs
    /// ([`Reduction::PromptMean`](crate::Reduction::PromptMean)): a number for each sequence, any
    /// number, equal for those that answer the same prompt. Where the batch is a part of another one,
    /// whose [totals](Self::with_totals) are given,
    /// [`with_prompt_tokens`](Self::with_prompt_tokens) takes their place.
    pub fn with_prompt_ids(mut self, prompt_ids: impl Into<Vec<i64>>) -> Self {
        self.prompt_ids = Some(prompt_ids.into());
        self
    }

    /// Sets, for each sequence, how many valid tokens of the global batch answer its prompt: those
    /// of all sequences that do, on whatever device or in whatever micro-batch they are; 0 only where
    /// the sequence has no valid token either. A mean over prompts needs it where the
    /// [totals](Self::with_totals) of the global batch are given, and refuses it without them. It takes it
    /// before [`with_prompt_ids`](Self::with_prompt_ids); where both are given, sequences of the same
    /// prompt have to have the same number. What the mask would have to be read back for is not checked:
    /// a number below the valid tokens of the batch at hand.
    pub fn with_prompt_tokens(mut self, prompt_tokens: impl Into<Vec<usize>>) -> Self {
        self.prompt_tokens = Some(prompt_tokens.into());
        self
    }

    setters! {
        /// Sets the least entropy of a token that an entropy mask keeps, of all tokens of the global
        /// batch: [`EntropyMask::threshold`](crate::EntropyMask::threshold) of their entropies. An entropy
        /// mask needs it where the [totals](Self::with_totals) of the global batch are given; where it is
        /// set it takes the place of the quantile, and the mask's share is not read.
        with_entropy_threshold(entropy_threshold: f64);
        /// Sets the squared log-ratio from which on a surrogate of second moments drops or clips tokens that
        /// move away, of all tokens of the global batch:
        /// [`SecondMomentMask::limit`](crate::SecondMomentMask::limit) or
        /// [`SecondMomentClip::limit`](crate::SecondMomentClip::limit) of their squares; infinity for none.
        /// Such a surrogate needs it where the [totals](Self::with_totals) of the global batch are given;
        /// where it is set, the threshold of the surrogate is not read.
        with_second_moment_limit(second_moment_limit: f64);
        /// Sets the totals of the global batch, of which this one is a part.
        with_totals(totals: GlobalTotals);
    }
}

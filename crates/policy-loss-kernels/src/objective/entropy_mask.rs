//! Tokens at which the policy has hardly a choice.

use super::check::part;

part! {
    /// The entropy mask: tokens where the policy hardly has a choice take no part in the policy term,
    ///
    /// ```text
    /// dropped where entropy < quantile(1 - share) of the entropies of all valid tokens of the batch
    /// ```
    ///
    /// with linear interpolation between two neighbours, so that `1 + floor(share (n - 1))` of `n` valid
    /// tokens are kept, and with them all that are as undecided as the last of these. What is decided at
    /// the tokens of high entropy, the forks of an answer, is what reinforcement learning changes.
    ///
    /// A dropped token has policy term 0 and no gradient from it, and no entropy bonus; its KL penalty
    /// stays, and the denominators of the reduction keep counting it. A token whose entropy is NaN is
    /// kept, and counted among what is not finite. The entropies receive no gradient from the mask.
    ///
    /// The quantile is one of all tokens of an update. A part of a batch is told it by
    /// `PolicyBatch::with_entropy_threshold`, for which [`threshold`](Self::threshold) makes it.
    /// Source: [arXiv 2506.01939](https://arxiv.org/abs/2506.01939), with a share of 0.2; TRL calls the
    /// share `top_entropy_quantile`.
    EntropyMask at "entropy_mask" {
        /// The share of tokens that is kept. Above 0, 1 at most, which keeps all.
        share: f64 = 0.2, share;
    }
    /// Keeps this share of the tokens.
    new
}

impl EntropyMask {
    /// The least entropy that is kept, of the entropies of all valid tokens. A NaN counts among the
    /// tokens and is always kept: leave it in. `None` of no number at all.
    #[must_use]
    pub fn threshold(&self, entropies: impl IntoIterator<Item = f64>) -> Option<f64> {
        let mut entropies: Vec<f64> = entropies.into_iter().collect();
        // A share that is a whole number of tokens must not lose one to a rounding.
        let share = self.share * (1.0 + 1e-6);
        let behind = (share * (entropies.len() as f64 - 1.0).max(0.0)).floor();
        entropies.retain(|entropy| !entropy.is_nan());
        entropies.sort_unstable_by(|left, right| right.total_cmp(left));
        let last = (behind as usize).min(entropies.len().checked_sub(1)?);
        Some(entropies[last])
    }
}

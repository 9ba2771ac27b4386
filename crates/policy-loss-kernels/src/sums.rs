//! The row of sums: every number that a batch is summed up in.
//!
//! All implementations return this row, in this order. Metrics are formulas over it
//! ([`MetricValues`](crate::MetricValues)). Rows add up: the row of a batch is the
//! [merged](Sums::merge) rows of its parts, whatever the parts are.

use crate::accumulators::accumulators;

accumulators! {
    /// The row of sums of a batch. `n` counts valid tokens, and sums run over them, with
    /// `d = log_probs - old_log_probs`, the ratio `r` of the objective, the gap
    /// `g = old_log_probs - rollout_log_probs` and the weight `w` of a rollout correction. What an
    /// objective does not have stays at its neutral value.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Sums, Sum, SumTotals {
        /// Token losses, each times `1 / n_b` where the reduction is a mean of sequence means, and
        /// times `1 / n_p` where it is one of prompts: what the reduction divides by its count, before
        /// it does.
        loss: Sum,
        /// Valid tokens, `n`.
        valid_tokens: Count if |it| it.masked,
        /// Sequences with a valid token.
        valid_sequences: Count if |it| it.masked,
        /// Prompts that a valid token answers, where the reduction is a mean over them: the sum of
        /// `1 / n_p`, of a part of a batch its part of the prompts.
        valid_prompts: Sum if |it| it.has_sequence_weights,
        /// Valid tokens at which an input of the objective is NaN or infinite.
        non_finite: Count,
        /// Valid tokens whose `rollout_log_probs` is NaN, where the objective reads them.
        missing_rollout_log_probs: Count if |it| it.reads_rollout(),
        /// Tokens at which the bound of the surrogate was met, and `A > 0`.
        clipped_above: Count,
        /// Tokens at which the bound of the surrogate was met, and `A < 0`.
        clipped_below: Count,
        /// Tokens at which the bound for negative advantages was met.
        dual_clipped: Count if |it| it.dual_clip,
        /// `d`, not clamped.
        log_ratio: Sum,
        /// `d^2`, not clamped.
        squared_log_ratio: Sum,
        /// `expm1(d) - d`, with `d` clamped to ±20.
        k3: Sum,
        /// `r`.
        ratio: Sum,
        /// `r^2`.
        squared_ratio: Sum,
        /// The smallest `r`; NaN is left out.
        least_ratio: Least,
        /// The largest `r`; NaN is left out.
        largest_ratio: Largest,
        /// `g`, where there is a rollout correction.
        rollout_gap: Sum if |it| it.corrected,
        /// The smallest `g`; NaN is left out.
        least_rollout_gap: Least if |it| it.corrected,
        /// The largest `g`; NaN is left out.
        largest_rollout_gap: Largest if |it| it.corrected,
        /// `w`.
        weight: Sum if |it| it.corrected,
        /// `w^2`.
        squared_weight: Sum if |it| it.corrected,
        /// Tokens whose weight was moved to a bound.
        truncated_weights: Count if |it| it.truncates,
        /// Tokens whose weight was set to 0.
        rejected_weights: Count if |it| it.masks || it.filter_bits != 0 || it.vetoes,
        /// Tokens that the off-policy mask dropped.
        off_policy_dropped: Count if |it| it.off_policy,
        /// Tokens that the entropy mask dropped.
        low_entropy_dropped: Count if |it| it.masks_entropy,
        /// The divergence that the KL penalty multiplies by its coefficient.
        kl: Sum if |it| it.penalized,
        /// Entropies, where there is an entropy bonus.
        entropy: Sum if |it| it.entropy,
    }
}

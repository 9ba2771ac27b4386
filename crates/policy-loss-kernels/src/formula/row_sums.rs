//! What is added up over a sequence before its tokens are visited.

use crate::accumulators::accumulators;

accumulators! {
    /// Sums over the valid tokens of a sequence. What the objective does not use stays neutral.
    pub struct RowSums, RowSum, RowTotals {
        /// Valid tokens.
        tokens: Sum,
        /// The log-ratio against the base of the ratio.
        log_ratio: Sum,
        /// The log-ratio as the surrogate bounds it.
        bounded_log_ratio: Sum,
        /// `A`.
        advantage: Sum,
        /// `g = old_log_probs - rollout_log_probs`.
        gap: Sum,
        /// `g^2 / 2`.
        gap_k2: Sum,
        /// `expm1(g) - g`, with `g` within ±20.
        gap_k3: Sum,
        /// The Bernoulli divergence of old policy and sampler.
        bernoulli_kl: Sum,
        /// The largest of the same; NaN is left out.
        largest_bernoulli_kl: Largest,
        /// `exp(old_log_probs) - exp(rollout_log_probs)`.
        difference: Sum,
        /// The largest of the same; NaN is left out.
        largest_difference: Largest,
        /// `|expm1(g)|`, with `g` within ±20.
        ratio_distance: Sum,
        /// The smallest `g`; NaN is left out.
        least_gap: Least,
        /// The largest `g`; NaN is left out.
        largest_gap: Largest,
    }
}

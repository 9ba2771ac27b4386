//! What is added up over a sequence before its tokens are visited.

use crate::accumulators::accumulators;
use crate::objective::{FilterEstimator, FilterLevel};

accumulators! {
    /// Sums over the valid tokens of a sequence. What the objective does not need stays neutral.
    pub struct RowSums, RowSum, RowTotals {
        /// Valid tokens.
        tokens: Sum if |it| it.masked,
        /// The log-ratio against the base of the ratio.
        log_ratio: Sum if |it| it.sequence_ratio() || it.off_policy,
        /// The log-ratio as the surrogate bounds it.
        bounded_log_ratio: Sum if |it| it.surrogate_is_of_row(),
        /// `A`.
        advantage: Sum if |it| it.surrogate_is_of_row(),
        /// `g = old_log_probs - rollout_log_probs`.
        gap: Sum if |it| it.weight_is_of_row(),
        /// `g^2 / 2`.
        gap_k2: Sum if |it| it.adds_gaps(FilterEstimator::K2),
        /// `expm1(g) - g`, with `g` within ±20.
        gap_k3: Sum if |it| it.adds_gaps(FilterEstimator::K3),
        /// The Bernoulli divergence of old policy and sampler.
        bernoulli_kl: Sum if |it| it.adds_gaps(FilterEstimator::BernoulliKl),
        /// The largest of the same; NaN is left out.
        largest_bernoulli_kl: Largest if |it| it.filters(FilterLevel::SequenceMax, FilterEstimator::BernoulliKl),
        /// `exp(old_log_probs) - exp(rollout_log_probs)`.
        difference: Sum if |it| it.adds_gaps(FilterEstimator::Difference),
        /// The largest of the same; NaN is left out.
        largest_difference: Largest if |it| it.filters(FilterLevel::SequenceMax, FilterEstimator::Difference),
        /// `|expm1(g)|`, with `g` within ±20.
        ratio_distance: Sum if |it| it.adds_gaps(FilterEstimator::RatioDistance),
        /// The smallest `g`; NaN is left out.
        least_gap: Least if |it| it.needs_extremes(),
        /// The largest `g`; NaN is left out.
        largest_gap: Largest if |it| it.needs_extremes(),
    }
}

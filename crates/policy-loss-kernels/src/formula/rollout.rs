//! The weights of tokens, from the gaps between the old policy and the sampler.

use super::formulas;

formulas! {
    use [parts, row, sums];

    /// The constant that multiplies a token's surrogate.
    #[derive(CubeType, Clone, Copy)]
    pub struct TokenWeight<E: Elements> {
        /// `old_log_probs - rollout_log_probs`, 0 at masked tokens.
        pub gap: Values<E>,
        /// Anything at masked tokens.
        pub value: Values<E>,
        /// It was moved to a bound.
        pub truncated: Flags<E>,
        /// It was set to 0.
        pub rejected: Flags<E>,
    }

    /// The weights of tokens.
    #[cube]
    pub fn token_weight<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenWeight<E> {
        let gap = keep::<E>(
            inputs.valid,
            inputs.old_log_probs - inputs.rollout_log_probs,
        );
        let mut value = row.weight;
        if comptime!(blueprint.weighted && blueprint.weight_level == WeightLevel::Token) {
            value = exponential::<E>(gap);
        }
        let mut truncated = nowhere::<E>(gap);
        let mut rejected = row.rejected;
        if comptime!(blueprint.only_moving_away) {
            rejected = both::<E>(rejected, moves_away::<E>(gap, inputs.advantage));
        }
        if comptime!(blueprint.truncates || blueprint.masks) {
            let low = number::<E>(gap, &numbers.weight_low);
            let high = number::<E>(gap, &numbers.weight_high);
            if comptime!(blueprint.masks) {
                rejected = either::<E>(rejected, !inside::<E>(value, low, high));
            } else {
                // Not a NaN, which stays one.
                truncated = either::<E>(less::<E>(value, low), greater::<E>(value, high));
                value = clamped::<E>(value, low, high);
            }
        }
        if comptime!(blueprint.normalizes) {
            // A weight that was set to 0 may have been infinite.
            value = drop_where::<E>(rejected, value) / row.weight_mean;
        }
        if comptime!(blueprint.filters_by(FilterLevel::Token)) {
            let double = comptime!(blueprint.double);
            let level = comptime!(FilterLevel::Token);
            let mut estimates = Estimates::<E> {
                k1: gap,
                k2: half_square::<E>(gap),
                k3: gap,
                bernoulli_kl: gap,
                difference: gap,
                ratio_distance: gap,
            };
            if comptime!(blueprint.filters(level, FilterEstimator::K3)) {
                estimates.k3 = bounded_ratio::<E>(gap, double).k3;
            }
            if comptime!(blueprint.filters(level, FilterEstimator::BernoulliKl)) {
                estimates.bernoulli_kl = bernoulli_kl::<E>(inputs, double);
            }
            if comptime!(blueprint.filters(level, FilterEstimator::Difference)) {
                estimates.difference = difference::<E>(inputs);
            }
            if comptime!(blueprint.filters(level, FilterEstimator::RatioDistance)) {
                estimates.ratio_distance = ratio_distance::<E>(gap, double);
            }
            let mut out = rejects::<E>(numbers, &estimates, level, blueprint);
            if comptime!(blueprint.only_moving_away) {
                out = both::<E>(out, moves_away::<E>(gap, inputs.advantage));
            }
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters_by(FilterLevel::SegmentMean)) {
            let zero = constant::<E>(gap, 0.0);
            let mut out = greater::<E>(inputs.segment_rejection, zero);
            if comptime!(blueprint.only_moving_away) {
                out = both::<E>(out, moves_away::<E>(gap, inputs.advantage));
            }
            rejected = either::<E>(rejected, out);
        }
        TokenWeight::<E> {
            gap,
            // Chosen, not multiplied: infinity times 0 would be NaN.
            value: drop_where::<E>(rejected, value),
            truncated,
            rejected,
        }
    }

    /// Where the off-policy mask drops tokens.
    #[cube]
    pub fn off_policy_tokens<E: Elements>(row: &Row<E>, advantage: Values<E>) -> Flags<E> {
        let negative = less::<E>(advantage, constant::<E>(advantage, 0.0));
        both::<E>(negative, row.drops_negative)
    }

    /// Where the entropy mask drops tokens; not where the entropy is NaN, which is counted.
    #[cube]
    pub fn low_entropy_tokens<E: Elements>(row: &Row<E>, inputs: &TokenInputs<E>) -> Flags<E> {
        both::<E>(inputs.valid, less::<E>(inputs.entropy, row.entropy_threshold))
    }

    /// Where tokens are dropped, whatever their weights.
    #[cube]
    pub fn dropped_tokens<E: Elements>(
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> Flags<E> {
        let mut dropped = nowhere::<E>(inputs.advantage);
        if comptime!(blueprint.off_policy) {
            let advantage = keep::<E>(inputs.valid, inputs.advantage);
            dropped = off_policy_tokens::<E>(row, advantage);
        }
        if comptime!(blueprint.masks_entropy) {
            dropped = either::<E>(dropped, low_entropy_tokens::<E>(row, inputs));
        }
        if comptime!(blueprint.drops_missing()) {
            dropped = either::<E>(dropped, inputs.missing);
        }
        dropped
    }

    /// The weights of tokens that are kept, 0 elsewhere: for a surrogate that the tokens of a
    /// sequence share, in which a token's log-prob changes the losses of all of them.
    #[cube]
    pub fn kept_weight<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> Values<E> {
        let mut weight = constant::<E>(inputs.log_probs, 1.0);
        if comptime!(blueprint.corrected) {
            weight = token_weight::<E>(numbers, row, inputs, blueprint).value;
        }
        if comptime!(blueprint.weighs_future) {
            weight = weight * inputs.future_weight;
        }
        if comptime!(blueprint.drops_tokens()) {
            weight = drop_where::<E>(dropped_tokens::<E>(row, inputs, blueprint), weight);
        }
        keep::<E>(inputs.valid, weight)
    }
}

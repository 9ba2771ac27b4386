//! What the tokens of a sequence share.

use super::formulas;

formulas! {
    use [parts, row_sums];

    /// What is read of a token.
    #[derive(CubeType, Clone, Copy)]
    pub struct TokenInputs<E: Elements> {
        pub log_probs: Values<E>,
        pub old_log_probs: Values<E>,
        /// Anything where the objective does not read it.
        pub rollout_log_probs: Values<E>,
        /// Anything where there is no KL penalty.
        pub ref_log_probs: Values<E>,
        /// Anything where the objective does not read it.
        pub entropy: Values<E>,
        pub advantage: Values<E>,
        /// Anything where the objective does not read it.
        pub future_weight: Values<E>,
        /// Anything where the objective does not read it.
        pub segment_log_ratio: Values<E>,
        /// Anything where the objective does not read it.
        pub segment_rejection: Values<E>,
        pub valid: Flags<E>,
        /// Valid tokens without a log-prob of the sampler, where the objective reads it.
        pub missing: Flags<E>,
    }

    /// What is read of a token, with a stand-in for what the sampler did not give.
    #[cube]
    pub fn stand_in<E: Elements>(
        read: TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenInputs<E> {
        let mut inputs = read;
        if comptime!(blueprint.reads_rollout()) {
            let missing = is_nan::<E>(inputs.rollout_log_probs);
            inputs.missing = both::<E>(inputs.valid, missing);
            if comptime!(blueprint.missing != MissingRolloutLogProbs::Propagate) {
                inputs.rollout_log_probs =
                    choose::<E>(missing, inputs.old_log_probs, inputs.rollout_log_probs);
            }
        }
        inputs
    }

    /// What the tokens of a sequence share. What the objective does not use is a constant.
    #[derive(CubeType, Clone, Copy)]
    pub struct Row<E: Elements> {
        /// The ratio of the sequence.
        pub ratio: Values<E>,
        /// The derivative of its logarithm with respect to the log-prob of a valid token.
        pub log_ratio_slope: Values<E>,
        /// The logarithm of the ratio lay beyond a bound.
        pub saturated: Flags<E>,
        /// Tokens with a negative advantage are dropped.
        pub drops_negative: Flags<E>,
        /// The gamma weight where `A >= 0`.
        pub gamma_of_positive: Values<E>,
        /// The gamma weight where `A < 0`.
        pub gamma_of_negative: Values<E>,
        /// The surrogate that is one for the sequence.
        pub mean_surrogate: Values<E>,
        /// Its slope against the log-prob of a token that is not clipped, weights included.
        pub mean_slope: Values<E>,
        /// The rollout weight of the sequence, where it has one.
        pub weight: Values<E>,
        /// What rollout weights are divided by.
        pub weight_mean: Values<E>,
        /// The least entropy of a token that is kept, where there is an entropy mask.
        pub entropy_threshold: Values<E>,
        /// All of its weights are 0.
        pub rejected: Flags<E>,
        /// The row's part of the reduction's factor: `1 / n_b` for a sequence mean, or what the
        /// batch brings, else 1.
        pub factor: Values<E>,
        /// What a gradient is multiplied by: the same, and what the machine adds to it.
        pub gradient_factor: Values<E>,
    }

    /// Nothing is shared.
    #[cube]
    pub fn unshared<E: Elements>(like: Values<E>) -> Row<E> {
        let zero = constant::<E>(like, 0.0);
        let one = constant::<E>(like, 1.0);
        Row::<E> {
            ratio: one,
            log_ratio_slope: zero,
            saturated: nowhere::<E>(like),
            drops_negative: nowhere::<E>(like),
            gamma_of_positive: zero,
            gamma_of_negative: zero,
            mean_surrogate: zero,
            mean_slope: zero,
            weight: one,
            weight_mean: one,
            entropy_threshold: zero,
            rejected: nowhere::<E>(like),
            factor: one,
            gradient_factor: one,
        }
    }

    /// What the ratio is taken against.
    #[cube]
    pub fn base_log_probs<E: Elements>(
        inputs: &TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> Values<E> {
        match blueprint.against {
            Behavior::Old => inputs.old_log_probs,
            Behavior::Rollout => inputs.rollout_log_probs,
        }
    }

    /// The ratio of tokens.
    #[derive(CubeType, Clone, Copy)]
    pub struct TokenRatio<E: Elements> {
        /// The logarithm of the token's own ratio, not clamped; 0 at masked tokens.
        pub log_ratio: Values<E>,
        pub ratio: Values<E>,
        /// The logarithm of the ratio reached a bound: no gradient passes.
        pub saturated: Flags<E>,
    }

    /// The ratio against the base of the objective.
    #[cube]
    pub fn token_ratio<E: Elements>(
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenRatio<E> {
        let valid = inputs.valid;
        let base = base_log_probs::<E>(inputs, blueprint);
        let log_ratio = keep::<E>(valid, inputs.log_probs - base);
        let bounded = bounded_ratio::<E>(log_ratio, comptime!(blueprint.double));
        let mut ratio = bounded.ratio;
        let mut saturated = bounded.beyond;
        if comptime!(blueprint.sequence_ratio()) {
            ratio = row.ratio;
            // Where the gradient is shared, the row stops it beyond the bounds.
            saturated = nowhere::<E>(log_ratio);
            if comptime!(!blueprint.shares_gradient()) {
                // Its own gradient: a NaN of the sequence must not reach a masked token.
                ratio = choose::<E>(valid, ratio, constant::<E>(log_ratio, 1.0));
                saturated = row.saturated;
            }
        }
        if comptime!(blueprint.segment_ratio()) {
            let mean_log_ratio = keep::<E>(valid, inputs.segment_log_ratio);
            let of_segment = bounded_ratio::<E>(mean_log_ratio, comptime!(blueprint.double));
            ratio = of_segment.ratio;
            saturated = of_segment.beyond;
        }
        TokenRatio::<E> {
            log_ratio,
            ratio,
            saturated,
        }
    }

    /// Adds tokens to the sums of their sequence.
    #[cube]
    pub fn gather<E: Elements>(
        numbers: &Numbers,
        inputs: &TokenInputs<E>,
        sums: &mut RowSums<E>,
        #[comptime] blueprint: Blueprint,
    ) {
        let valid = inputs.valid;
        if comptime!(blueprint.masked) {
            sums.tokens += count::<E>(valid);
        }
        if comptime!(blueprint.gathers_ratios()) {
            let base = base_log_probs::<E>(inputs, blueprint);
            let log_ratio = keep::<E>(valid, inputs.log_probs - base);
            sums.log_ratio += total::<E>(log_ratio);
            if comptime!(blueprint.surrogate_is_of_row()) {
                let advantage = keep::<E>(valid, inputs.advantage);
                let bounded =
                    surrogate_log_ratio::<E>(numbers, log_ratio, advantage, blueprint);
                sums.bounded_log_ratio += total::<E>(bounded);
                sums.advantage += total::<E>(advantage);
            }
        }
        if comptime!(blueprint.weight_is_of_row()) {
            let gap = keep::<E>(valid, inputs.old_log_probs - inputs.rollout_log_probs);
            sums.gap += total::<E>(gap);
            if comptime!(blueprint.adds_gaps(FilterEstimator::K2)) {
                sums.gap_k2 += total::<E>(half_square::<E>(gap));
            }
            if comptime!(blueprint.adds_gaps(FilterEstimator::K3)) {
                let k3 = bounded_ratio::<E>(gap, comptime!(blueprint.double)).k3;
                sums.gap_k3 += total::<E>(k3);
            }
            let largest_kl = comptime!(
                blueprint.filters(FilterLevel::SequenceMax, FilterEstimator::BernoulliKl)
            );
            if comptime!(blueprint.adds_gaps(FilterEstimator::BernoulliKl) || largest_kl) {
                let divergence = bernoulli_kl::<E>(inputs, comptime!(blueprint.double));
                if comptime!(blueprint.adds_gaps(FilterEstimator::BernoulliKl)) {
                    sums.bernoulli_kl += total::<E>(divergence);
                }
                if comptime!(largest_kl) {
                    sums.largest_bernoulli_kl =
                        largest::<E>(sums.largest_bernoulli_kl, valid, divergence);
                }
            }
            let largest_difference = comptime!(
                blueprint.filters(FilterLevel::SequenceMax, FilterEstimator::Difference)
            );
            if comptime!(blueprint.adds_gaps(FilterEstimator::Difference) || largest_difference) {
                let difference = difference::<E>(inputs);
                if comptime!(blueprint.adds_gaps(FilterEstimator::Difference)) {
                    sums.difference += total::<E>(difference);
                }
                if comptime!(largest_difference) {
                    sums.largest_difference =
                        largest::<E>(sums.largest_difference, valid, difference);
                }
            }
            if comptime!(blueprint.adds_gaps(FilterEstimator::RatioDistance)) {
                let distance = ratio_distance::<E>(gap, comptime!(blueprint.double));
                sums.ratio_distance += total::<E>(distance);
            }
            if comptime!(blueprint.needs_extremes()) {
                sums.least_gap = least::<E>(sums.least_gap, valid, gap);
                sums.largest_gap = largest::<E>(sums.largest_gap, valid, gap);
            }
        }
    }

    /// The log-ratio as a surrogate that is one for the sequence bounds it.
    #[cube]
    pub fn surrogate_log_ratio<E: Elements>(
        numbers: &Numbers,
        log_ratio: Values<E>,
        advantage: Values<E>,
        #[comptime] blueprint: Blueprint,
    ) -> Values<E> {
        if comptime!(blueprint.surrogate == SurrogateKind::GeometricMean) {
            clipped_log_ratio::<E>(numbers, log_ratio, advantage).value
        } else {
            clamped::<E>(
                log_ratio,
                constant::<E>(log_ratio, -LOG_RATIO_LIMIT),
                constant::<E>(log_ratio, LOG_RATIO_LIMIT),
            )
        }
    }

    /// A log-ratio, clipped on the side where it would gain.
    #[derive(CubeType, Clone, Copy)]
    pub struct ClippedLogRatio<E: Elements> {
        pub value: Values<E>,
        pub above: Flags<E>,
        pub below: Flags<E>,
        /// The value does not depend on the log-ratio.
        pub is_constant: Flags<E>,
    }

    #[cube]
    pub fn clipped_log_ratio<E: Elements>(
        numbers: &Numbers,
        log_ratio: Values<E>,
        advantage: Values<E>,
    ) -> ClippedLogRatio<E> {
        let zero = constant::<E>(advantage, 0.0);
        let low = number::<E>(log_ratio, &numbers.low);
        let high = number::<E>(log_ratio, &numbers.high);
        let above = both::<E>(greater::<E>(advantage, zero), greater::<E>(log_ratio, high));
        let below = both::<E>(less::<E>(advantage, zero), less::<E>(log_ratio, low));
        // A NaN is not equal to 0, and goes on.
        let neutral = equal::<E>(advantage, zero);
        let bounded = clamped::<E>(
            log_ratio,
            constant::<E>(log_ratio, -LOG_RATIO_LIMIT),
            constant::<E>(log_ratio, LOG_RATIO_LIMIT),
        );
        let clipped = choose::<E>(below, low, choose::<E>(above, high, bounded));
        ClippedLogRatio::<E> {
            value: choose::<E>(neutral, zero, clipped),
            above,
            below,
            is_constant: either::<E>(neutral, either::<E>(above, below)),
        }
    }

    /// The divergence of whether a token is sampled or another, between the old policy and the
    /// sampler, in the direction in which it is larger; 0 at masked tokens.
    #[cube]
    pub fn bernoulli_kl<E: Elements>(
        inputs: &TokenInputs<E>,
        #[comptime] double: bool,
    ) -> Values<E> {
        let old = coin::<E>(keep::<E>(inputs.valid, inputs.old_log_probs), double);
        let rollout = coin::<E>(keep::<E>(inputs.valid, inputs.rollout_log_probs), double);
        let gap = old.log_probs - rollout.log_probs;
        let gap_of_rest = logarithm_of_quotient::<E>(old.rest, rollout.rest);
        let forward = old.probability * gap + old.rest * gap_of_rest;
        let zero = constant::<E>(gap, 0.0);
        let backward = zero - rollout.probability * gap - rollout.rest * gap_of_rest;
        keep::<E>(inputs.valid, greater_of::<E>(forward, backward))
    }

    /// How much more probable a token is under the old policy than under the sampler; 0 at masked
    /// tokens.
    #[cube]
    pub fn difference<E: Elements>(inputs: &TokenInputs<E>) -> Values<E> {
        let old = exponential::<E>(keep::<E>(inputs.valid, inputs.old_log_probs));
        old - exponential::<E>(keep::<E>(inputs.valid, inputs.rollout_log_probs))
    }

    /// `|expm1(g)|`.
    #[cube]
    pub fn ratio_distance<E: Elements>(gap: Values<E>, #[comptime] double: bool) -> Values<E> {
        let bounded = bounded_ratio::<E>(gap, double);
        let growth = bounded.k3 + bounded.log_ratio;
        let zero = constant::<E>(gap, 0.0);
        choose::<E>(less::<E>(growth, zero), zero - growth, growth)
    }

    /// Where an update moves a token further away from the sampler; also where nobody knows.
    #[cube]
    pub fn moves_away<E: Elements>(gap: Values<E>, advantage: Values<E>) -> Flags<E> {
        let zero = constant::<E>(gap, 0.0);
        let down = both::<E>(at_least::<E>(gap, zero), at_most::<E>(advantage, zero));
        let up = both::<E>(at_most::<E>(gap, zero), at_least::<E>(advantage, zero));
        !either::<E>(down, up)
    }

    /// Whether a token is sampled or another.
    #[derive(CubeType, Clone, Copy)]
    pub struct Coin<E: Elements> {
        pub log_probs: Values<E>,
        pub probability: Values<E>,
        /// `1 - probability`, at least 1e-8.
        pub rest: Values<E>,
    }

    #[cube]
    pub fn coin<E: Elements>(log_probs: Values<E>, #[comptime] double: bool) -> Coin<E> {
        let log_probs = clamped::<E>(
            log_probs,
            constant::<E>(log_probs, LEAST_LOG_RATIO),
            constant::<E>(log_probs, 0.0),
        );
        let bounded = bounded_ratio::<E>(log_probs, double);
        // 1 - exp(x), of which little is left near 0.
        let rest = constant::<E>(log_probs, 0.0) - bounded.k3 - log_probs;
        let least = constant::<E>(log_probs, LEAST_PROBABILITY);
        Coin::<E> {
            log_probs,
            probability: bounded.ratio,
            rest: choose::<E>(less::<E>(rest, least), least, rest),
        }
    }

    /// `g^2 / 2`.
    #[cube]
    pub fn half_square<E: Elements>(gap: Values<E>) -> Values<E> {
        gap * gap * constant::<E>(gap, 0.5)
    }

    /// The statistics that filters judge by; of k1 before it is exponentiated.
    #[derive(CubeType, Clone, Copy)]
    pub struct Estimates<E: Elements> {
        pub k1: Values<E>,
        pub k2: Values<E>,
        pub k3: Values<E>,
        pub bernoulli_kl: Values<E>,
        pub difference: Values<E>,
        pub ratio_distance: Values<E>,
    }

    /// What the tokens of a sequence share, from its sums.
    #[cube]
    pub fn share<E: Elements>(
        numbers: &Numbers,
        totals: &RowTotals<E>,
        like: Values<E>,
        #[comptime] blueprint: Blueprint,
    ) -> Row<E> {
        let one = constant::<E>(like, 1.0);
        let counted = whole::<E>(totals.tokens);
        let tokens = choose::<E>(greater::<E>(counted, one), counted, one);
        let mut row = unshared::<E>(like);
        if comptime!(blueprint.sequence_mean) {
            row.factor = one / tokens;
            row.gradient_factor = row.factor;
        }
        if comptime!(blueprint.sequence_ratio()) {
            let mut log_ratio = mean::<E>(totals.log_ratio, totals.tokens);
            let mut part = one / tokens;
            if comptime!(blueprint.ratio_level == RatioLevel::SequenceSum) {
                log_ratio = whole::<E>(totals.log_ratio);
                part = one;
            }
            let bounded = bounded_ratio::<E>(log_ratio, comptime!(blueprint.double));
            row.ratio = bounded.ratio;
            row.saturated = bounded.beyond;
            row.log_ratio_slope = drop_where::<E>(bounded.beyond, part);
        }
        if comptime!(blueprint.off_policy) {
            // Not where the mean is NaN: such a sequence goes on, and is counted.
            let mean_log_ratio = mean::<E>(totals.log_ratio, totals.tokens);
            let bound = number::<E>(like, &numbers.least_mean_log_ratio);
            row.drops_negative = less::<E>(mean_log_ratio, bound);
        }
        if comptime!(blueprint.surrogate == SurrogateKind::GeometricMean) {
            let mean_log_ratio = mean::<E>(totals.bounded_log_ratio, totals.tokens);
            let mean_advantage = mean::<E>(totals.advantage, totals.tokens);
            row.mean_surrogate = exponential::<E>(mean_log_ratio) * mean_advantage;
            // Of the mean over n_b tokens, a token's part is 1 / n_b, and n_b tokens have it.
            row.mean_slope = row.mean_surrogate;
        }
        if comptime!(blueprint.surrogate == SurrogateKind::GammaWeight) {
            let log_ratio = clamped::<E>(
                whole::<E>(totals.bounded_log_ratio),
                constant::<E>(like, LEAST_LOG_RATIO),
                constant::<E>(like, LOG_RATIO_LIMIT),
            );
            row.gamma_of_positive = gamma::<E>(
                log_ratio,
                number::<E>(like, &numbers.positive_k),
                number::<E>(like, &numbers.positive_lambda),
                comptime!(blueprint.double),
            );
            row.gamma_of_negative = gamma::<E>(
                log_ratio,
                number::<E>(like, &numbers.negative_k),
                number::<E>(like, &numbers.negative_lambda),
                comptime!(blueprint.double),
            );
        }
        if comptime!(blueprint.weight_is_of_row()) {
            if comptime!(blueprint.weighted && blueprint.weight_level == WeightLevel::Sequence) {
                let gap = whole::<E>(totals.gap);
                row.weight = bounded_ratio::<E>(gap, comptime!(blueprint.double)).ratio;
            }
            if comptime!(blueprint.weighted && blueprint.weight_level == WeightLevel::Geometric) {
                let gap = mean::<E>(totals.gap, totals.tokens);
                row.weight = bounded_ratio::<E>(gap, comptime!(blueprint.double)).ratio;
            }
            row.rejected = rejects_row::<E>(numbers, totals, like, blueprint);
        }
        row
    }

    /// `exp(lambda + k W - lambda exp(W))`, 0 where it is not a number.
    #[cube]
    pub fn gamma<E: Elements>(
        log_ratio: Values<E>,
        k: Values<E>,
        lambda: Values<E>,
        #[comptime] double: bool,
    ) -> Values<E> {
        let growth = bounded_ratio::<E>(log_ratio, double).k3 + log_ratio;
        let weight = exponential::<E>(log_ratio * k - growth * lambda);
        drop_where::<E>(is_nan::<E>(weight), weight)
    }

    /// Whether a filter of sequences or the veto rejects a sequence.
    #[cube]
    pub fn rejects_row<E: Elements>(
        numbers: &Numbers,
        totals: &RowTotals<E>,
        like: Values<E>,
        #[comptime] blueprint: Blueprint,
    ) -> Flags<E> {
        let mut rejected = nowhere::<E>(like);
        if comptime!(blueprint.vetoes) {
            let floor = number::<E>(like, &numbers.least_gap);
            // A NaN among the gaps makes their sum one.
            let vetoed = either::<E>(
                less::<E>(whole::<E>(totals.least_gap), floor),
                is_nan::<E>(whole::<E>(totals.gap)),
            );
            rejected = either::<E>(rejected, vetoed);
        }
        if comptime!(blueprint.filters_by(FilterLevel::SequenceSum)) {
            let level = comptime!(FilterLevel::SequenceSum);
            let sums = Estimates::<E> {
                k1: whole::<E>(totals.gap),
                k2: whole::<E>(totals.gap_k2),
                k3: whole::<E>(totals.gap_k3),
                bernoulli_kl: whole::<E>(totals.bernoulli_kl),
                difference: whole::<E>(totals.difference),
                ratio_distance: whole::<E>(totals.ratio_distance),
            };
            let out = rejects::<E>(numbers, &sums, level, blueprint);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters_by(FilterLevel::SequenceMean)) {
            let level = comptime!(FilterLevel::SequenceMean);
            let means = Estimates::<E> {
                k1: mean::<E>(totals.gap, totals.tokens),
                k2: mean::<E>(totals.gap_k2, totals.tokens),
                k3: mean::<E>(totals.gap_k3, totals.tokens),
                bernoulli_kl: mean::<E>(totals.bernoulli_kl, totals.tokens),
                difference: mean::<E>(totals.difference, totals.tokens),
                ratio_distance: mean::<E>(totals.ratio_distance, totals.tokens),
            };
            let out = rejects::<E>(numbers, &means, level, blueprint);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters_by(FilterLevel::SequenceMax)) {
            let level = comptime!(FilterLevel::SequenceMax);
            let double = comptime!(blueprint.double);
            let least = whole::<E>(totals.least_gap);
            let largest = whole::<E>(totals.largest_gap);
            // They are largest at one of the ends, on either side of 0.
            let extremes = Estimates::<E> {
                k1: largest,
                k2: greater_of::<E>(half_square::<E>(least), half_square::<E>(largest)),
                k3: greater_of::<E>(
                    bounded_ratio::<E>(least, double).k3,
                    bounded_ratio::<E>(largest, double).k3,
                ),
                bernoulli_kl: whole::<E>(totals.largest_bernoulli_kl),
                difference: whole::<E>(totals.largest_difference),
                ratio_distance: greater_of::<E>(
                    ratio_distance::<E>(least, double),
                    ratio_distance::<E>(largest, double),
                ),
            };
            let out = rejects::<E>(numbers, &extremes, level, blueprint);
            // The extremes leave a NaN out, which makes the sum one.
            let out = either::<E>(out, is_nan::<E>(whole::<E>(totals.gap)));
            rejected = either::<E>(rejected, out);
        }
        rejected
    }

    #[cube]
    pub fn greater_of<E: Elements>(left: Values<E>, right: Values<E>) -> Values<E> {
        choose::<E>(greater::<E>(right, left), right, left)
    }

    /// Whether a filter of this level rejects what has these statistics.
    #[cube]
    pub fn rejects<E: Elements>(
        numbers: &Numbers,
        estimates: &Estimates<E>,
        #[comptime] level: FilterLevel,
        #[comptime] blueprint: Blueprint,
    ) -> Flags<E> {
        let mut rejected = nowhere::<E>(estimates.k1);
        if comptime!(blueprint.filters(level, FilterEstimator::K1)) {
            let estimator = comptime!(FilterEstimator::K1);
            // The ratio itself, so that a bound that is met exactly is kept.
            let ratio = exponential::<E>(estimates.k1);
            let out = out_of_bounds::<E>(numbers, ratio, level, estimator);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters(level, FilterEstimator::K2)) {
            let estimator = comptime!(FilterEstimator::K2);
            let out = out_of_bounds::<E>(numbers, estimates.k2, level, estimator);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters(level, FilterEstimator::K3)) {
            let estimator = comptime!(FilterEstimator::K3);
            let out = out_of_bounds::<E>(numbers, estimates.k3, level, estimator);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters(level, FilterEstimator::BernoulliKl)) {
            let estimator = comptime!(FilterEstimator::BernoulliKl);
            let out = out_of_bounds::<E>(numbers, estimates.bernoulli_kl, level, estimator);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters(level, FilterEstimator::Difference)) {
            let estimator = comptime!(FilterEstimator::Difference);
            let out = out_of_bounds::<E>(numbers, estimates.difference, level, estimator);
            rejected = either::<E>(rejected, out);
        }
        if comptime!(blueprint.filters(level, FilterEstimator::RatioDistance)) {
            let estimator = comptime!(FilterEstimator::RatioDistance);
            let out = out_of_bounds::<E>(numbers, estimates.ratio_distance, level, estimator);
            rejected = either::<E>(rejected, out);
        }
        rejected
    }

    /// Whether a statistic lies out of the bounds of a filter; NaN does.
    #[cube]
    pub fn out_of_bounds<E: Elements>(
        numbers: &Numbers,
        statistic: Values<E>,
        #[comptime] level: FilterLevel,
        #[comptime] estimator: FilterEstimator,
    ) -> Flags<E> {
        let place = comptime!(2 * crate::numbers::filter_place(level, estimator));
        let low = number::<E>(statistic, &numbers.filters[place]);
        let high = number::<E>(statistic, &numbers.filters[comptime!(place + 1)]);
        !inside::<E>(statistic, low, high)
    }
}

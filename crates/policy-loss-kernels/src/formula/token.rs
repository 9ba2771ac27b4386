//! The loss of one token.

use super::formulas;

formulas! {
    use [
        parts,
        row,
        surrogate,
        rollout,
        penalty,
        sums,
        observed,
    ];

    /// The derivatives of the loss of tokens, times the row's factor; 0 at masked ones.
    #[derive(CubeType, Clone, Copy)]
    pub struct TokenGradient<E: Elements> {
        /// With respect to their own log-probs. Where tokens share their ratio, and its gradient, what
        /// flows through it is in `log_ratio_slope` instead.
        pub log_probs: Values<E>,
        /// With respect to the logarithm of the ratio of their sequence or segment, where tokens share
        /// its gradient.
        pub log_ratio_slope: Values<E>,
        /// With respect to their entropies.
        pub entropy: Values<E>,
    }

    /// The surrogate of tokens, and what has been done to it.
    #[derive(CubeType, Clone, Copy)]
    pub struct TokenTerm<E: Elements> {
        /// What is good about the tokens: it counts against the loss.
        pub value: Values<E>,
        /// Its derivative with respect to their log-probs, or, where tokens share the gradient of
        /// their ratio, with respect to its logarithm.
        pub slope: Values<E>,
        /// NaN or infinite where an input is that was read.
        pub probe: Values<E>,
    }

    /// The objective of tokens, with everything that it is made of: the loss is its negative.
    #[derive(CubeType, Clone, Copy)]
    pub struct TokenObjective<E: Elements> {
        pub value: Values<E>,
        /// Its derivative with respect to the log-probs of the tokens.
        pub slope: Values<E>,
        /// Its derivative with respect to the logarithm of the ratio of their sequence or segment,
        /// where tokens share its gradient.
        pub log_ratio_slope: Values<E>,
        /// Its derivative with respect to their entropies.
        pub entropy_slope: Values<E>,
        /// NaN or infinite where an input is that was read.
        pub probe: Values<E>,
    }

    /// What the surrogate of tokens is made of.
    #[cube]
    pub fn surrogate_inputs<E: Elements>(
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateInputs<E> {
        let valid = inputs.valid;
        let advantage = keep::<E>(valid, inputs.advantage);
        let log_ratio = keep::<E>(valid, inputs.log_probs - inputs.old_log_probs);
        let against_old = bounded_ratio::<E>(log_ratio, comptime!(blueprint.double));
        let own = token_ratio::<E>(row, inputs, blueprint);
        add_ratio::<E>(inputs, log_ratio, &against_old, &own, sums, blueprint);
        let mut probe = log_ratio + advantage;
        if comptime!(blueprint.against == Behavior::Rollout) {
            probe = probe + own.log_ratio;
        }
        SurrogateInputs::<E> {
            log_probs: keep::<E>(valid, inputs.log_probs),
            base_log_probs: keep::<E>(valid, base_log_probs::<E>(inputs, blueprint)),
            log_ratio: own.log_ratio,
            ratio: own.ratio,
            saturated: own.saturated,
            advantage,
            probe,
        }
    }

    /// The surrogate, 0 at masked tokens.
    #[cube]
    pub fn policy_term<E: Elements>(
        inputs: &TokenInputs<E>,
        made_of: &SurrogateInputs<E>,
        surrogate: SurrogateOutput<E>,
    ) -> TokenTerm<E> {
        TokenTerm::<E> {
            value: keep::<E>(inputs.valid, surrogate.value),
            slope: surrogate.slope,
            probe: made_of.probe,
        }
    }

    /// The surrogate times its future weight and its rollout weight, 0 at tokens that are dropped.
    #[cube]
    pub fn corrected_term<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        term: TokenTerm<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenTerm<E> {
        let valid = inputs.valid;
        let mut corrected = term;
        if comptime!(blueprint.weighs_future) {
            let weight = keep::<E>(valid, inputs.future_weight);
            corrected.value = corrected.value * weight;
            if comptime!(!blueprint.slope_is_of_row()) {
                corrected.slope = corrected.slope * weight;
            }
        }
        if comptime!(blueprint.corrected) {
            let weight = token_weight::<E>(numbers, row, inputs, blueprint);
            corrected.probe = corrected.probe + weight.gap;
            let kept = keep::<E>(valid, weight.value);
            add_weight::<E>(inputs, &weight, kept, sums);
            corrected.value = corrected.value * kept;
            if comptime!(!blueprint.slope_is_of_row()) {
                corrected.slope = corrected.slope * kept;
            }
        }
        add_dropped::<E>(row, inputs, sums, blueprint);
        if comptime!(blueprint.masks_entropy) {
            corrected.probe = corrected.probe + keep::<E>(valid, inputs.entropy);
        }
        // After the weight, which may be infinite.
        if comptime!(blueprint.drops_tokens()) {
            let dropped = dropped_tokens::<E>(row, inputs, blueprint);
            corrected.value = drop_where::<E>(dropped, corrected.value);
            if comptime!(!blueprint.slope_is_of_row()) {
                corrected.slope = drop_where::<E>(dropped, corrected.slope);
            }
        }
        corrected
    }

    /// The objective of tokens that is nothing but a term.
    #[cube]
    pub fn objective<E: Elements>(
        term: TokenTerm<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenObjective<E> {
        let zero = constant::<E>(term.value, 0.0);
        let mut slope = term.slope;
        let mut log_ratio_slope = zero;
        if comptime!(blueprint.separates_ratio()) {
            log_ratio_slope = slope;
            slope = zero;
        }
        TokenObjective::<E> {
            value: term.value,
            slope,
            log_ratio_slope,
            entropy_slope: zero,
            probe: term.probe,
        }
    }

    /// The objective with the penalty and the bonus.
    #[cube]
    pub fn regularized<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        objective: TokenObjective<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenObjective<E> {
        let valid = inputs.valid;
        let mut regularized = objective;
        if comptime!(blueprint.penalized) {
            let coefficient = number::<E>(regularized.value, &numbers.kl_coefficient);
            let penalty = penalty::<E>(numbers, row, inputs, blueprint);
            regularized.probe = regularized.probe + penalty.log_ratio;
            add_penalty::<E>(&penalty, sums);
            regularized.value =
                minus_product::<E>(regularized.value, penalty.value, coefficient);
            regularized.slope =
                minus_product::<E>(regularized.slope, penalty.slope, coefficient);
            if comptime!(blueprint.separates_ratio()) {
                let slope = penalty.log_ratio_slope;
                regularized.log_ratio_slope =
                    minus_product::<E>(regularized.log_ratio_slope, slope, coefficient);
            }
        }
        if comptime!(blueprint.entropy) {
            let coefficient = number::<E>(regularized.value, &numbers.entropy_coefficient);
            let entropy = keep::<E>(valid, inputs.entropy);
            regularized.probe = regularized.probe + entropy;
            add_entropy::<E>(entropy, sums);
            let mut rewarded = valid;
            if comptime!(blueprint.masks_entropy) {
                rewarded = both::<E>(valid, !low_entropy_tokens::<E>(row, inputs));
            }
            regularized.value =
                regularized.value + keep::<E>(rewarded, entropy) * coefficient;
            regularized.entropy_slope = keep::<E>(rewarded, coefficient);
        }
        regularized
    }

    /// Adds the loss to the sums, and returns its derivatives.
    #[cube]
    pub fn token_gradient<E: Elements>(
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        objective: TokenObjective<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenGradient<E> {
        let value = objective.value;
        add_token::<E>(row, inputs, value, objective.probe, sums, blueprint);
        // Subtracted from 0, not negated, so that a masked token gets 0 and not -0.
        let zero = constant::<E>(objective.value, 0.0);
        let factor = row.gradient_factor;
        TokenGradient::<E> {
            log_probs: minus_product::<E>(zero, objective.slope, factor),
            log_ratio_slope: minus_product::<E>(zero, objective.log_ratio_slope, factor),
            entropy: minus_product::<E>(zero, objective.entropy_slope, factor),
        }
    }

    /// Adds tokens to the sums, and returns the derivatives of their losses.
    #[cube]
    pub fn token<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> TokenGradient<E> {
        let made_of = surrogate_inputs::<E>(row, inputs, sums, blueprint);
        let surrogate = surrogate::<E>(numbers, row, &made_of, sums, blueprint);
        let term = policy_term::<E>(inputs, &made_of, surrogate);
        let corrected = corrected_term::<E>(numbers, row, inputs, term, sums, blueprint);
        let objective = objective::<E>(corrected, blueprint);
        let regularized = regularized::<E>(numbers, row, inputs, objective, sums, blueprint);
        token_gradient::<E>(row, inputs, regularized, sums, blueprint)
    }
}

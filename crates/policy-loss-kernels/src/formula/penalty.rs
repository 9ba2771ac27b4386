//! The penalty for moving away from a reference policy.

use super::formulas;

formulas! {
    use [parts, row];

    /// What a penalty adds to the losses of tokens, before its coefficient; 0 at masked ones
    /// and at those that are dropped with the sampler's log-prob.
    #[derive(CubeType, Clone, Copy)]
    pub struct PenaltyOutput<E: Elements> {
        /// `log_probs - ref_log_probs`, or `log_probs - rollout_log_probs`.
        pub log_ratio: Values<E>,
        /// The estimate, times the ratio where it is multiplied by it.
        pub value: Values<E>,
        /// What the value changes by with the token's own log-prob.
        pub slope: Values<E>,
        /// What the value changes by with the logarithm of the ratio that tokens share.
        pub log_ratio_slope: Values<E>,
    }

    /// The penalty of tokens.
    #[cube]
    pub fn penalty<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &TokenInputs<E>,
        #[comptime] blueprint: Blueprint,
    ) -> PenaltyOutput<E> {
        let mut valid = inputs.valid;
        let mut base = inputs.ref_log_probs;
        if comptime!(blueprint.penalizes_rollout()) {
            base = inputs.rollout_log_probs;
            if comptime!(blueprint.drops_missing()) {
                valid = both::<E>(valid, !inputs.missing);
            }
        }
        let log_ratio = keep::<E>(valid, inputs.log_probs - base);
        let mut q = log_ratio;
        let mut beyond = nowhere::<E>(q);
        if comptime!(blueprint.bounds_kl) {
            let bounded = bounded_by::<E>(q, number::<E>(q, &numbers.max_kl_log_ratio));
            q = bounded.value;
            beyond = bounded.beyond;
        }
        let estimate = kl_estimate::<E>(q, blueprint);
        let mut value = estimate.value;
        let mut slope = estimate.slope;
        match blueprint.kl_gradient {
            KlGradient::Estimator | KlGradient::ImportanceCorrected => {}
            KlGradient::StraightThrough => {
                slope = q;
            }
            KlGradient::ScoreFunction => {
                slope = drop_where::<E>(estimate.beyond, slope + value);
            }
        }
        if comptime!(blueprint.bounds_kl) {
            let bounded = bounded_by::<E>(value, number::<E>(q, &numbers.max_kl));
            value = bounded.value;
            slope = drop_where::<E>(either::<E>(beyond, bounded.beyond), slope);
        }
        let mut log_ratio_slope = constant::<E>(log_ratio, 0.0);
        if comptime!(blueprint.kl_gradient == KlGradient::ImportanceCorrected) {
            let own = token_ratio::<E>(row, inputs, blueprint);
            slope = slope * own.ratio;
            value = value * own.ratio;
            log_ratio_slope = drop_where::<E>(own.saturated, value);
            if comptime!(!blueprint.separates_ratio()) {
                slope = slope + log_ratio_slope;
            }
        }
        PenaltyOutput::<E> {
            log_ratio,
            value: keep::<E>(valid, value),
            slope: keep::<E>(valid, slope),
            log_ratio_slope: keep::<E>(valid, log_ratio_slope),
        }
    }

    /// A number within bounds.
    #[derive(CubeType, Clone, Copy)]
    pub struct BoundedNumber<E: Elements> {
        pub value: Values<E>,
        pub beyond: Flags<E>,
    }

    /// `clamp(x, -most, most)`.
    #[cube]
    pub fn bounded_by<E: Elements>(x: Values<E>, most: Values<E>) -> BoundedNumber<E> {
        let least = constant::<E>(most, 0.0) - most;
        BoundedNumber::<E> {
            value: clamped::<E>(x, least, most),
            beyond: either::<E>(less::<E>(x, least), greater::<E>(x, most)),
        }
    }

    /// An estimate of a divergence, and its slope.
    #[derive(CubeType, Clone, Copy)]
    pub struct KlEstimate<E: Elements> {
        pub value: Values<E>,
        pub slope: Values<E>,
        /// The log-ratio lay beyond a bound, where the slope is 0.
        pub beyond: Flags<E>,
    }

    /// Of the log-ratio `q` against the base.
    #[cube]
    pub fn kl_estimate<E: Elements>(
        q: Values<E>,
        #[comptime] blueprint: Blueprint,
    ) -> KlEstimate<E> {
        let zero = constant::<E>(q, 0.0);
        let one = constant::<E>(q, 1.0);
        match blueprint.kl_estimator {
            KlEstimator::K1 => KlEstimate::<E> {
                value: q,
                slope: one,
                beyond: nowhere::<E>(q),
            },
            KlEstimator::K2 => KlEstimate::<E> {
                value: q * q * constant::<E>(q, 0.5),
                slope: q,
                beyond: nowhere::<E>(q),
            },
            KlEstimator::K3 => {
                let bounded = bounded_ratio::<E>(zero - q, comptime!(blueprint.double));
                // -expm1(-q), without the cancellation of 1 - exp(-q).
                let slope = zero - bounded.log_ratio - bounded.k3;
                KlEstimate::<E> {
                    value: bounded.k3,
                    slope: drop_where::<E>(bounded.beyond, slope),
                    beyond: bounded.beyond,
                }
            }
            KlEstimator::Abs => {
                let negative = less::<E>(q, zero);
                let sign = choose::<E>(greater::<E>(q, zero), one, zero);
                KlEstimate::<E> {
                    value: choose::<E>(negative, zero - q, q),
                    slope: choose::<E>(negative, zero - one, sign),
                    beyond: nowhere::<E>(q),
                }
            }
        }
    }
}

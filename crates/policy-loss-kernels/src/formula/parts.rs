//! What several formulas are made of.

use super::formulas;

formulas! {
    use [];

    /// `clamp(x, low, high)`; NaN stays NaN.
    #[cube]
    pub fn clamped<E: Elements>(x: Values<E>, low: Values<E>, high: Values<E>) -> Values<E> {
        lowered::<E>(raised::<E>(x, low), high)
    }

    /// `low <= x <= high`; NaN lies in no range.
    #[cube]
    pub fn inside<E: Elements>(x: Values<E>, low: Values<E>, high: Values<E>) -> Flags<E> {
        both::<E>(at_least::<E>(x, low), at_most::<E>(x, high))
    }

    /// The value where the condition holds, else 0, whatever the value.
    #[cube]
    pub fn keep<E: Elements>(condition: Flags<E>, x: Values<E>) -> Values<E> {
        choose::<E>(condition, x, constant::<E>(x, 0.0))
    }

    /// 0 where the condition holds, else the value.
    #[cube]
    pub fn drop_where<E: Elements>(condition: Flags<E>, x: Values<E>) -> Values<E> {
        choose::<E>(condition, constant::<E>(x, 0.0), x)
    }

    /// A log-ratio, and what follows from it.
    #[derive(CubeType, Clone, Copy)]
    pub struct BoundedRatio<E: Elements> {
        /// The log-ratio, clamped to ±20.
        pub log_ratio: Values<E>,
        /// Its exponential.
        pub ratio: Values<E>,
        /// `expm1(log_ratio) - log_ratio`.
        pub k3: Values<E>,
        /// The log-ratio lay beyond a bound, where the gradient is 0.
        pub beyond: Flags<E>,
    }

    /// `exp(clamp(log_ratio, -20, 20))`.
    #[cube]
    pub fn bounded_ratio<E: Elements>(
        log_ratio: Values<E>,
        #[comptime] double: bool,
    ) -> BoundedRatio<E> {
        let high = constant::<E>(log_ratio, LOG_RATIO_LIMIT);
        let low = constant::<E>(log_ratio, -LOG_RATIO_LIMIT);
        let above = greater::<E>(log_ratio, high);
        let below = less::<E>(log_ratio, low);
        let bounded = clamped::<E>(log_ratio, low, high);
        let exponential = exponential_of_bounded::<E>(bounded, double);
        BoundedRatio::<E> {
            log_ratio: bounded,
            ratio: exponential.value,
            k3: exponential.minus_one_minus_x,
            beyond: either::<E>(above, below),
        }
    }
}

//! The numbers that a kernel is given.

use crate::objective::rollout::{FilterEstimator, FilterLevel};

/// Declares the numbers of an objective once, on the host and as the arguments of a launch.
macro_rules! numbers {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// The numbers of an objective. One that it does not have is 0.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Numbers {
            $($(#[doc = $doc])* pub $name: f64,)*
            /// The bounds of each filter, by [`filter_place`], in pairs of low and high.
            pub filters: [f64; FILTER_BOUNDS],
        }

        // Not derived: an array has a default up to a length of 32.
        impl Default for Numbers {
            fn default() -> Self {
                Self { $($name: 0.0,)* filters: [0.0; FILTER_BOUNDS] }
            }
        }

        #[cfg(feature = "cube")]
        pub(crate) mod gpu {
            #![allow(missing_docs)]

            use cubecl::prelude::*;

            #[derive(CubeType, CubeLaunch)]
            pub struct NumberArguments {
                $(pub $name: InputScalar,)*
                pub filters: Sequence<InputScalar>,
            }

            impl super::Numbers {
                pub fn arguments(&self, arithmetic: ElemType) -> NumberArgumentsLaunch {
                    let scalar = |value: f64| {
                        // A side of bounds that is open is infinite; no other number becomes so.
                        let value = match value.is_infinite() {
                            true => value,
                            false => value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)),
                        };
                        InputScalar::new(value, arithmetic)
                    };
                    NumberArgumentsLaunch::new(
                        $(scalar(self.$name),)*
                        self.filters.iter().map(|bound| scalar(*bound)).collect(),
                    )
                }
            }
        }
    };
}

/// The number of bounds that filters can have.
pub const FILTER_BOUNDS: usize = 2 * FilterLevel::ALL.len() * FilterEstimator::ALL.len();

numbers! {
    /// The lower bound of the surrogate's ratio, log-ratio or change of a probability.
    low,
    /// The upper bound of the same.
    high,
    /// The part of the gradient that is left below the lower bound.
    low_gradient,
    /// The part of the gradient that is left above the upper bound.
    high_gradient,
    /// `c`, where a surrogate is bounded below by `c * A`.
    dual_clip,
    /// The temperature of the gate where `A > 0`.
    positive_temperature,
    /// The temperature of the gate elsewhere.
    negative_temperature,
    /// `k` of the gamma weight where `A >= 0`.
    positive_k,
    /// `lambda` of the gamma weight where `A >= 0`.
    positive_lambda,
    /// `k` of the gamma weight where `A < 0`.
    negative_k,
    /// `lambda` of the gamma weight where `A < 0`.
    negative_lambda,
    /// The largest ratio.
    max_ratio,
    /// What half of the squared log-ratio is multiplied by.
    coefficient,
    /// The lower bound of a rollout weight.
    weight_low,
    /// The upper bound of a rollout weight.
    weight_high,
    /// Sequences that hold a token with a gap below it are rejected.
    least_gap,
    /// Sequences with a mean log-ratio below it lose their tokens with a negative advantage.
    least_mean_log_ratio,
    /// The coefficient of the KL penalty.
    kl_coefficient,
    /// The largest log-ratio of the KL penalty.
    max_kl_log_ratio,
    /// The largest divergence of the KL penalty.
    max_kl,
    /// The coefficient of the entropy bonus.
    entropy_coefficient,
}

/// The place of a filter among all that there can be.
#[must_use]
#[inline(always)]
pub const fn filter_place(level: FilterLevel, estimator: FilterEstimator) -> usize {
    level as usize * FilterEstimator::ALL.len() + estimator as usize
}

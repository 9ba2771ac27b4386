//! What comes out.

use burn::tensor::{DType, Device, Tensor, TensorReadError};
use serde::{Deserialize, Serialize};

use crate::PolicyLossConfig;
use crate::composed::arithmetic;

/// How a loss is computed; the results agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Implementation {
    /// Fused where the device has it, else composed.
    #[default]
    Auto,
    /// Plain tensor operations, on every backend.
    Composed,
    /// One pass over the inputs that yields loss, metrics and gradient; on Flex and NdArray.
    Fused,
}

impl std::fmt::Display for Implementation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Composed => "composed",
            Self::Fused => "fused",
        })
    }
}

/// The loss of a batch, tracked, and its metrics, detached; all of them still on the device.
///
/// Loss and metrics are f64 where `log_probs` is f64, else f32.
#[derive(Debug, Clone)]
pub struct PolicyLossOutput {
    /// `[1]`; `loss.backward()` gives the gradient of `log_probs`.
    pub loss: Tensor<1>,
    /// Everything worth watching.
    pub metrics: PolicyLossMetrics,
    /// The implementation that computed it; never [`Implementation::Auto`].
    pub implementation: Implementation,
}

impl PolicyLossOutput {
    /// A batch without a token: loss 0, with an empty gradient, and metrics 0.
    pub(crate) fn empty(
        config: &PolicyLossConfig,
        log_probs: Tensor<2>,
        implementation: Implementation,
    ) -> Self {
        let dtype = arithmetic(log_probs.dtype());
        let loss = log_probs.cast(dtype).sum();
        let device = loss.device().without_autodiff();
        let corrected = config.rollout_correction.is_some();
        Self {
            loss,
            metrics: PolicyLossMetrics::zeros(corrected, dtype, &device),
            implementation,
        }
    }

    /// Reads the loss and every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<PolicyLossValues, TensorReadError> {
        let loss = self.loss.clone().without_autodiff();
        let packed = Tensor::cat(vec![loss, self.metrics.packed.clone()], 0);
        let values = packed.try_into_vec_as::<f64>()?;
        Ok(PolicyLossValues {
            loss: values[0],
            metrics: self.metrics.values(&values[1..]),
        })
    }
}

/// A loss and its metrics as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PolicyLossValues {
    /// The loss.
    pub loss: f64,
    /// The metrics.
    pub metrics: MetricValues,
}

/// Declares the metrics once, as tensors and as numbers, so that the two cannot drift apart.
macro_rules! metrics {
    (
        always { $($(#[$always_doc:meta])* $always:ident,)* }
        with_rollout_correction { $($(#[$rollout_doc:meta])* $rollout:ident,)* }
    ) => {
        impl PolicyLossMetrics {
            $($(#[$always_doc])*
            pub fn $always(&self) -> Tensor<1> {
                self.at(Position::$always as usize)
            })*

            $($(#[$rollout_doc])*
            pub fn $rollout(&self) -> Option<Tensor<1>> {
                self.corrected.then(|| self.at(Position::$rollout as usize))
            })*

            fn values(&self, packed: &[f64]) -> MetricValues {
                MetricValues {
                    $($always: packed[Position::$always as usize],)*
                    $($rollout: self.corrected.then(|| packed[Position::$rollout as usize]),)*
                }
            }
        }

        /// Where each metric stands in the packed tensor.
        #[allow(non_camel_case_types, clippy::enum_variant_names)]
        enum Position { $($always,)* $($rollout,)* }

        /// The metrics as separate tensors, each `[1]`, on their way into the packed one.
        pub(crate) struct SeparateMetrics {
            $(pub $always: Tensor<1>,)*
            $(pub $rollout: Option<Tensor<1>>,)*
        }

        impl SeparateMetrics {
            pub fn pack(self) -> PolicyLossMetrics {
                let mut tensors = vec![$(self.$always,)*];
                $(tensors.extend(self.$rollout);)*
                PolicyLossMetrics {
                    corrected: tensors.len() > ALWAYS,
                    packed: Tensor::cat(tensors, 0),
                }
            }
        }

        /// How many metrics there always are, and how many with a rollout correction.
        const ALWAYS: usize = [$(stringify!($always)),*].len();
        const WITH_ROLLOUT_CORRECTION: usize = ALWAYS + [$(stringify!($rollout)),*].len();

        /// The values of [`PolicyLossMetrics`], read back.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        pub struct MetricValues {
            $($(#[$always_doc])* pub $always: f64,)*
            $($(#[$rollout_doc])* pub $rollout: Option<f64>,)*
        }

        impl MetricValues {
            /// In the order of [`PolicyLossMetrics`].
            #[cfg(any(feature = "flex", feature = "ndarray"))]
            pub(crate) fn packed(&self) -> Vec<f64> {
                vec![$(self.$always,)* $(self.$rollout.unwrap_or(0.0),)*]
            }

            /// The name and the value of every metric, in the order of the documentation; `None`
            /// where the objective has no rollout correction.
            pub fn named(&self) -> Vec<(&'static str, Option<f64>)> {
                vec![
                    $((stringify!($always), Some(self.$always)),)*
                    $((stringify!($rollout), self.$rollout),)*
                ]
            }
        }
    };
}

metrics! {
    always {
        /// Fraction of tokens whose clipped branch was taken, `sum([s2 < s1]) / n`.
        clip_ratio,
        /// `sum(old_log_probs - log_probs) / n`, not clamped.
        ppo_kl,
        /// Fraction of tokens clipped at the upper bound (`A > 0`).
        clipped_above,
        /// Fraction of tokens clipped at the lower bound (`A < 0`).
        clipped_below,
        /// Fraction of tokens at which the dual clip was taken.
        dual_clipped,
        /// Mean of `r`.
        ratio_mean,
        /// Smallest `r`.
        ratio_min,
        /// Largest `r`.
        ratio_max,
        /// Effective sample size of the ratios as a fraction of `n`: `sum(r)^2 / (n * sum(r^2))`.
        ratio_effective_sample_size,
        /// Estimate k1 of KL(old, new): the mean of `-d`, not clamped; the same as `ppo_kl`.
        kl_k1,
        /// Estimate k2 of KL(old, new): the mean of `d^2 / 2`, not clamped.
        kl_k2,
        /// Estimate k3 of KL(old, new): the mean of `expm1(d) - d`, with `d` clamped to ±20
        /// ([Schulman 2020](http://joschu.net/blog/kl-approx.html)).
        kl_k3,
        /// Number of valid tokens, `n`.
        valid_tokens,
        /// Number of sequences that hold a valid token.
        valid_sequences,
        /// Number of valid tokens at which an input of the objective is NaN or infinite.
        non_finite,
    }
    with_rollout_correction {
        /// `sum(rollout_log_probs - old_log_probs) / n`. Absent without a rollout correction, as
        /// are all weight metrics.
        #[doc(alias = "vllm_kl")]
        rollout_kl,
        /// Mean of the weights `w`.
        weight_mean,
        /// Effective sample size of the weights as a fraction of `n`: `sum(w)^2 / (n * sum(w^2))`.
        weight_effective_sample_size,
        /// Fraction of tokens whose weight was cut to a bound.
        weight_truncated,
        /// Fraction of tokens whose weight was set to 0.
        weight_zeroed,
    }
}

/// Metrics of a batch, detached and still on the device: each `[1]`. With `n` valid tokens,
/// `d = log_probs - old_log_probs` and the ratio `r` of the objective.
///
/// [`read`](Self::read) brings all of them back in one transfer. A batch without a valid token has
/// metrics 0.
#[derive(Debug, Clone)]
pub struct PolicyLossMetrics {
    packed: Tensor<1>,
    /// Whether the objective has a rollout correction, so that its metrics are there.
    corrected: bool,
}

/// The length of the packed tensor.
pub(crate) fn metric_count(corrected: bool) -> usize {
    match corrected {
        true => WITH_ROLLOUT_CORRECTION,
        false => ALWAYS,
    }
}

impl PolicyLossMetrics {
    /// Every metric 0.
    pub(crate) fn zeros(corrected: bool, dtype: DType, device: &Device) -> Self {
        let packed = Tensor::zeros([metric_count(corrected)], (device, dtype));
        Self { packed, corrected }
    }

    #[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
    /// Metrics that a kernel has packed, in the order of this type's methods.
    pub(crate) fn from_packed(packed: Tensor<1>, corrected: bool) -> Self {
        Self { packed, corrected }
    }

    /// Reads every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<MetricValues, TensorReadError> {
        Ok(self.values(&self.packed.try_to_vec_as::<f64>()?))
    }

    fn at(&self, position: usize) -> Tensor<1> {
        self.packed.clone().narrow(0, position, 1)
    }
}

//! What comes out.

#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
mod fused;

use burn::tensor::{DType, Device, Tensor, TensorReadError};
use serde::Serialize;

use crate::composed::arithmetic;
use crate::groups::Groups;
use crate::{Implementation, PolicyLossConfig};

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
        Self {
            loss,
            metrics: PolicyLossMetrics::zeros(Groups::of(config), dtype, &device),
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
/// In the packed tensor they lie in the order of the declaration, without the absent ones.
macro_rules! metrics {
    (
        always { $($(#[$always_doc:meta])* $always:ident,)* }
        $(with $group:ident { $($(#[$group_doc:meta])* $metric:ident,)* })*
    ) => {
        impl PolicyLossMetrics {
            $($(#[$always_doc])*
            pub fn $always(&self) -> Tensor<1> {
                self.at(Positions::of(self.groups).$always)
            })*

            $($($(#[$group_doc])*
            pub fn $metric(&self) -> Option<Tensor<1>> {
                Positions::of(self.groups).$metric.map(|position| self.at(position))
            })*)*

            fn values(&self, packed: &[f64]) -> MetricValues {
                let positions = Positions::of(self.groups);
                MetricValues {
                    $($always: packed[positions.$always],)*
                    $($($metric: positions.$metric.map(|position| packed[position]),)*)*
                }
            }
        }

        /// Where each metric stands in the packed tensor.
        struct Positions {
            $($always: usize,)*
            $($($metric: Option<usize>,)*)*
            length: usize,
        }

        impl Positions {
            fn of(groups: Groups) -> Self {
                let mut length = 0;
                let mut next = |present: bool| {
                    let position = present.then_some(length);
                    length += usize::from(present);
                    position
                };
                Self {
                    $($always: next(true).unwrap_or_default(),)*
                    $($($metric: next(groups.$group),)*)*
                    length,
                }
            }
        }

        /// The metrics as separate tensors, each `[1]`, on their way into the packed one.
        pub(crate) struct SeparateMetrics {
            $(pub $always: Tensor<1>,)*
            $($(pub $metric: Option<Tensor<1>>,)*)*
        }

        impl SeparateMetrics {
            pub fn pack(self, groups: Groups) -> PolicyLossMetrics {
                let mut tensors = vec![$(self.$always,)*];
                $($(tensors.extend(self.$metric.filter(|_| groups.$group));)*)*
                PolicyLossMetrics {
                    groups,
                    packed: Tensor::cat(tensors, 0),
                }
            }
        }

        /// The values of [`PolicyLossMetrics`], read back.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        pub struct MetricValues {
            $($(#[$always_doc])* pub $always: f64,)*
            $($($(#[$group_doc])* pub $metric: Option<f64>,)*)*
        }

        impl MetricValues {
            /// In the order of [`PolicyLossMetrics`], without the absent ones.
            #[cfg(any(feature = "flex", feature = "ndarray"))]
            pub(crate) fn packed(&self) -> Vec<f64> {
                let mut packed = vec![$(self.$always,)*];
                $($(packed.extend(self.$metric);)*)*
                packed
            }

            /// The name and the value of every metric, in the order of the documentation; `None`
            /// where the objective does not have the part that it belongs to.
            pub fn named(&self) -> Vec<(&'static str, Option<f64>)> {
                vec![
                    $((stringify!($always), Some(self.$always)),)*
                    $($((stringify!($metric), self.$metric),)*)*
                ]
            }
        }
    };
}

metrics! {
    always {
        /// Fraction of tokens at which the bound of the surrogate was met; with the clip, whose
        /// clipped branch was taken, `sum([s2 < s1]) / n`.
        clip_ratio,
        /// `sum(old_log_probs - log_probs) / n`, not clamped.
        ppo_kl,
        /// Fraction of tokens clipped while `A > 0`; with the clip, at the upper bound.
        clipped_above,
        /// Fraction of tokens clipped while `A < 0`; with the clip, at the lower bound.
        clipped_below,
        /// Fraction of tokens at which the dual clip, or the `delta`, was taken.
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
    with rollout_correction {
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
    with off_policy_mask {
        /// Fraction of tokens that the off-policy mask dropped. Absent without one.
        off_policy_dropped,
    }
    with kl_penalty {
        /// Mean of the divergence that the KL penalty multiplies, times `r` where its gradient is
        /// `importance_corrected`. Absent without a penalty.
        kl,
    }
    with entropy_bonus {
        /// Mean of the entropies. Absent without an entropy bonus.
        entropy,
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
    groups: Groups,
}

/// The length of the packed tensor.
pub(crate) fn metric_count(groups: Groups) -> usize {
    Positions::of(groups).length
}

impl PolicyLossMetrics {
    /// Every metric 0.
    pub(crate) fn zeros(groups: Groups, dtype: DType, device: &Device) -> Self {
        let packed = Tensor::zeros([metric_count(groups)], (device, dtype));
        Self { packed, groups }
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

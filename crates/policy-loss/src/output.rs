//! What comes out.

use burn::tensor::{Tensor, TensorReadError};
use serde::Serialize;

use crate::PolicyLossConfig;
use crate::composed::arithmetic;

/// The implementation that computed a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Implementation {
    /// Plain tensor operations, on every backend.
    Composed,
}

impl std::fmt::Display for Implementation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Composed => "composed",
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
    /// The implementation that computed it.
    pub implementation: Implementation,
}

impl PolicyLossOutput {
    /// A batch without a token: loss 0, with an empty gradient, and metrics 0.
    pub(crate) fn empty(config: &PolicyLossConfig, log_probs: Tensor<2>) -> Self {
        let dtype = arithmetic(log_probs.dtype());
        let loss = log_probs.cast(dtype).sum();
        let zero = loss.clone().without_autodiff();
        let weights = config.rollout_correction.map(|_| zero.clone());
        Self {
            loss,
            metrics: PolicyLossMetrics::all(zero, weights),
            implementation: Implementation::Composed,
        }
    }

    /// Reads the loss and every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<PolicyLossValues, TensorReadError> {
        let loss = self.loss.clone().without_autodiff();
        let mut values = read(
            std::iter::once(loss)
                .chain(self.metrics.tensors())
                .collect(),
        )?;
        let loss = values.remove(0);
        Ok(PolicyLossValues {
            loss,
            metrics: self.metrics.values(values.into_iter()),
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

fn read(tensors: Vec<Tensor<1>>) -> Result<Vec<f64>, TensorReadError> {
    Tensor::cat(tensors, 0).try_into_vec_as::<f64>()
}

/// Declares the metrics once, as tensors and as numbers, so that the two cannot drift apart.
macro_rules! metrics {
    (
        always { $($(#[$always_doc:meta])* $always:ident,)* }
        with_rollout_correction { $($(#[$rollout_doc:meta])* $rollout:ident,)* }
    ) => {
        /// Metrics of a batch, detached and still on the device: each `[1]`. With `n` valid tokens,
        /// `d = log_probs - old_log_probs` and the ratio `r` of the objective.
        ///
        /// [`read`](Self::read) brings all of them back in one transfer. A batch without a valid
        /// token has metrics 0.
        #[derive(Debug, Clone)]
        pub struct PolicyLossMetrics {
            $($(#[$always_doc])* pub $always: Tensor<1>,)*
            $($(#[$rollout_doc])* pub $rollout: Option<Tensor<1>>,)*
        }

        /// The values of [`PolicyLossMetrics`], read back.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        pub struct MetricValues {
            $($(#[$always_doc])* pub $always: f64,)*
            $($(#[$rollout_doc])* pub $rollout: Option<f64>,)*
        }

        impl PolicyLossMetrics {
            /// The same value for every metric.
            fn all(always: Tensor<1>, with_rollout_correction: Option<Tensor<1>>) -> Self {
                Self {
                    $($always: always.clone(),)*
                    $($rollout: with_rollout_correction.clone(),)*
                }
            }

            fn tensors(&self) -> Vec<Tensor<1>> {
                let mut tensors = vec![$(self.$always.clone(),)*];
                $(tensors.extend(self.$rollout.clone());)*
                tensors
            }

            /// Takes the numbers in the order of `tensors`.
            fn values(&self, mut numbers: impl Iterator<Item = f64>) -> MetricValues {
                let mut next = || numbers.next().unwrap_or(f64::NAN);
                MetricValues {
                    $($always: next(),)*
                    $($rollout: self.$rollout.as_ref().map(|_| next()),)*
                }
            }
        }

        impl MetricValues {
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

impl PolicyLossMetrics {
    /// Reads every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<MetricValues, TensorReadError> {
        Ok(self.values(read(self.tensors())?.into_iter()))
    }
}

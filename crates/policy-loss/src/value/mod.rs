//! The value loss: what a critic learns.

mod batch;
mod output;

use batch::CheckedBatch;
pub use batch::ValueBatch;
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
pub use output::{ValueLossMetrics, ValueLossOutput, ValueLossValues, ValueMetricValues};
use policy_loss_kernels::objective::check::{if_given, positive};
use serde::{Deserialize, Serialize};

use crate::composed::arithmetic;
use crate::valid::Valid;
use crate::{BatchError, ConfigError, Reduction};

/// Configuration of a [`ValueLoss`].
///
/// ```
/// use policy_loss::{Reduction, ValueLossConfig};
///
/// let loss = ValueLossConfig::new()
///     .with_clip(0.5)
///     .with_reduction(Reduction::SequenceMean)
///     .init()?;
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ValueLossConfig {
    /// How far a value may move from the old one before it stops to learn, if there is a bound.
    /// Finite and above 0.
    pub clip: Option<f64>,
    /// How token losses become one number.
    pub reduction: Reduction,
}

impl Config for ValueLossConfig {}

impl Default for ValueLossConfig {
    fn default() -> Self {
        Self {
            clip: Some(0.2),
            reduction: Reduction::default(),
        }
    }
}

impl ValueLossConfig {
    /// Clipped at 0.2, with a token mean.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets how far a value may move from the old one; `None` for no bound.
        with_clip(clip: impl Into<Option<f64>>);
        /// Sets how token losses become one number.
        with_reduction(reduction: Reduction);
    }

    /// Checks the configuration and builds the loss.
    ///
    /// # Errors
    ///
    /// A `clip` that is not finite or not above 0, a fixed length of 0, or a mean over prompts, of
    /// which a batch of values says nothing.
    pub fn init(&self) -> Result<ValueLoss, ConfigError> {
        if_given(self.clip, |clip| positive("clip", *clip))?;
        self.reduction.validate()?;
        if self.reduction.has_sequence_weights() {
            return Err(ConfigError::Combination {
                first: "reduction = prompt_mean",
                second: "a value loss",
                reason: "a batch of values does not say which sequences answer the same prompt; take \
                         `token_mean` or `sequence_mean`",
            });
        }
        Ok(ValueLoss { config: *self })
    }
}

/// The value loss of PPO.
///
/// With values `V`, the values `V_old` that the update started from, and returns `R`, per token:
///
/// ```text
/// V_clipped  = V_old + clamp(V - V_old, -clip, clip)
/// token_loss = max((V - R)^2, (V_clipped - R)^2) / 2;  without a clip (V - R)^2 / 2
/// loss       = the mean of token_loss                       (Reduction)
/// ```
///
/// The gradient of a token is `V - R` where the unclipped branch is taken, and 0 where the clipped
/// one is. At a tie the unclipped branch is taken, so that within the bounds, and exactly at them,
/// the gradient is `V - R`: a `V` within the bounds is its own `V_clipped` to the last bit.
///
/// Only `values` receives a gradient. A value at a masked position, whatever it is, changes nothing,
/// and its own gradient is exactly 0. It is a [`Module`] without parameters.
///
/// Papers: PPO [arXiv 1707.06347](https://arxiv.org/abs/1707.06347); the clip is that of its
/// [first implementation](https://github.com/openai/baselines), see
/// [arXiv 2005.12729](https://arxiv.org/abs/2005.12729).
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Tensor};
/// use policy_loss::{ValueBatch, ValueLossConfig};
///
/// let device = Device::flex().autodiff();
/// let values = Tensor::<2>::from_floats([[0.5, 0.1]], &device).require_grad();
/// let returns = Tensor::<2>::from_floats([[1.0, 0.0]], &device);
/// let loss = ValueLossConfig::new().with_clip(None).init()?;
/// let output = loss.forward(ValueBatch::new(values.clone(), returns))?;
/// let gradients = output.loss.backward();
/// assert!(values.grad(&gradients).is_some());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct ValueLoss {
    #[module(skip)]
    config: ValueLossConfig,
}

/// The token losses with what the metrics need.
struct Computed {
    token_loss: Tensor<2>,
    valid: Valid,
    values: Tensor<2>,
    returns: Tensor<2>,
    clipped: Option<Tensor<2, Bool>>,
    old_values: Option<Tensor<2>>,
}

impl ValueLoss {
    /// The configuration that this loss was built from.
    pub fn config(&self) -> &ValueLossConfig {
        &self.config
    }

    /// Computes the loss of a batch, with its metrics. Nothing is read back from the device.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`ValueBatch`]
    /// - output: loss and metrics `[1]`
    ///
    /// # Errors
    ///
    /// Shapes or devices differ, a tensor has a type that the device does not compute, the clip
    /// needs old values that are missing, or the totals do not fit the reduction. All of it is
    /// found before any device work.
    pub fn forward(&self, batch: ValueBatch) -> Result<ValueLossOutput, BatchError> {
        let batch = batch.check(&self.config)?;
        if batch.is_empty() {
            return Ok(ValueLossOutput::empty(batch.values));
        }
        let scale = batch.scale;
        let computed = self.compute(batch);
        let (valid, reduction) = (&computed.valid, self.config.reduction);
        let numerator = valid.numerator(reduction, computed.token_loss.clone(), None);
        let loss = valid.divided(reduction, numerator, None, scale);
        Ok(ValueLossOutput {
            loss,
            metrics: output::observe(computed),
        })
    }

    /// Computes the token losses of a batch without reducing them, 0 at masked positions.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`ValueBatch`]
    /// - output: `[B, T]`
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_no_reduction(&self, batch: ValueBatch) -> Result<Tensor<2>, BatchError> {
        let batch = batch.check(&self.config)?;
        if batch.is_empty() {
            let dtype = arithmetic(batch.values.dtype());
            return Ok(batch.values.cast(dtype));
        }
        Ok(self.compute(batch).token_loss)
    }

    fn compute(&self, batch: CheckedBatch) -> Computed {
        let dtype = arithmetic(batch.values.dtype());
        let valid = Valid::new(batch.action_mask, dtype);
        let constant = |x: Tensor<2>| valid.select(x.without_autodiff().cast(dtype));
        let values = valid.select(batch.values.cast(dtype));
        let returns = constant(batch.returns);
        let old_values = batch.old_values.map(constant);

        let unclipped = (values.clone() - returns.clone()).square() * 0.5;
        let untracked = values.without_autodiff();
        let (token_loss, clipped) = match (self.config.clip, &old_values) {
            (Some(clip), Some(old_values)) => {
                let bounded = bounded(untracked.clone(), old_values.clone(), clip);
                let bounded = (bounded - returns.clone()).square() * 0.5;
                // A constant, so that a clipped token has gradient 0.
                let clipped = bounded
                    .clone()
                    .greater(unclipped.clone().without_autodiff());
                (
                    unclipped.mask_where(clipped.clone(), bounded),
                    Some(clipped),
                )
            }
            _ => (unclipped, None),
        };
        Computed {
            token_loss,
            values: untracked,
            returns,
            clipped,
            old_values,
            valid,
        }
    }
}

/// `V_old + clamp(V - V_old, -clip, clip)`, and `V` itself within the bounds.
///
/// Adding the difference back would round: the clipped branch could then win by half a unit in the
/// last place, and take the gradient of a value that never moved too far.
fn bounded(values: Tensor<2>, old_values: Tensor<2>, clip: f64) -> Tensor<2> {
    let distance = values.clone() - old_values.clone();
    values
        .mask_where(
            distance.clone().greater_elem(clip),
            old_values.clone() + clip,
        )
        .mask_where(distance.lower_elem(-clip), old_values - clip)
}

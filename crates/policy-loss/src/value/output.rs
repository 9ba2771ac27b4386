//! What comes out of the value loss.

use burn::tensor::{Tensor, TensorReadError};
use serde::Serialize;

use super::Computed;
use crate::composed::arithmetic;
use crate::numbers::numbers;
use crate::valid::non_finite;

/// The loss of a batch, tracked, and its metrics, detached; all of them still on the device.
///
/// Loss and metrics are f64 where `values` is f64, else f32.
#[derive(Debug, Clone)]
pub struct ValueLossOutput {
    /// `[1]`; `loss.backward()` gives the gradient of `values`.
    pub loss: Tensor<1>,
    /// Everything worth watching.
    pub metrics: ValueLossMetrics,
}

/// A loss and its metrics as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ValueLossValues {
    /// The loss.
    pub loss: f64,
    /// The metrics.
    pub metrics: ValueMetricValues,
}

/// Metrics of a batch, detached and still on the device: each `[1]`. With `n` valid tokens, values
/// `V` and returns `R`.
///
/// [`read`](Self::read) brings all of them back in one transfer. A batch without a valid token has
/// metrics 0.
#[derive(Debug, Clone)]
pub struct ValueLossMetrics {
    packed: Tensor<1>,
}

numbers! {
    ValueLossMetrics, ValueMetricValues;
    /// Fraction of tokens whose clipped branch was taken; 0 without a clip.
    clip_fraction,
    /// Mean of `V`.
    value_mean,
    /// Mean of `R`.
    return_mean,
    /// Mean of `(V - R)^2`, whatever the clip.
    squared_error,
    /// `1 - variance(R - V) / variance(R)`: 1 for a perfect critic, 0 for one that knows the mean and
    /// nothing else, negative for a worse one. 0 where all returns are equal.
    explained_variance,
    /// Number of valid tokens, `n`.
    valid_tokens,
    /// Number of sequences that hold a valid token.
    valid_sequences,
    /// Number of valid tokens at which an input of the loss is NaN or infinite.
    non_finite,
}

impl ValueLossOutput {
    /// A batch without a token: loss 0, with an empty gradient, and metrics 0.
    pub(super) fn empty(values: Tensor<2>) -> Self {
        let dtype = arithmetic(values.dtype());
        let loss = values.cast(dtype).sum();
        let device = loss.device().without_autodiff();
        Self {
            metrics: ValueLossMetrics {
                packed: Tensor::zeros([ValueMetricValues::SENTENCES.len()], (&device, dtype)),
            },
            loss,
        }
    }

    /// Reads the loss and every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<ValueLossValues, TensorReadError> {
        let loss = self.loss.clone().without_autodiff();
        let packed = Tensor::cat(vec![loss, self.metrics.packed.clone()], 0);
        let values = packed.try_into_vec_as::<f64>()?;
        Ok(ValueLossValues {
            loss: values[0],
            metrics: ValueMetricValues::from_packed(&values[1..]),
        })
    }
}

/// The metrics of a batch; values, returns and old values are 0 at padding.
pub(super) fn observe(computed: Computed) -> ValueLossMetrics {
    let Computed {
        valid,
        values,
        returns,
        clipped,
        old_values,
        ..
    } = computed;
    let shape = values.dims();
    // The variance, from the distances to the mean: squares of the values would cancel.
    let spread = |x: Tensor<2>| {
        let mean = valid.mean(x.clone()).reshape([1, 1]).expand(shape);
        valid.mean(valid.select(x - mean).square())
    };
    let error = returns.clone() - values.clone();
    let variance = spread(returns.clone());
    let constant = variance.clone().equal_elem(0);
    let unexplained = spread(error.clone()) / variance.mask_fill(constant.clone(), 1);
    let explained_variance = unexplained.neg().add_scalar(1).mask_fill(constant, 0);

    let inputs = [Some(values.clone()), Some(returns.clone()), old_values];
    Separate {
        clip_fraction: match clipped {
            Some(clipped) => valid.fraction(clipped),
            None => valid.total.zeros_like(),
        },
        value_mean: valid.mean(values),
        return_mean: valid.mean(returns),
        squared_error: valid.mean(error.square()),
        explained_variance,
        non_finite: valid.count(non_finite(inputs.into_iter().flatten())),
        valid_tokens: valid.total.clone(),
        valid_sequences: valid.sequences.clone(),
    }
    .pack()
}

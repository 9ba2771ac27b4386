//! What comes out.

use burn::tensor::{Tensor, TensorReadError};
pub use policy_loss_kernels::{MetricValues, Sum, Sums};
use serde::Serialize;

use crate::checked::CheckedBatch;
use crate::composed::{LossAndSums, arithmetic};
use crate::device::describe;
use crate::{BatchError, Implementation, Objective};

/// The loss of a batch, tracked, and what its metrics are made of, detached; all of it still on the
/// device.
///
/// Loss and metrics are computed in f64 where `log_probs` is f64, else in f32.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PolicyLossOutput {
    /// `[1]`; `loss.backward()` gives the gradient of `log_probs`.
    pub loss: Tensor<1>,
    /// Everything worth watching.
    pub metrics: PolicyLossMetrics,
    /// The implementation that computed it; never [`Implementation::Auto`].
    pub implementation: Implementation,
}

impl PolicyLossOutput {
    pub(crate) fn new(
        objective: &Objective,
        outputs: LossAndSums,
        implementation: Implementation,
    ) -> Self {
        Self {
            loss: outputs.loss,
            metrics: PolicyLossMetrics {
                rows: outputs.sums,
                objective: *objective,
            },
            implementation,
        }
    }

    /// A batch without a token: loss 0, with an empty gradient, and metrics 0.
    pub(crate) fn empty(
        objective: &Objective,
        batch: CheckedBatch,
        implementation: Implementation,
    ) -> Self {
        let dtype = arithmetic(batch.log_probs.dtype());
        let loss = batch.log_probs.cast(dtype).sum();
        let device = loss.device().without_autodiff();
        let row = Sums::default().to_row();
        let shape = [1, row.len()];
        let row = burn::tensor::TensorData::new(row, shape).convert_dtype(dtype);
        let sums = Tensor::from_data(row, (&device, dtype));
        Self::new(objective, LossAndSums { loss, sums }, implementation)
    }

    /// Reads the loss and every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<PolicyLossValues, TensorReadError> {
        Ok(self.values(&self.flat().try_into_vec_as::<f64>()?))
    }

    /// The loss, and the rows behind it.
    pub(crate) fn flat(&self) -> Tensor<1> {
        let loss = self.loss.clone().without_autodiff();
        Tensor::cat(vec![loss, self.metrics.flat()], 0)
    }

    pub(crate) fn values(&self, flat: &[f64]) -> PolicyLossValues {
        PolicyLossValues {
            loss: flat[0],
            metrics: self.metrics.values(&flat[1..]),
        }
    }
}

/// A loss and its metrics as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyLossValues {
    /// The loss.
    pub loss: f64,
    /// The metrics.
    pub metrics: MetricValues,
}

/// What the metrics of a batch are made of, detached and still on the device: rows of [`Sums`].
///
/// [`read`](Self::read) brings the metrics back, in one transfer. Rows add up: the metrics of a step
/// are those of its [merged](Self::merge) micro-batches or shards, exactly, the least and the largest
/// included.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// # use burn::tensor::{Device, Tensor};
/// # use policy_loss::{GlobalTotals, PolicyBatch, PolicyLossConfig};
/// # let device = Device::flex();
/// # let batch = |value: f32| {
/// #     let x = Tensor::<2>::full([1, 3], value, &device);
/// #     PolicyBatch::new(x.clone(), x * 1.1, Tensor::<1>::from_floats([1.0], &device))
/// # };
/// # let (first, second) = (batch(-0.5), batch(-1.0));
/// let loss = PolicyLossConfig::new().init()?;
/// let totals = GlobalTotals::new().with_tokens(6);
/// let first = loss.forward(first.with_totals(totals))?;
/// let second = loss.forward(second.with_totals(totals))?;
/// let metrics = first.metrics.merge(&second.metrics)?.read()?;
/// assert_eq!(metrics.valid_tokens, 6.0);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Between processes, [`sums`](Self::sums) are sent as numbers, added up by
/// [`Sums::merge`], and [`MetricValues::of`] makes metrics of them.
#[derive(Debug, Clone)]
pub struct PolicyLossMetrics {
    /// `[K, N]`, a row for each batch.
    rows: Tensor<2>,
    objective: Objective,
}

impl PolicyLossMetrics {
    /// Those of both batches together. Nothing is read back.
    ///
    /// # Errors
    ///
    /// The metrics are of different objectives, or on different devices; between devices, add up
    /// their [`sums`](Self::sums).
    pub fn merge(&self, other: &Self) -> Result<Self, BatchError> {
        if self.objective != other.objective {
            return Err(BatchError::Merge);
        }
        Ok(Self {
            rows: below("metrics", &self.rows, &other.rows)?,
            objective: self.objective,
        })
    }

    /// The objective that they are of.
    #[must_use]
    pub const fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Reads every metric back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<MetricValues, TensorReadError> {
        Ok(self.values(&self.flat().try_into_vec_as::<f64>()?))
    }

    /// The rows one behind the other.
    pub(crate) fn flat(&self) -> Tensor<1> {
        let length: usize = self.rows.dims().iter().product();
        self.rows.clone().reshape([length])
    }

    pub(crate) fn values(&self, flat: &[f64]) -> MetricValues {
        MetricValues::of(&merged(flat), &self.objective)
    }

    /// Reads what the metrics are made of back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn sums(&self) -> Result<Sums, TensorReadError> {
        Ok(merged(&self.flat().try_into_vec_as::<f64>()?))
    }
}

/// The rows of batches below one another.
pub(crate) fn below(
    tensor: &'static str,
    one: &Tensor<2>,
    other: &Tensor<2>,
) -> Result<Tensor<2>, BatchError> {
    let (expected, got) = (one.device(), other.device());
    if expected != got {
        return Err(BatchError::MergeDevices {
            tensor,
            got: describe(&got),
            expected: describe(&expected),
        });
    }
    let other = other.clone().cast(one.dtype());
    Ok(Tensor::cat(vec![one.clone(), other], 0))
}

/// The rows of batches, put together.
fn merged(values: &[f64]) -> Sums {
    let mut sums = Sums::default();
    for row in values.chunks(Sum::ALL.len()) {
        sums.merge(&Sums::from_row(row));
    }
    sums
}

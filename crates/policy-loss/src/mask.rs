//! Masks in the forms that trainers hold them, checked where they enter.

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::BatchError;
use crate::device::describe;

/// Turns a mask of bools, integers or floats, on the host, into the mask of a
/// [`PolicyBatch`](crate::PolicyBatch).
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, TensorData};
///
/// let data = TensorData::from([[1.0f32, 1.0, 0.0]]);
/// let mask = policy_loss::action_mask(data, &Device::flex())?;
/// # }
/// # Ok::<(), policy_loss::BatchError>(())
/// ```
///
/// # Shapes
///
/// - `data`: `[B, T]`
///
/// # Errors
///
/// A value other than 0 and 1 (a weight is no mask), and data that is not of rank 2.
pub fn action_mask(data: TensorData, device: &Device) -> Result<Tensor<2, Bool>, BatchError> {
    let shape: Vec<usize> = data.shape().iter().copied().collect();
    if shape.len() != 2 {
        return Err(BatchError::Shape {
            tensor: "action_mask",
            expected: "[B, T]".into(),
            got: shape,
        });
    }
    let mut valid = Vec::with_capacity(data.num_elements());
    for (index, value) in data.iter::<f64>().enumerate() {
        valid.push(match value {
            0.0 => false,
            1.0 => true,
            value => return Err(BatchError::MaskValue { value, index }),
        });
    }
    Ok(Tensor::from_data(TensorData::new(valid, shape), device))
}

/// Turns a float mask that is already on a device into the mask of a
/// [`PolicyBatch`](crate::PolicyBatch). The mask is read back once to be checked, so do this where
/// the batch is made, not in the training step.
///
/// # Shapes
///
/// - `mask`: `[B, T]`
///
/// # Errors
///
/// As [`action_mask`], and a device that fails to deliver the mask.
pub fn action_mask_from_tensor(mask: Tensor<2>) -> Result<Tensor<2, Bool>, BatchError> {
    let device = mask.device();
    let data = mask.try_into_data().map_err(|error| BatchError::Read {
        tensor: "action_mask",
        device: describe(&device),
        message: error.to_string(),
    })?;
    action_mask(data, &device.without_autodiff())
}

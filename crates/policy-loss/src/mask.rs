//! Masks in the forms that trainers hold them, checked where they enter.

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::BatchError;
use crate::alike::Alike;
use crate::composed::arithmetic;
use crate::device::read_back;
use crate::valid::Moments;

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
    let data = read_back("action_mask", mask)?;
    action_mask(data, &device.without_autodiff())
}

/// The action mask without the tokens whose log-ratios are the furthest from 0: as many are left as
/// have a mean of squares below `threshold`, from the nearest on, and the nearest in any case. Tokens
/// that are as far as the first that is left out are left out as well.
///
/// ```text
/// kept = the longest beginning of the valid tokens, by d^2, with mean(d^2) < threshold
/// ```
///
/// It is M2PO as AReaL has it, with the distance `old_log_probs - rollout_log_probs` of sampler and
/// trainer and a threshold of 0.04 ([arXiv 2510.01161](https://arxiv.org/abs/2510.01161)): a token that
/// is left out is not in the denominators either. Which ones are left is a statistic of all that is
/// passed; where a batch is going to be split, take the mask before. A NaN stays in.
///
/// # Shapes
///
/// - `log_ratios`: `[B, T]`; constants, and anything where the mask is false
/// - `action_mask`: `[B, T]`; absent: every token is valid
/// - output: `[B, T]`
///
/// # Errors
///
/// A threshold that is not finite and above 0, a mask of another shape or device, a type that the device
/// does not compute.
pub fn within_second_moment(
    log_ratios: Tensor<2>,
    action_mask: Option<Tensor<2, Bool>>,
    threshold: f64,
) -> Result<Tensor<2, Bool>, BatchError> {
    let shape = log_ratios.dims();
    let alike = Alike::of("log_ratios", &log_ratios)?;
    if !(threshold.is_finite() && threshold > 0.0) {
        return Err(BatchError::OutOfRange {
            field: "threshold",
            value: threshold.to_string(),
            accepted: "a finite number above 0".into(),
        });
    }
    let valid = alike.mask(action_mask)?.without_autodiff();
    if shape.contains(&0) {
        return Ok(valid);
    }
    let dtype = arithmetic(log_ratios.dtype());
    let squares = log_ratios.without_autodiff().cast(dtype).square();
    let known = valid.clone().bool_and(squares.clone().is_nan().bool_not());
    let moments = Moments::new(squares.clone(), known);
    let everywhere = |x: Tensor<1>| x.reshape([1, 1]).expand(shape);
    let limit = moments.first_beyond(moments.means().greater_equal_elem(threshold));
    let nearest = moments.first_beyond(moments.means().greater_equal_elem(0));
    let beyond = squares.clone().greater_equal(everywhere(limit));
    let beyond = beyond.bool_and(squares.greater(everywhere(nearest)));
    Ok(valid.bool_and(beyond.bool_not()))
}

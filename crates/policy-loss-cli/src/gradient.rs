//! The gradient of a loss, as a file.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{DType, Tensor};
use policy_loss::PolicyLossOutput;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::objective::Objective;
use crate::output::Failure;

/// The name of the tensor in the file.
const GRAD_LOG_PROBS: &str = "grad_log_probs";

/// Computes the gradient of `log_probs`: the bytes of a file that holds it in the type `dtype`.
pub fn file(
    output: &PolicyLossOutput,
    log_probs: &Tensor<2>,
    dtype: DType,
    objective: &Objective,
) -> Result<Vec<u8>, String> {
    let gradients = output.loss.backward();
    let Some(gradient) = log_probs.grad(&gradients) else {
        return Err("the loss has no gradient".into());
    };
    // Where `log_probs` was widened for the device, this is the way back.
    let data = gradient
        .try_into_data_dtype(dtype)
        .map_err(|error| format!("reading the gradient failed: {error}"))?;
    let shape = data.shape().as_slice().to_vec();
    let metadata = HashMap::from([
        ("config".to_owned(), objective.json()),
        (
            "implementation".to_owned(),
            output.implementation.to_string(),
        ),
    ]);
    TensorView::new(stored(dtype), shape, data.as_bytes())
        .and_then(|view| safetensors::serialize([(GRAD_LOG_PROBS, view)], Some(metadata)))
        .map_err(|error| error.to_string())
}

/// The failure of a gradient that was to be written to `path`.
pub fn failed(path: &Path, what: &dyn std::fmt::Display) -> Failure {
    Failure::Other(format!("--grad-out {}: {what}", path.display()))
}

/// The name that safetensors has for a type of `log_probs`.
fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

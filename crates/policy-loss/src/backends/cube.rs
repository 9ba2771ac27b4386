//! The fused loss on every device that CubeCL has a runtime for: Vulkan, Metal, DX12, WebGPU, CUDA.
//! Everything here only queues work on the device.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use policy_loss_kernels::Objective;
use policy_loss_kernels::cube::{self, Advantages, Batch, Buffer};

use crate::ops::{FusedInputs, FusedOutputs, PolicyLossOps, groups};
use crate::output::metric_count;

impl PolicyLossOps for CubeBackend {
    fn policy_loss_forward(
        inputs: FusedInputs<Self>,
        objective: Objective,
        masked: bool,
        with_gradient: bool,
    ) -> FusedOutputs<Self> {
        let shape = inputs.log_probs.shape();
        let [sequences, tokens] = shape.dims();
        let per_sequence = inputs.advantages.shape().dims::<2>()[1] != tokens;
        let like = inputs.log_probs.clone();
        let advantages = buffer(inputs.advantages);
        let batch = Batch {
            sequences,
            tokens,
            log_probs: buffer(inputs.log_probs),
            old_log_probs: buffer(inputs.old_log_probs),
            rollout_log_probs: objective
                .uses_rollout()
                .then(|| buffer(inputs.rollout_log_probs)),
            weights: objective
                .uses_given_weights()
                .then(|| buffer(inputs.weights)),
            // The kernels read it in the type of the arithmetic.
            ref_log_probs: objective
                .penalty
                .map(|_| buffer(cast(inputs.ref_log_probs, like.dtype))),
            advantages: match per_sequence {
                true => Advantages::PerSequence(advantages),
                false => Advantages::PerToken(advantages),
            },
            mask: masked.then(|| buffer(inputs.action_mask)),
        };
        let outputs = cube::forward(&like.client, &objective, batch, with_gradient);
        let metrics = metric_count(groups(&objective));
        let gradient_shape = match with_gradient {
            true => shape,
            false => [1, 1].into(),
        };
        FusedOutputs {
            loss: tensor(&like, outputs.loss, [1], like.dtype),
            metrics: tensor(&like, outputs.metrics, [metrics], like.dtype),
            gradient: tensor(&like, outputs.gradient, gradient_shape, like.dtype),
            factor: tensor(&like, outputs.factor, [1], like.dtype),
        }
    }

    fn policy_loss_backward(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (client, device) = (gradient.client.clone(), gradient.device.clone());
        let (shape, dtype) = (gradient.shape(), gradient.dtype);
        let scaled = cube::backward(
            &client,
            buffer(gradient),
            &buffer(factor),
            &buffer(upstream),
        );
        CubeTensor::new_contiguous(client, device, shape, scaled.handle, dtype)
    }
}

/// The memory of a tensor; copied only where it is not contiguous.
pub(crate) fn buffer(tensor: CubeTensor) -> Buffer {
    let tensor = into_contiguous(tensor);
    Buffer {
        element: dtype_to_storage_type(tensor.dtype),
        handle: tensor.handle,
    }
}

/// A tensor on the device of another.
///
/// Loss, metrics and gradient are of the arithmetic's type, which is that of `log_probs` here.
pub(crate) fn tensor(
    like: &CubeTensor,
    buffer: Buffer,
    shape: impl Into<Shape>,
    dtype: DType,
) -> CubeTensor {
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        buffer.handle,
        dtype,
    )
}

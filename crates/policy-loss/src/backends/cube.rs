//! The fused loss on every device that CubeCL has a runtime for: Vulkan, Metal, DX12, WebGPU, CUDA.
//! Everything here only queues work on the device.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use policy_loss_kernels::Sum;
use policy_loss_kernels::cube::{self, Batch, Buffer};

use crate::RatioLevel;
use crate::ops::{FusedInputs, FusedOutputs, FusedTask, PolicyLossOps};

impl PolicyLossOps for CubeBackend {
    fn policy_loss_forward(inputs: FusedInputs<Self>, task: FusedTask) -> FusedOutputs<Self> {
        let shape = inputs.log_probs.shape();
        let [sequences, tokens] = shape.dims();
        let like = inputs.log_probs.clone();
        let advantages_per_sequence = inputs.advantages.shape().dims::<2>()[1] != tokens;
        let parts = inputs.parts();
        let batch = Batch {
            sequences,
            tokens,
            columns: parts.columns.map(buffer).map(Some),
            advantages_per_sequence,
            weight_mean: Some(buffer(parts.weight_mean)),
            entropy_threshold: Some(buffer(parts.entropy_threshold)),
            sequence_weights: Some(buffer(parts.sequence_weights)),
            mask: task.masked.then(|| buffer(parts.action_mask)),
        };
        let FusedTask {
            objective,
            scale,
            with_gradient,
            ..
        } = task;
        let outputs = cube::forward(&like.client, &objective, &batch, scale, with_gradient);
        let gradient = |buffer: Buffer, wanted: bool| {
            let shape = if wanted { shape.clone() } else { [1, 1].into() };
            tensor(&like, buffer, shape, like.dtype)
        };
        let with_entropies = with_gradient && objective.entropy_bonus.is_some();
        let with_segments = with_gradient && objective.ratio.level == RatioLevel::Segment;
        FusedOutputs {
            loss: tensor(&like, outputs.loss, [1], like.dtype),
            sums: tensor(&like, outputs.sums, [1, Sum::ALL.len()], like.dtype),
            gradient: gradient(outputs.gradient, with_gradient),
            entropy_gradient: gradient(outputs.entropy_gradient, with_entropies),
            segment_gradient: gradient(outputs.segment_gradient, with_segments),
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

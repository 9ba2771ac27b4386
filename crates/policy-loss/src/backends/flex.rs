//! The fused loss on Flex: the tensors' own memory, without a copy.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::{bf16, f16};
use policy_loss_kernels::Objective;
use policy_loss_kernels::cpu::{Advantages, Batch, Floats, Mask, scale_in_place};

use super::cpu::{for_float, forward};
use crate::ops::{FusedInputs, FusedOutputs, PolicyLossOps};

impl PolicyLossOps for Flex {
    fn policy_loss_forward(
        inputs: FusedInputs<Self>,
        objective: Objective,
        masked: bool,
        with_gradient: bool,
    ) -> FusedOutputs<Self> {
        let [sequences, tokens] = inputs.log_probs.shape().dims();
        let per_sequence = inputs.advantages.shape().dims::<2>()[1] != tokens;
        // Copies only what is not contiguous.
        let log_probs = inputs.log_probs.to_contiguous();
        let old_log_probs = inputs.old_log_probs.to_contiguous();
        let rollout_log_probs = inputs.rollout_log_probs.to_contiguous();
        let weights = inputs.weights.to_contiguous();
        let ref_log_probs = inputs.ref_log_probs.to_contiguous();
        let advantages = inputs.advantages.to_contiguous();
        let action_mask = inputs.action_mask.to_contiguous();

        // Half precision was widened before it came here.
        for_float!(log_probs.dtype(), E => {
            let batch = Batch {
                sequences,
                tokens,
                log_probs: slice::<E>(&log_probs),
                old_log_probs: floats(&old_log_probs),
                rollout_log_probs: Some(floats(&rollout_log_probs)),
                weights: Some(floats(&weights)),
                ref_log_probs: Some(floats(&ref_log_probs)),
                advantages: match per_sequence {
                    true => Advantages::PerSequence(floats(&advantages)),
                    false => Advantages::PerToken(floats(&advantages)),
                },
                mask: masked.then(|| mask(&action_mask)),
            };
            let pass = forward::<E>(&objective, &batch, with_gradient);
            FusedOutputs {
                loss: FlexTensor::from_data(pass.loss),
                metrics: FlexTensor::from_data(pass.metrics),
                gradient: FlexTensor::from_data(pass.gradient),
                factor: FlexTensor::from_data(pass.factor),
            }
        }, [F64 => f64, F32 => f32])
    }

    fn policy_loss_backward(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let scale = first(&factor) * first(&upstream.to_contiguous());
        if scale == 1.0 {
            return gradient;
        }
        // Not `to_contiguous`: a second handle would make `storage_mut` copy the buffer.
        let mut gradient = gradient;
        for_float!(gradient.dtype(), E => {
            scale_in_place::<E>(gradient.storage_mut::<E>(), scale);
            gradient
        }, [F64 => f64, F32 => f32])
    }
}

fn slice<E: burn::tensor::Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[E] {
    tensor
        .as_slice::<E>()
        .expect("a contiguous tensor of this type")
}

fn floats(tensor: &FlexTensor) -> Floats<'_> {
    for_float!(tensor.dtype(), E => slice::<E>(tensor).into(),
        [F64 => f64, F32 => f32, F16 => f16, BF16 => bf16])
}

fn mask(tensor: &FlexTensor) -> Mask<'_> {
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .expect("a contiguous tensor");
    tensor.bytes()[start..end].into()
}

fn first(scalar: &FlexTensor) -> f64 {
    match scalar.dtype() {
        DType::F64 => slice::<f64>(scalar)[0],
        _ => f64::from(slice::<f32>(scalar)[0]),
    }
}

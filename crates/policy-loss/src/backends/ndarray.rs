//! The fused loss on NdArray: the arrays' own memory, without a copy.

// Burn marks the whole backend as deprecated.
#![allow(deprecated)]

use std::borrow::Cow;

use burn::backend::tensor::FloatTensor;
use burn::backend::{NdArray, TensorMetadata};
use burn_ndarray::NdArrayTensor;
use policy_loss_kernels::Objective;
use policy_loss_kernels::cpu::{Advantages, Batch, Floats, scale_in_place};

use super::cpu::forward;
use crate::ops::{FusedInputs, FusedOutputs, PolicyLossOps};

/// The values of a storage, whose type Burn does not export.
macro_rules! contiguous {
    ($storage:expr) => {{
        let view = $storage.view();
        match view.to_slice() {
            Some(values) => Cow::Borrowed(values),
            None => Cow::Owned(view.iter().copied().collect()),
        }
    }};
}

impl PolicyLossOps for NdArray {
    fn policy_loss_forward(
        inputs: FusedInputs<Self>,
        objective: Objective,
        masked: bool,
        with_gradient: bool,
    ) -> FusedOutputs<Self> {
        let [sequences, tokens] = inputs.log_probs.shape().dims();
        let per_sequence = inputs.advantages.shape().dims::<2>()[1] != tokens;
        let old_log_probs = Values::of(&inputs.old_log_probs);
        let rollout_log_probs = Values::of(&inputs.rollout_log_probs);
        let weights = Values::of(&inputs.weights);
        let ref_log_probs = Values::of(&inputs.ref_log_probs);
        let advantages = Values::of(&inputs.advantages);
        let advantages = match per_sequence {
            true => Advantages::PerSequence(advantages.floats()),
            false => Advantages::PerToken(advantages.floats()),
        };
        let action_mask = match &inputs.action_mask {
            NdArrayTensor::Bool(mask) => contiguous!(mask),
            other => not_computed(other),
        };
        let mask = masked.then(|| action_mask.as_ref().into());
        macro_rules! pass {
            ($log_probs:expr) => {
                forward(
                    &objective,
                    &Batch {
                        sequences,
                        tokens,
                        log_probs: $log_probs,
                        old_log_probs: old_log_probs.floats(),
                        rollout_log_probs: Some(rollout_log_probs.floats()),
                        weights: Some(weights.floats()),
                        ref_log_probs: Some(ref_log_probs.floats()),
                        advantages,
                        mask,
                    },
                    with_gradient,
                )
            };
        }
        let pass = match Values::of(&inputs.log_probs) {
            Values::F64(log_probs) => pass!(&log_probs),
            Values::F32(log_probs) => pass!(&log_probs),
        };
        FusedOutputs {
            loss: NdArrayTensor::from_data(pass.loss),
            metrics: NdArrayTensor::from_data(pass.metrics),
            gradient: NdArrayTensor::from_data(pass.gradient),
            factor: NdArrayTensor::from_data(pass.factor),
        }
    }

    fn policy_loss_backward(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let scale = first(&factor) * first(&upstream);
        if scale == 1.0 {
            return gradient;
        }
        macro_rules! scaled {
            ($storage:expr, $type:ty) => {{
                let mut array = $storage.into_shared();
                match array.as_slice_mut() {
                    Some(values) => scale_in_place(values, scale),
                    None => array.mapv_inplace(|value| (f64::from(value) * scale) as $type),
                }
                array.into()
            }};
        }
        match gradient {
            NdArrayTensor::F64(storage) => scaled!(storage, f64),
            NdArrayTensor::F32(storage) => scaled!(storage, f32),
            other => not_computed(&other),
        }
    }
}

/// The values of a float tensor in row-major order; copied only where they are not stored so.
enum Values<'a> {
    F64(Cow<'a, [f64]>),
    F32(Cow<'a, [f32]>),
}

impl<'a> Values<'a> {
    fn of(tensor: &'a NdArrayTensor) -> Self {
        match tensor {
            NdArrayTensor::F64(storage) => Self::F64(contiguous!(storage)),
            NdArrayTensor::F32(storage) => Self::F32(contiguous!(storage)),
            other => not_computed(other),
        }
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F64(values) => values.as_ref().into(),
            Self::F32(values) => values.as_ref().into(),
        }
    }
}

fn first(scalar: &NdArrayTensor) -> f64 {
    match Values::of(scalar) {
        Values::F64(values) => values[0],
        Values::F32(values) => f64::from(values[0]),
    }
}

/// The batch's types were checked against what the device computes.
fn not_computed(tensor: &NdArrayTensor) -> ! {
    unreachable!("{:?} is not computed on this device", tensor.dtype())
}

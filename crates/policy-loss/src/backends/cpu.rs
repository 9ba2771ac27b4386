//! What the CPU backends share: from slices to loss, sums and gradients.

use burn::tensor::{Element as BurnElement, TensorData};
use policy_loss_kernels::cpu::{Arithmetic, Batch, Floats, evaluate};

use crate::ops::FusedTask;

/// One pass over a batch, with results as tensor data.
pub(crate) struct Pass {
    pub loss: TensorData,
    pub sums: TensorData,
    pub gradient: TensorData,
    pub entropy_gradient: TensorData,
    pub segment_gradient: TensorData,
    pub factor: TensorData,
}

/// Computes a batch, whose slices were taken from checked tensors.
pub(crate) fn forward(task: &FusedTask, batch: &Batch<'_>) -> Pass {
    match batch.columns.log_probs {
        Some(Floats::F64(_)) => pass::<f64>(task, batch),
        // Half precision was widened before it came here.
        Some(Floats::F32(_) | Floats::F16(_) | Floats::Bf16(_)) | None => pass::<f32>(task, batch),
    }
}

fn pass<T: Arithmetic + BurnElement>(task: &FusedTask, batch: &Batch<'_>) -> Pass {
    let evaluated = evaluate::<T>(&task.objective, batch, task.scale, task.with_gradient)
        .expect("the batch was checked before it came here");
    let gradient = |values: Vec<T>| match values.is_empty() {
        true => TensorData::new(vec![T::from_elem(0)], [1, 1]),
        false => TensorData::new(values, [batch.sequences, batch.tokens]),
    };
    let row = evaluated.sums.to_row();
    let columns = row.len();
    let data = |values: Vec<f64>, shape: &[usize]| {
        TensorData::new(values, shape.to_vec()).convert_dtype(T::dtype())
    };
    Pass {
        loss: data(vec![evaluated.loss], &[1]),
        sums: data(row, &[1, columns]),
        gradient: gradient(evaluated.gradient),
        entropy_gradient: gradient(evaluated.entropy_gradient),
        segment_gradient: gradient(evaluated.segment_gradient),
        // The kernel has applied the factor of the reduction already.
        factor: data(vec![1.0], &[1]),
    }
}

/// The one value of a tensor.
pub(crate) fn number(values: Floats<'_>) -> f64 {
    match values {
        Floats::F64(values) => values[0],
        Floats::F32(values) => f64::from(values[0]),
        Floats::F16(values) => values[0].to_f64(),
        Floats::Bf16(values) => values[0].to_f64(),
    }
}

/// Implements [`PolicyLossOps`](crate::ops::PolicyLossOps) for a backend in host memory, which says
/// how to borrow its tensors (`borrow`, `floats`, `mask`) and how to scale one in place (`scaled`).
macro_rules! implement_policy_loss_ops {
    ($backend:ty, $tensor:ty) => {
        impl crate::ops::PolicyLossOps for $backend {
            fn policy_loss_forward(
                inputs: crate::ops::FusedInputs<Self>,
                task: crate::ops::FusedTask,
            ) -> crate::ops::FusedOutputs<Self> {
                let shape = burn::backend::TensorMetadata::shape(&inputs.log_probs);
                let [sequences, tokens] = shape.dims();
                let parts = inputs.parts();
                let columns = parts.columns.map(borrow);
                let [weight_mean, entropy_threshold, sequence_weights] = [
                    parts.weight_mean,
                    parts.entropy_threshold,
                    parts.sequence_weights,
                ]
                .map(borrow);
                let action_mask = borrow(parts.action_mask);
                let batch = policy_loss_kernels::cpu::Batch {
                    sequences,
                    tokens,
                    columns: columns.as_ref().map(|column| Some(floats(column))),
                    mask: task.masked.then(|| mask(&action_mask)),
                    weight_mean: super::cpu::number(floats(&weight_mean)),
                    entropy_threshold: super::cpu::number(floats(&entropy_threshold)),
                    sequence_weights: Some(floats(&sequence_weights)),
                };
                let pass = super::cpu::forward(&task, &batch);
                crate::ops::FusedOutputs {
                    loss: <$tensor>::from_data(pass.loss),
                    sums: <$tensor>::from_data(pass.sums),
                    gradient: <$tensor>::from_data(pass.gradient),
                    entropy_gradient: <$tensor>::from_data(pass.entropy_gradient),
                    segment_gradient: <$tensor>::from_data(pass.segment_gradient),
                    factor: <$tensor>::from_data(pass.factor),
                }
            }

            fn policy_loss_backward(
                gradient: burn::backend::tensor::FloatTensor<Self>,
                factor: burn::backend::tensor::FloatTensor<Self>,
                upstream: burn::backend::tensor::FloatTensor<Self>,
            ) -> burn::backend::tensor::FloatTensor<Self> {
                let [factor, upstream] =
                    [factor, upstream].map(|it| super::cpu::number(floats(&borrow(it))));
                match factor * upstream {
                    1.0 => gradient,
                    scale => scaled(gradient, scale),
                }
            }
        }
    };
}
pub(crate) use implement_policy_loss_ops;

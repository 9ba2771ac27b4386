//! Log-probs on Flex: the tensors' own memory, without a copy.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Element, TensorData};
use burn_flex::FlexTensor;
use bytemuck::Pod;
use half::{bf16, f16};
use policy_loss_kernels::cpu::log_probs as kernels;
use policy_loss_kernels::cpu::log_probs::{Matrix, MatrixMut};

use super::cpu::{given, is_in_parts, numbers, packed, row_gradients, softmax};
use crate::backends::flex::{for_float, scaled};
use crate::log_probs::chunked::{self, Known, begun};
use crate::log_probs::ops::{
    HeadGradients, HeadLogits, HeadTensors, LogProbsOps, RowStatistics, Settings, TokenTensors,
    Wanted,
};

impl LogProbsOps for Flex {
    fn log_probs(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        match settings.has_weight || is_in_parts(settings, &tokens) {
            true => chunked::log_probs::<Self>(head, tokens, settings),
            false => Self::softmax_statistics(head.hidden, tokens, settings),
        }
    }

    fn softmax_statistics(
        logits: FloatTensor<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let logits = logits.to_contiguous();
        let rows = given(&tokens);
        let statistics = for_float!(logits.dtype(), E => {
            kernels::statistics(softmax(settings), slice::<E>(&logits), &rows)
        }, [F64 => f64, F32 => f32, F16 => f16, BF16 => bf16]);
        packed::<Self>(&statistics, settings, &logits)
    }

    fn log_probs_backward(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        if settings.has_weight || is_in_parts(settings, &tokens) {
            let known = Known {
                tokens,
                statistics,
                upstream,
            };
            return chunked::log_probs_backward::<Self>(head, known, settings, wanted);
        }
        let rows = row_gradients::<Self>(&tokens, &statistics, &upstream, settings);
        // Not `to_contiguous` where it is contiguous: a second handle would hide that there is
        // only one.
        let mut logits = match whole(&head.hidden) {
            true => head.hidden,
            false => head.hidden.to_contiguous(),
        };
        let hidden = for_float!(logits.dtype(), E => {
            if let Some(values) = logits.try_storage_mut::<E>() {
                // Nobody else holds them any more.
                kernels::gradients_in_place(values, &rows);
                logits
            } else {
                let gradients = kernels::gradients(slice::<E>(&logits), &rows);
                let shape: Vec<usize> = logits.shape().iter().copied().collect();
                FlexTensor::from_data(TensorData::new(gradients, shape))
            }
        }, [F64 => f64, F32 => f32, F16 => f16, BF16 => bf16]);
        HeadGradients {
            hidden,
            weight: head.weight,
            bias: head.bias,
        }
    }

    fn head_logits(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> HeadLogits<Self> {
        if is_in_parts(settings, &tokens) {
            return chunked::head_logits::<Self>(head, tokens, settings);
        }
        let rows = given(&tokens);
        let tensors = forward(head);
        for_float!(tensors.hidden.dtype(), E => {
            let head = kernels_head::<E>(&tensors, settings);
            let shape = [head.hidden.shape()[0], head.weight.shape()[1]];
            let mut logits = vec![0 as E; shape[0] * shape[1]];
            let statistics = kernels::head_logits(head, softmax(settings), &rows, &mut logits);
            HeadLogits {
                logits: FlexTensor::from_data(TensorData::new(logits, shape)),
                statistics: packed::<Self>(&statistics, settings, &tensors.hidden),
            }
        }, [F64 => f64, F32 => f32])
    }

    fn head_gradients(
        logits: HeadLogits<Self>,
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        upstream: FloatTensor<Self>,
        gradients: HeadGradients<Self>,
        settings: Settings,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        if is_in_parts(settings, &tokens) {
            return chunked::head_gradients::<Self>(
                logits, head, tokens, upstream, gradients, settings, wanted,
            );
        }
        let HeadLogits { logits, statistics } = logits;
        let rows = row_gradients::<Self>(&tokens, &statistics, &upstream, settings);
        let mut logits = owned(logits);
        let head = forward(head);
        let [weight, bias] = [
            (gradients.weight, &head.weight, wanted.weight),
            (gradients.bias, &head.bias, wanted.bias),
        ]
        .map(|(sum, like, is_wanted)| owned(begun::<Flex>(sum, like, is_wanted)));
        let (mut weight_gradient, mut bias_gradient) = (weight, bias);
        for_float!(head.hidden.dtype(), E => {
            let head = kernels_head::<E>(&head, settings);
            let [tokens, width] = head.hidden.shape();
            let vocabulary = head.weight.shape()[1];
            let mut hidden = vec![0 as E; if wanted.hidden { tokens * width } else { 1 }];
            let strides = match settings.transposed {
                true => [1, width],
                false => [vocabulary, 1],
            };
            let target = kernels::HeadGradients {
                hidden: wanted.hidden.then_some(&mut hidden[..]),
                weight: wanted.weight.then(|| {
                    MatrixMut::new(weight_gradient.storage_mut::<E>(), [width, vocabulary], strides)
                }),
                bias: wanted.bias.then(|| bias_gradient.storage_mut::<E>()),
            };
            kernels::head_gradients(head, &rows, logits.storage_mut::<E>(), target);
            HeadGradients {
                hidden: match wanted.hidden {
                    true => FlexTensor::from_data(TensorData::new(hidden, [tokens, width])),
                    false => gradients.hidden,
                },
                weight: weight_gradient,
                bias: bias_gradient,
            }
        }, [F64 => f64, F32 => f32])
    }

    fn scaled_gradient(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match numbers::<Self>(&factor)[0] {
            1.0 => gradient,
            factor => scaled(owned(gradient), factor),
        }
    }
}

/// Whether the storage holds the tensor and nothing else, row by row.
fn whole(tensor: &FlexTensor) -> bool {
    let elements = tensor.shape().num_elements();
    tensor.layout().contiguous_offsets() == Some((0, elements))
        && tensor.bytes().len() == elements * tensor.dtype().size()
}

/// The tensor, with a storage of its own as far as its layout goes.
fn owned(tensor: FlexTensor) -> FlexTensor {
    match whole(&tensor) {
        true => tensor,
        false => FlexTensor::from_data(tensor.into_data()),
    }
}

/// Hidden states and weight in the layout that they have, unless it runs backwards.
fn forward(head: HeadTensors<Flex>) -> HeadTensors<Flex> {
    let forward = |tensor: FlexTensor| match tensor.layout().strides().iter().all(|s| *s >= 0) {
        true => tensor,
        false => tensor.to_contiguous(),
    };
    HeadTensors {
        hidden: forward(head.hidden),
        weight: forward(head.weight),
        bias: head.bias.to_contiguous(),
    }
}

fn slice<E: Element + Pod>(tensor: &FlexTensor) -> &[E] {
    tensor
        .as_slice::<E>()
        .expect("a contiguous tensor of this type")
}

fn kernels_head<'a, E: Element + Pod>(
    head: &'a HeadTensors<Flex>,
    settings: Settings,
) -> kernels::Head<'a, E> {
    let weight = matrix(&head.weight);
    kernels::Head {
        hidden: matrix(&head.hidden),
        weight: match settings.transposed {
            true => weight.transposed(),
            false => weight,
        },
        bias: settings.has_bias.then(|| slice(&head.bias)),
    }
}

/// A tensor of rank 2 in the layout that it has: a transposed weight is not copied.
fn matrix<E: Element + Pod>(tensor: &FlexTensor) -> Matrix<'_, E> {
    let layout = tensor.layout();
    let stride =
        |dim: usize| usize::try_from(layout.strides()[dim]).expect("`forward` made them positive");
    let values = &tensor.storage::<E>()[layout.start_offset()..];
    Matrix::new(values, tensor.shape().dims(), [stride(0), stride(1)])
}

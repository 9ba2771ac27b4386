//! Log-probs on NdArray: the arrays' own memory, without a copy.

// Burn marks the whole backend as deprecated.
#![allow(deprecated)]

use std::borrow::Cow;

use burn::backend::tensor::FloatTensor;
use burn::backend::{NdArray, TensorMetadata};
use burn::tensor::TensorData;
use burn_ndarray::NdArrayTensor;
use policy_loss_kernels::cpu::log_probs as kernels;
use policy_loss_kernels::cpu::log_probs::{Matrix, MatrixMut};

use super::cpu::{given, is_in_parts, numbers, packed, row_gradients, softmax};
use crate::backends::ndarray::scaled;
use crate::log_probs::chunked::{self, Known, begun};
use crate::log_probs::ops::{
    HeadGradients, HeadLogits, HeadTensors, LogProbsOps, RowStatistics, Settings, TokenTensors,
    Wanted,
};

/// The values of a storage, whose type Burn does not export, row by row.
macro_rules! contiguous {
    ($storage:expr) => {{
        let view = $storage.view();
        match view.to_slice() {
            Some(values) => Cow::Borrowed(values),
            None => Cow::Owned(view.iter().copied().collect()),
        }
    }};
}

/// The values of a storage of rank 2 in the layout that they have, and their strides: a transposed
/// weight is not copied.
macro_rules! strided {
    ($storage:expr) => {{
        let view = $storage.view();
        let strides: Vec<_> = view.strides().iter().map(|s| usize::try_from(*s)).collect();
        match (view.to_slice_memory_order(), &strides[..]) {
            (Some(values), [Ok(down), Ok(right)]) => (Cow::Borrowed(values), [*down, *right]),
            _ => {
                let values: Vec<_> = view.iter().copied().collect();
                (Cow::Owned(values), [view.shape()[1], 1])
            }
        }
    }};
}

/// Runs `$body` on the storages of `$tensor`s of one type, with `$E` bound to it.
macro_rules! for_type {
    ($E:ident, [$($storage:ident = $tensor:expr),+] => $body:expr) => {
        match ($($tensor,)+) {
            ($(NdArrayTensor::F32($storage),)+) => { type $E = f32; $body }
            ($(NdArrayTensor::F64($storage),)+) => { type $E = f64; $body }
            // The types were checked against what the device computes, and made one.
            _ => unreachable!("types that are not computed on this device"),
        }
    };
}

/// The kernels' view of a head.
macro_rules! head {
    ($count:ident, $hidden:ident, $weight:ident, $bias:ident, $shape:expr, $settings:expr) => {{
        let (weight, strides) = &$weight;
        let weight = Matrix::new(weight, $shape, *strides);
        kernels::Head {
            hidden: Matrix::of_rows(&$hidden, [$count, width($shape, $settings)]),
            weight: match $settings.transposed {
                true => weight.transposed(),
                false => weight,
            },
            bias: $settings.has_bias.then_some(&$bias[..]),
        }
    }};
}

/// The length of a hidden state.
fn width([rows, columns]: [usize; 2], settings: Settings) -> usize {
    match settings.transposed {
        true => columns,
        false => rows,
    }
}

impl LogProbsOps for NdArray {
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
        let rows = given(&tokens);
        let statistics = for_type!(E, [logits = &logits] => {
            let logits: Cow<'_, [E]> = contiguous!(logits);
            kernels::statistics(softmax(settings), &logits, &rows)
        });
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
        let shape = head.hidden.shape().dims::<2>();
        let hidden = for_type!(E, [logits = &head.hidden] => {
            let logits: Cow<'_, [E]> = contiguous!(logits);
            let gradients = kernels::gradients(&logits, &rows);
            NdArrayTensor::from_data(TensorData::new(gradients, shape))
        });
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
        let shape = head.weight.shape().dims();
        let count = head.hidden.shape()[0];
        let tensors = head;
        for_type!(E, [hidden = &tensors.hidden, weight = &tensors.weight, bias = &tensors.bias] => {
            let (hidden, bias): (Cow<'_, [E]>, Cow<'_, [E]>) = (contiguous!(hidden), contiguous!(bias));
            let weight: (Cow<'_, [E]>, _) = strided!(weight);
            let head = head!(count, hidden, weight, bias, shape, settings);
            let shape = [rows.len(), head.weight.shape()[1]];
            let mut logits = vec![0 as E; shape[0] * shape[1]];
            let statistics = kernels::head_logits(head, softmax(settings), &rows, &mut logits);
            HeadLogits {
                logits: NdArrayTensor::from_data(TensorData::new(logits, shape)),
                statistics: packed::<Self>(&statistics, settings, &tensors.hidden),
            }
        })
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
        let shape = head.weight.shape().dims();
        let count = head.hidden.shape()[0];
        let weight_gradient = begun::<NdArray>(gradients.weight, &head.weight, wanted.weight);
        let bias_gradient = begun::<NdArray>(gradients.bias, &head.bias, wanted.bias);
        for_type!(E, [
            hidden = &head.hidden,
            weight = &head.weight,
            bias = &head.bias,
            logits = logits,
            weight_gradient = weight_gradient,
            bias_gradient = bias_gradient
        ] => {
            let (hidden, bias): (Cow<'_, [E]>, Cow<'_, [E]>) = (contiguous!(hidden), contiguous!(bias));
            let weight: (Cow<'_, [E]>, _) = strided!(weight);
            let head = head!(count, hidden, weight, bias, shape, settings);
            let [tokens, width] = head.hidden.shape();
            let vocabulary = head.weight.shape()[1];
            let mut hidden_gradient = vec![0 as E; if wanted.hidden { tokens * width } else { 1 }];
            let strides = match settings.transposed {
                true => [1, width],
                false => [vocabulary, 1],
            };
            // Made by this file or by Burn's zeros, which are stored row by row.
            let mut logits = logits.into_shared();
            let mut weight_gradient = weight_gradient.into_shared();
            let mut bias_gradient = bias_gradient.into_shared();
            let target = kernels::HeadGradients {
                hidden: wanted.hidden.then_some(&mut hidden_gradient[..]),
                weight: wanted.weight.then(|| {
                    let values = weight_gradient.as_slice_mut().expect("stored row by row");
                    MatrixMut::new(values, [width, vocabulary], strides)
                }),
                bias: wanted.bias.then(|| {
                    bias_gradient.as_slice_mut().expect("stored row by row")
                }),
            };
            let logits = logits.as_slice_mut().expect("stored row by row");
            kernels::head_gradients(head, &rows, logits, target);
            HeadGradients {
                hidden: match wanted.hidden {
                    true => NdArrayTensor::from_data(TensorData::new(hidden_gradient, [tokens, width])),
                    false => gradients.hidden,
                },
                weight: weight_gradient.into(),
                bias: bias_gradient.into(),
            }
        })
    }

    fn scaled_gradient(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match numbers::<Self>(&factor)[0] {
            1.0 => gradient,
            factor => scaled(gradient, factor),
        }
    }
}

//! Log-probs in Burn's own operations, for backends without a kernel, and the loops over chunks
//! for all of them.

mod softmax;

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice};

use super::chunks;
use super::ops::{
    HeadGradients, HeadLogits, HeadTensors, LogProbsOps, RowStatistics, Settings, Wanted,
};
use softmax::idle;
pub use softmax::{softmax_gradient, softmax_statistics};

/// What the gradients of a chunk are made of.
pub struct Chunk<B: Backend> {
    pub logits: HeadLogits<B>,
    pub head: HeadTensors<B>,
    pub targets: IntTensor<B>,
    pub upstream: FloatTensor<B>,
}

pub fn token_log_probs<B: LogProbsOps>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    settings: Settings,
) -> RowStatistics<B> {
    let [tokens, _] = logits.shape().dims();
    let rows = chunks(tokens, settings.chunk_tokens).map(|range| {
        let logits = B::float_slice(logits.clone(), &[slice(&range)]);
        let targets = B::int_slice(targets.clone(), &[slice(&range)]);
        B::softmax_statistics(logits, targets, settings)
    });
    joined::<B>(rows.collect())
}

pub fn token_log_probs_backward<B: LogProbsOps>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    statistics: RowStatistics<B>,
    upstream: FloatTensor<B>,
    settings: Settings,
) -> FloatTensor<B> {
    let [tokens, _] = logits.shape().dims();
    let gradients = chunks(tokens, settings.chunk_tokens).map(|range| {
        let chunk = |rows: &FloatTensor<B>| columns::<B>(rows, &range);
        let logits = B::float_slice(logits.clone(), &[slice(&range)]);
        let statistics = RowStatistics {
            values: chunk(&statistics.values),
            moments: chunk(&statistics.moments),
        };
        let targets = B::int_slice(targets.clone(), &[slice(&range)]);
        B::softmax_gradient(logits, targets, statistics, chunk(&upstream), settings)
    });
    B::float_cat(gradients.collect(), 0)
}

pub fn head_logits<B: LogProbsOps>(
    head: HeadTensors<B>,
    targets: IntTensor<B>,
    settings: Settings,
) -> HeadLogits<B> {
    let weight = match settings.transposed {
        true => B::float_transpose(head.weight),
        false => head.weight,
    };
    let mut logits = B::float_matmul(head.hidden, weight);
    if settings.has_bias {
        let [vocabulary] = head.bias.shape().dims();
        let bias = B::float_reshape(head.bias, Shape::from([1, vocabulary]));
        logits = B::float_add(logits, bias);
    }
    let RowStatistics { values, moments } =
        B::softmax_statistics(logits.clone(), targets, settings);
    HeadLogits {
        logits,
        values,
        moments,
    }
}

pub fn head_gradients<B: LogProbsOps>(
    chunk: Chunk<B>,
    gradients: HeadGradients<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    let shape = chunk.head.hidden.shape();
    let idle = idle::<B>(&chunk.upstream, settings);
    let statistics = RowStatistics {
        values: chunk.logits.values,
        moments: chunk.logits.moments,
    };
    let logits = chunk.logits.logits;
    let logits = B::softmax_gradient(logits, chunk.targets, statistics, chunk.upstream, settings);
    // Hidden states that no gradient reaches may hold anything, and 0 * NaN is NaN.
    let idle = B::bool_expand(idle, shape);
    let hidden = B::float_mask_fill(chunk.head.hidden, idle.clone(), 0.0.into());
    HeadGradients {
        hidden: match wanted.hidden {
            true => {
                let weight = match settings.transposed {
                    true => chunk.head.weight,
                    false => B::float_transpose(chunk.head.weight),
                };
                // 0 times an infinite weight is NaN, too.
                let gradient = B::float_matmul(logits.clone(), weight);
                B::float_mask_fill(gradient, idle, 0.0.into())
            }
            false => gradients.hidden,
        },
        weight: match wanted.weight {
            true => {
                let (left, right) = match settings.transposed {
                    true => (logits.clone(), hidden),
                    false => (hidden, logits.clone()),
                };
                let gradient = B::float_matmul(B::float_transpose(left), right);
                B::float_add(gradients.weight, gradient)
            }
            false => gradients.weight,
        },
        bias: match wanted.bias {
            true => {
                let gradient = B::float_sum_dim(logits, 0);
                let shape = gradients.bias.shape();
                B::float_add(gradients.bias, B::float_reshape(gradient, shape))
            }
            false => gradients.bias,
        },
    }
}

pub fn linear_log_probs<B: LogProbsOps>(
    head: HeadTensors<B>,
    targets: IntTensor<B>,
    settings: Settings,
) -> RowStatistics<B> {
    let [tokens, _] = head.hidden.shape().dims();
    let rows = chunks(tokens, settings.chunk_tokens).map(|range| {
        let targets = B::int_slice(targets.clone(), &[slice(&range)]);
        let chunk = B::head_logits(rows_of(&head, &range), targets, settings);
        RowStatistics {
            values: chunk.values,
            moments: chunk.moments,
        }
    });
    joined::<B>(rows.collect())
}

pub fn linear_log_probs_backward<B: LogProbsOps>(
    head: HeadTensors<B>,
    targets: IntTensor<B>,
    upstream: FloatTensor<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    let [tokens, _] = head.hidden.shape().dims();
    let mut gradients = no_gradients(&head, wanted);
    let mut hidden = Vec::new();
    for range in chunks(tokens, settings.chunk_tokens) {
        let targets = B::int_slice(targets.clone(), &[slice(&range)]);
        let head = rows_of(&head, &range);
        let logits = B::head_logits(head.clone(), targets.clone(), settings);
        let upstream = columns::<B>(&upstream, &range);
        gradients = B::head_gradients(logits, head, targets, upstream, gradients, settings, wanted);
        if wanted.hidden {
            hidden.push(gradients.hidden.clone());
        }
    }
    if wanted.hidden {
        gradients.hidden = B::float_cat(hidden, 0);
    }
    gradients
}

pub fn scaled_gradient<B: Backend>(
    gradient: FloatTensor<B>,
    factor: FloatTensor<B>,
) -> FloatTensor<B> {
    let ones = vec![1; gradient.shape().num_dims()];
    B::float_mul(gradient, B::float_reshape(factor, Shape::from(ones)))
}

/// Zeros where a gradient is wanted, else a stand-in.
fn no_gradients<B: Backend>(head: &HeadTensors<B>, wanted: Wanted) -> HeadGradients<B> {
    let zeros = |like: &FloatTensor<B>, is_wanted: bool| {
        let shape = match is_wanted {
            true => like.shape(),
            false => Shape::from([1]),
        };
        B::float_zeros(shape, &like.device(), like.dtype().into())
    };
    HeadGradients {
        // Replaced by each chunk.
        hidden: zeros(&head.hidden, false),
        weight: zeros(&head.weight, wanted.weight),
        bias: zeros(&head.bias, wanted.bias),
    }
}

fn joined<B: Backend>(rows: Vec<RowStatistics<B>>) -> RowStatistics<B> {
    let (values, moments) = rows
        .into_iter()
        .map(|row| (row.values, row.moments))
        .unzip();
    RowStatistics {
        values: B::float_cat(values, 1),
        moments: B::float_cat(moments, 1),
    }
}

fn rows_of<B: Backend>(head: &HeadTensors<B>, range: &Range<usize>) -> HeadTensors<B> {
    HeadTensors {
        hidden: B::float_slice(head.hidden.clone(), &[slice(range)]),
        ..head.clone()
    }
}

fn columns<B: Backend>(rows: &FloatTensor<B>, range: &Range<usize>) -> FloatTensor<B> {
    let all = 0..rows.shape().dims::<2>()[0];
    B::float_slice(rows.clone(), &[slice(&all), slice(range)])
}

fn slice(range: &Range<usize>) -> Slice {
    Slice::from(range.clone())
}

//! Log-probs in Burn's own operations, for backends without a kernel, and the loops over chunks
//! for all of them.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, Scalar, TensorMetadata, get_device_settings};
use burn::tensor::{FloatDType, IndexingUpdateOp, Shape, Slice};

use super::chunks;
use super::ops::{
    HeadGradients, HeadLogits, HeadTensors, LogProbsOps, RowStatistics, Settings, Wanted,
};
use crate::composed::arithmetic;

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

/// Below it, `exp` is 0 in f32, and next to nothing in f64.
const LOG_OF_NOTHING: f64 = -104.0;

/// What is known of each row of logits.
pub fn softmax_statistics<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    settings: Settings,
) -> RowStatistics<B> {
    let [tokens, vocabulary] = logits.shape().dims();
    let scaled = scaled::<B>(widened::<B>(logits), settings);
    let column = |indices| B::int_reshape(indices, Shape::from([tokens, 1]));
    let row = |column| B::float_reshape(column, Shape::from([1, tokens]));

    let (targets, unknown) = known::<B>(column(targets), vocabulary);
    let target = B::float_gather(1, scaled.clone(), targets);
    let largest = B::float_max_dim(scaled.clone(), 1);
    let distance = B::float_sub(scaled, largest.clone());
    let exponentials = B::float_exp(distance.clone());
    let sum = B::float_sum_dim(exponentials.clone(), 1);
    let log_sum = B::float_log(sum.clone());
    let log_probs = B::float_sub(B::float_sub(target, largest.clone()), log_sum.clone());
    let log_probs = B::float_mask_fill(log_probs, unknown, f64::NAN.into());

    let mut values = vec![row(log_probs)];
    if settings.entropy {
        // A logit of -inf has probability 0, and 0 * -inf would be NaN.
        let distance = B::float_clamp_min(distance, LOG_OF_NOTHING.into());
        let weighted = B::float_sum_dim(B::float_mul(exponentials, distance), 1);
        let entropies = B::float_sub(log_sum.clone(), B::float_div(weighted, sum));
        values.push(row(entropies));
    }
    RowStatistics {
        values: B::float_cat(values, 0),
        moments: B::float_cat(vec![row(largest), row(log_sum)], 0),
    }
}

/// The gradient of a chunk's logits, `[N, V]`.
pub fn softmax_gradient<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    statistics: RowStatistics<B>,
    upstream: FloatTensor<B>,
    settings: Settings,
) -> FloatTensor<B> {
    let shape = logits.shape();
    let [tokens, vocabulary] = shape.dims();
    let dtype = FloatDType::from(logits.dtype());
    let idle = B::bool_expand(idle::<B>(&upstream, settings), shape.clone());
    let scale: Scalar = settings.scale.into();

    let distance = B::float_sub(
        scaled::<B>(widened::<B>(logits), settings),
        column::<B>(&statistics.moments, 0),
    );
    let log_probability = B::float_sub(distance, column::<B>(&statistics.moments, 1));
    let gradient = B::float_mul_scalar(column::<B>(&upstream, 0), scale);
    let probability = B::float_exp(log_probability.clone());
    let minus = match settings.entropy_gradient {
        true => {
            let entropy_gradient = B::float_mul_scalar(column::<B>(&upstream, 1), scale);
            let absent = is_zero::<B>(entropy_gradient.clone());
            let log_probability = B::float_clamp_min(log_probability, LOG_OF_NOTHING.into());
            let inner = B::float_add(log_probability, column::<B>(&statistics.values, 1));
            let inner = B::float_mask_fill(
                B::float_mul(inner, entropy_gradient),
                B::bool_expand(absent, shape.clone()),
                0.0.into(),
            );
            B::float_mul(probability, B::float_add(inner, gradient.clone()))
        }
        false => B::float_mul(probability, gradient.clone()),
    };
    let targets = B::int_reshape(targets, Shape::from([tokens, 1]));
    let (targets, unknown) = known::<B>(targets, vocabulary);
    let unknown = B::bool_expand(unknown, shape.clone());
    let logits = B::float_scatter(
        1,
        B::float_neg(minus),
        targets,
        gradient,
        IndexingUpdateOp::Add,
    );
    let logits = B::float_mask_fill(logits, unknown, f64::NAN.into());
    B::float_cast(B::float_mask_fill(logits, idle, 0.0.into()), dtype)
}

/// The rows that no gradient reaches, `[N, 1]`.
pub fn idle<B: Backend>(upstream: &FloatTensor<B>, settings: Settings) -> BoolTensor<B> {
    let idle = is_zero::<B>(column::<B>(upstream, 0));
    match settings.entropy_gradient {
        true => B::bool_and(idle, is_zero::<B>(column::<B>(upstream, 1))),
        false => idle,
    }
}

fn is_zero<B: Backend>(tensor: FloatTensor<B>) -> BoolTensor<B> {
    let bools = get_device_settings::<B>(&tensor.device()).bool_dtype;
    B::float_equal_elem(tensor, 0.0.into(), bools)
}

/// A row of `[_, N]` as `[N, 1]`.
fn column<B: Backend>(rows: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
    let [_, tokens] = rows.shape().dims();
    let row = B::float_slice(rows.clone(), &[slice(&(index..index + 1))]);
    B::float_reshape(row, Shape::from([tokens, 1]))
}

/// Targets that can be gathered, and which of them were not in the vocabulary.
fn known<B: Backend>(targets: IntTensor<B>, vocabulary: usize) -> (IntTensor<B>, BoolTensor<B>) {
    let bools = get_device_settings::<B>(&targets.device()).bool_dtype;
    let below = B::int_lower_elem(targets.clone(), 0.into(), bools);
    let above = B::int_greater_equal_elem(targets.clone(), vocabulary.into(), bools);
    let unknown = B::bool_or(below, above);
    let targets = B::int_mask_fill(targets, unknown.clone(), 0.into());
    (targets, unknown)
}

fn scaled<B: Backend>(logits: FloatTensor<B>, settings: Settings) -> FloatTensor<B> {
    match settings.scale == 1.0 {
        true => logits,
        false => B::float_mul_scalar(logits, settings.scale.into()),
    }
}

/// In the type of the arithmetic.
fn widened<B: Backend>(logits: FloatTensor<B>) -> FloatTensor<B> {
    let wide = arithmetic(logits.dtype());
    match logits.dtype() == wide {
        true => logits,
        false => B::float_cast(logits, wide.into()),
    }
}

//! The gradient of the softmax in Burn's own operations, for backends without a kernel for it.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{DType, IndexingUpdateOp, Shape, Slice};

use super::VocabularyShard;
use super::chunked::cast;
use super::ops::{RowStatistics, Settings, TokenTensors};
use crate::composed::arithmetic;

/// Below it, `exp` is 0 in f32, and next to nothing in f64.
const LOG_OF_NOTHING: f64 = -104.0;

/// Rows of logits of some words, and what their gradient is made of.
pub struct Rows<B: Backend> {
    pub logits: FloatTensor<B>,
    pub words: VocabularyShard,
    pub tokens: TokenTensors<B>,
    pub statistics: RowStatistics<B>,
    pub upstream: FloatTensor<B>,
}

/// The gradient of logits, `[N, V]`.
pub fn softmax_gradient<B: Backend>(
    rows: Rows<B>,
    settings: Settings,
    into: DType,
) -> FloatTensor<B> {
    let Rows {
        logits,
        words,
        tokens,
        statistics,
        upstream,
    } = rows;
    let TokenTensors {
        targets, scales, ..
    } = tokens;
    let shape = logits.shape();
    let [tokens, here] = shape.dims();
    let idle = B::bool_expand(idle::<B>(&upstream), shape.clone());

    let distance = B::float_sub(
        scaled::<B>(logits, &scales),
        column::<B>(&statistics.moments, 0),
    );
    let log_probability = B::float_sub(distance, column::<B>(&statistics.moments, 1));
    let scales = B::float_reshape(scales, Shape::from([tokens, 1]));
    let gradient = B::float_mul(column::<B>(&upstream, 0), scales.clone());
    let probability = B::float_exp(log_probability.clone());
    let mut factor = gradient.clone();
    if let Some(row) = settings.squares_row() {
        let squares_gradient = B::float_mul(column::<B>(&upstream, row), scales.clone());
        let squares_gradient = B::float_mul_scalar(squares_gradient, 2.0.into());
        let squares = column::<B>(&statistics.values, row);
        let inner = B::float_mul(B::float_sub(probability.clone(), squares), squares_gradient);
        factor = B::float_sub(factor, inner);
    }
    let minus = match settings.entropy_gradient {
        true => {
            let entropy_gradient = B::float_mul(column::<B>(&upstream, 1), scales);
            let absent = is_zero::<B>(entropy_gradient.clone());
            let log_probability = B::float_clamp_min(log_probability, LOG_OF_NOTHING.into());
            let inner = B::float_add(log_probability, column::<B>(&statistics.values, 1));
            let inner = B::float_mask_fill(
                B::float_mul(inner, entropy_gradient),
                B::bool_expand(absent, shape.clone()),
                0.0.into(),
            );
            B::float_mul(probability, B::float_add(inner, factor))
        }
        false => B::float_mul(probability, factor),
    };
    let targets = B::int_reshape(targets, Shape::from([tokens, 1]));
    let (targets, unknown) = known::<B>(targets, 0..words.vocabulary);
    let unknown = B::bool_expand(unknown, shape.clone());
    let (targets, elsewhere) = known::<B>(targets, words.first..words.first + here);
    let logits = B::float_scatter(
        1,
        B::float_neg(minus),
        B::int_sub_scalar(targets, words.first.into()),
        B::float_mask_fill(gradient, elsewhere, 0.0.into()),
        IndexingUpdateOp::Add,
    );
    let logits = B::float_mask_fill(logits, unknown, f64::NAN.into());
    B::float_cast(B::float_mask_fill(logits, idle, 0.0.into()), into.into())
}

/// The rows that no gradient reaches, `[N, 1]`.
pub fn idle<B: Backend>(upstream: &FloatTensor<B>) -> BoolTensor<B> {
    let [_, tokens] = upstream.shape().dims();
    let sizes = B::float_sum_dim(B::float_abs(upstream.clone()), 0);
    is_zero::<B>(B::float_reshape(sizes, Shape::from([tokens, 1])))
}

fn is_zero<B: Backend>(tensor: FloatTensor<B>) -> BoolTensor<B> {
    let bools = get_device_settings::<B>(&tensor.device()).bool_dtype;
    B::float_equal_elem(tensor, 0.0.into(), bools)
}

/// A row of `[_, N]` as `[N, 1]`.
pub fn column<B: Backend>(rows: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
    let [_, tokens] = rows.shape().dims();
    let row = B::float_slice(rows.clone(), &[Slice::from(index..index + 1)]);
    B::float_reshape(row, Shape::from([tokens, 1]))
}

/// Targets that can be gathered, and which of them were not among `words`.
pub fn known<B: Backend>(
    targets: IntTensor<B>,
    words: Range<usize>,
) -> (IntTensor<B>, BoolTensor<B>) {
    let bools = get_device_settings::<B>(&targets.device()).bool_dtype;
    let below = B::int_lower_elem(targets.clone(), words.start.into(), bools);
    let above = B::int_greater_equal_elem(targets.clone(), words.end.into(), bools);
    let unknown = B::bool_or(below, above);
    let targets = B::int_mask_fill(targets, unknown.clone(), words.start.into());
    (targets, unknown)
}

/// Where targets stand among `words`; -1 where they do not.
pub fn places<B: Backend>(targets: IntTensor<B>, words: Range<usize>) -> IntTensor<B> {
    let (targets, elsewhere) = known::<B>(targets, words.clone());
    let places = B::int_sub_scalar(targets, words.start.into());
    B::int_mask_fill(places, elsewhere, (-1).into())
}

pub fn scaled<B: Backend>(logits: FloatTensor<B>, scales: &FloatTensor<B>) -> FloatTensor<B> {
    let [tokens] = scales.shape().dims();
    let scales = B::float_reshape(scales.clone(), Shape::from([tokens, 1]));
    B::float_mul(widened::<B>(logits), scales)
}

/// In the type of the arithmetic.
pub fn widened<B: Backend>(logits: FloatTensor<B>) -> FloatTensor<B> {
    let wide = arithmetic(logits.dtype());
    cast::<B>(logits, wide)
}

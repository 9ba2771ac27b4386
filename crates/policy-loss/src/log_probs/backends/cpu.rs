//! What the CPU backends share: from numbers to the kernels' terms and back.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{TensorData, read_sync};
use policy_loss_kernels::cpu::log_probs::{RowGradient, Softmax, Statistics, Token};

use crate::composed::arithmetic;
use crate::log_probs::ops::{RowStatistics, Settings, TokenTensors};

/// Whether a chunk takes several operations: the kernels know neither softcaps, nor kept tokens,
/// nor shards, nor several words a token.
pub fn is_in_parts<B: Backend>(settings: Settings, tokens: &TokenTensors<B>) -> bool {
    settings.softcap.is_some()
        || tokens.kept.is_some()
        || settings.shard.is_some()
        || settings.candidates > 0
}

pub fn softmax(settings: Settings) -> Softmax {
    Softmax {
        entropy: settings.entropy,
        squares: settings.squares,
    }
}

/// What is given of each row.
pub fn given<B: Backend>(tokens: &TokenTensors<B>) -> Vec<Token> {
    let targets = read_sync(B::int_into_data(tokens.targets.clone())).expect(HOST);
    let scales = numbers::<B>(&tokens.scales);
    let pairs = targets.iter::<i64>().zip(scales);
    pairs
        .map(|(target, scale)| Token { target, scale })
        .collect()
}

/// The numbers of a small tensor.
pub fn numbers<B: Backend>(tensor: &FloatTensor<B>) -> Vec<f64> {
    let data = read_sync(B::float_into_data(tensor.clone())).expect(HOST);
    data.iter::<f64>().collect()
}

const HOST: &str = "host memory, which is read without a device";

/// Values and moments, as in `RowStatistics`, of rows of logits or hidden states.
pub fn packed<B: Backend>(
    statistics: &[Statistics],
    settings: Settings,
    of: &FloatTensor<B>,
) -> RowStatistics<B> {
    let dtype = arithmetic(of.dtype());
    let row = |of: fn(&Statistics) -> f64| statistics.iter().map(of);
    let rows = |rows: Vec<f64>, count: usize| {
        let rows = TensorData::new(rows, [count, statistics.len()]);
        B::float_from_data(rows.convert_dtype(dtype), &of.device())
    };
    let mut values: Vec<f64> = row(|row| row.log_prob).collect();
    if settings.entropy {
        values.extend(row(|row| row.entropy));
    }
    if settings.squares {
        values.extend(row(|row| row.squares));
    }
    let moments = row(|row| row.shift).chain(row(|row| row.log_sum));
    RowStatistics {
        values: rows(values, settings.values()),
        moments: rows(moments.collect(), 2),
    }
}

/// The gradient of each row, from tensors that hold one number a token in each of their rows.
pub fn row_gradients<B: Backend>(
    tokens: &TokenTensors<B>,
    statistics: &RowStatistics<B>,
    upstream: &FloatTensor<B>,
    settings: Settings,
) -> Vec<RowGradient> {
    let tokens = given(tokens);
    let [values, moments, upstream] =
        [&statistics.values, &statistics.moments, upstream].map(numbers::<B>);
    let count = tokens.len();
    let entropy_row = settings.entropy_gradient.then_some(1);
    let at = |rows: &[f64], row: Option<usize>, i: usize| match row {
        Some(row) => rows[row * count + i],
        None => 0.0,
    };
    let row = |(i, token)| RowGradient {
        token,
        shift: moments[i],
        log_sum: moments[count + i],
        entropy: at(&values, entropy_row, i),
        squares: at(&values, settings.squares_row(), i),
        log_prob_gradient: upstream[i],
        entropy_gradient: at(&upstream, entropy_row, i),
        squares_gradient: at(&upstream, settings.squares_row(), i),
    };
    tokens.into_iter().enumerate().map(row).collect()
}

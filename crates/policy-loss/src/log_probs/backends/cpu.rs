//! What the CPU backends share: from numbers to the kernels' terms and back.

use burn::backend::Backend;
use burn::tensor::{DType, TensorData};
use policy_loss_kernels::cpu::log_probs::{RowGradient, Softmax, Statistics, Token};

use crate::log_probs::ops::{Settings, TokenTensors};

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
pub fn rows(targets: &[i64], scales: &[f64]) -> Vec<Token> {
    let pairs = targets.iter().zip(scales);
    let token = |(&target, &scale)| Token { target, scale };
    pairs.map(token).collect()
}

/// Values and moments, as in `RowStatistics`.
pub fn packed(
    statistics: &[Statistics],
    settings: Settings,
    dtype: DType,
) -> (TensorData, TensorData) {
    let row = |of: fn(&Statistics) -> f64| statistics.iter().map(of);
    let rows = |rows: Vec<f64>, count: usize| {
        TensorData::new(rows, [count, statistics.len()]).convert_dtype(dtype)
    };
    let mut values: Vec<f64> = row(|row| row.log_prob).collect();
    if settings.entropy {
        values.extend(row(|row| row.entropy));
    }
    if settings.squares {
        values.extend(row(|row| row.squares));
    }
    let moments = row(|row| row.shift).chain(row(|row| row.log_sum));
    (rows(values, settings.values()), rows(moments.collect(), 2))
}

/// The gradient of each row, from tensors that hold one number a token in each of their rows.
pub fn row_gradients(
    tokens: &[Token],
    values: &[f64],
    moments: &[f64],
    upstream: &[f64],
    settings: Settings,
) -> Vec<RowGradient> {
    let count = tokens.len();
    let entropy_row = settings.entropy_gradient.then_some(1);
    let at = |rows: &[f64], row: Option<usize>, i: usize| match row {
        Some(row) => rows[row * count + i],
        None => 0.0,
    };
    let row = |(i, &token)| RowGradient {
        token,
        shift: moments[i],
        log_sum: moments[count + i],
        entropy: at(values, entropy_row, i),
        squares: at(values, settings.squares_row(), i),
        log_prob_gradient: upstream[i],
        entropy_gradient: at(upstream, entropy_row, i),
        squares_gradient: at(upstream, settings.squares_row(), i),
    };
    tokens.iter().enumerate().map(row).collect()
}

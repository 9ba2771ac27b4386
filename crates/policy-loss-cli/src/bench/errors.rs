//! How far log-probs and gradients are from f64, on a sample of tokens and words.

use burn::tensor::{Int, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use crate::output::Failure;

/// Tokens and words of a sample; each token takes two passes over the weight.
const SAMPLE: usize = 8;

/// Distances from f64 for the same inputs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Errors {
    /// The largest of a log-prob.
    pub log_prob: f64,
    /// Of the gradient of hidden states, `|got - exact| / |exact|`.
    pub hidden_gradient: f64,
    /// The same of the weight.
    pub weight_gradient: f64,
}

/// The mean of log-probs in f64, for a sample.
pub struct Exact {
    tokens: Vec<usize>,
    words: Vec<usize>,
    log_probs: Vec<f64>,
    hidden_gradient: Vec<f64>,
    weight_gradient: Vec<f64>,
}

impl Exact {
    /// Computes them from what a device holds. The weight's gradient needs what is known of every
    /// row, for which the device's own log-probs stand: their error is that of a log-prob.
    pub fn of(
        hidden: &Tensor<2>,
        weight: &Tensor<2>,
        targets: &Tensor<1, Int>,
        log_probs: &Tensor<1>,
    ) -> Result<Self, Failure> {
        let [count, width] = hidden.dims();
        let [_, vocabulary] = weight.dims();
        let hidden = numbers(hidden)?;
        let weight = numbers(weight)?;
        let log_probs = numbers(log_probs)?;
        let targets: Vec<usize> = targets
            .clone()
            .try_into_data()
            .map_err(unread)?
            .iter::<i64>()
            .map(|target| target as usize)
            .collect();
        let tokens: Vec<usize> = spread(count).collect();
        let words = spread(vocabulary).chain(tokens.iter().map(|token| targets[*token]));
        let words: Vec<usize> = words.collect();
        let row = |token: usize| &hidden[token * width..(token + 1) * width];
        let of_rows = tokens.par_iter().map(|token| {
            let mut logits = vec![0.0; vocabulary];
            for (h, words) in row(*token).iter().zip(weight.chunks(vocabulary)) {
                for (logit, w) in logits.iter_mut().zip(words) {
                    *logit += h * w;
                }
            }
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            let log_sum = largest + sum.ln();
            let log_prob = logits[targets[*token]] - log_sum;
            for logit in &mut logits {
                *logit = -(*logit - log_sum).exp() / count as f64;
            }
            logits[targets[*token]] += 1.0 / count as f64;
            let gradient: Vec<f64> = weight
                .chunks(vocabulary)
                .map(|words| {
                    let terms = logits.iter().zip(words);
                    terms.map(|(g, w)| g * w).sum()
                })
                .collect();
            (log_prob, gradient)
        });
        let (exact, gradients): (Vec<f64>, Vec<Vec<f64>>) =
            of_rows.collect::<Vec<_>>().into_iter().unzip();
        let logit = |token: usize, word: usize| -> f64 {
            let column = weight[word..].iter().step_by(vocabulary);
            let terms = row(token).iter().zip(column);
            terms.map(|(h, w)| h * w).sum()
        };
        let log_sums: Vec<f64> = (0..count)
            .into_par_iter()
            .map(|token| logit(token, targets[token]) - log_probs[token])
            .collect();
        let of_words = words.par_iter().map(|word| {
            let mut gradient = vec![0.0; width];
            for token in 0..count {
                let chosen = if targets[token] == *word { 1.0 } else { 0.0 };
                let of_logit = chosen - (logit(token, *word) - log_sums[token]).exp();
                for (sum, h) in gradient.iter_mut().zip(row(token)) {
                    *sum += of_logit / count as f64 * h;
                }
            }
            gradient
        });
        let weight_gradient = of_words.collect::<Vec<_>>().concat();
        Ok(Self {
            tokens,
            words,
            log_probs: exact,
            hidden_gradient: gradients.concat(),
            weight_gradient,
        })
    }

    /// How far results are from them.
    pub fn distance(
        &self,
        log_probs: &Tensor<1>,
        hidden: &Tensor<2>,
        weight: &Tensor<2>,
    ) -> Result<Errors, Failure> {
        let [_, width] = hidden.dims();
        let [_, vocabulary] = weight.dims();
        let log_probs = numbers(log_probs)?;
        let hidden = numbers(hidden)?;
        let weight = numbers(weight)?;
        let differences = self.tokens.iter().zip(&self.log_probs);
        let rows = self
            .tokens
            .iter()
            .flat_map(|token| &hidden[token * width..(token + 1) * width]);
        let columns = self
            .words
            .iter()
            .flat_map(|word| weight[*word..].iter().step_by(vocabulary));
        Ok(Errors {
            log_prob: differences
                .map(|(token, exact)| (log_probs[*token] - exact).abs())
                .fold(0.0, f64::max),
            hidden_gradient: relative(rows, &self.hidden_gradient),
            weight_gradient: relative(columns, &self.weight_gradient),
        })
    }
}

fn spread(count: usize) -> impl Iterator<Item = usize> {
    let sample = SAMPLE.min(count);
    (0..sample).map(move |nth| nth * count / sample)
}

fn relative<'a>(got: impl Iterator<Item = &'a f64>, exact: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let distance: f64 = got.zip(exact).map(|(got, exact)| square(got - exact)).sum();
    let length: f64 = exact.iter().copied().map(square).sum();
    match distance {
        // Of a single word there is nothing to learn.
        0.0 => 0.0,
        distance => (distance / length).sqrt(),
    }
}

fn numbers<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f64>, Failure> {
    let data = tensor.clone().try_into_data().map_err(unread)?;
    Ok(data.iter::<f64>().collect())
}

fn unread(error: impl std::fmt::Display) -> Failure {
    Failure::Other(format!("the device failed while it was read: {error}"))
}

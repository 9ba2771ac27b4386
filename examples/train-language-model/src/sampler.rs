//! Sampling answers, batched, with a cache of keys and values.

use std::error::Error;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, RngExt};
use thiserror::Error;

use crate::model::{Cache, Llama, PROMPT, Places};

/// The segment of padding, which nothing sees.
const PADDING: i32 = -1;

/// How answers are sampled.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// What logits are divided by; at 0 the most probable token is taken.
    pub temperature: f64,
    /// Only so many of the most probable tokens may be drawn.
    pub top_k: Option<usize>,
    /// Only the most probable tokens may be drawn that have this probability together.
    pub top_p: Option<f64>,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Whether a token of the model's may end an answer before that.
    pub may_end: bool,
}

/// A sampled answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The tokens, up to and including one that ends an answer.
    pub tokens: Vec<u32>,
    /// The log-prob of each token under what it was drawn from: the softmax of the logits divided
    /// by the temperature, and, where `top_k` or `top_p` restrict it, the renormalised probabilities
    /// of the tokens that are left. At temperature 0 it is that of temperature 1.
    pub log_probs: Vec<f32>,
    /// Whether the answer ended by itself.
    pub is_finished: bool,
}

/// Why nothing was sampled.
#[derive(Debug, Error)]
pub enum SamplerError {
    /// There is no token to begin with.
    #[error("prompt {0} has no tokens")]
    EmptyPrompt(usize),
    /// The model has not seen sequences of such a length.
    #[error(
        "prompt {prompt} has {tokens} tokens; with {max_tokens} tokens of an answer it is longer \
         than the context of the model, {context} tokens"
    )]
    TooLong {
        prompt: usize,
        tokens: usize,
        max_tokens: usize,
        context: usize,
    },
    /// The weights are damaged, or training has diverged.
    #[error("the model's logits are not finite")]
    NotFinite,
}

/// Samples `each` answers to every prompt; those to one prompt stand side by side.
///
/// # Errors
///
/// A prompt is empty or too long, the logits are not finite, or the device failed to deliver them.
pub fn sample(
    model: &Llama,
    prompts: &[Vec<u32>],
    each: usize,
    sampling: &Sampling,
    device: &Device,
    rng: &mut impl Rng,
) -> Result<Vec<Answer>, Box<dyn Error>> {
    let context = model.config().max_position_embeddings;
    let ends = model.config().end_tokens();
    for (prompt, ids) in prompts.iter().enumerate() {
        if ids.is_empty() {
            return Err(SamplerError::EmptyPrompt(prompt).into());
        }
        if ids.len() + sampling.max_tokens > context {
            return Err(SamplerError::TooLong {
                prompt,
                tokens: ids.len(),
                max_tokens: sampling.max_tokens,
                context,
            }
            .into());
        }
    }
    let mut answers = vec![Answer::default(); prompts.len() * each];
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if answers.is_empty() {
        return Ok(answers);
    }
    let mut batch = Batch {
        cache: model.cache(longest + sampling.max_tokens),
        length: longest,
        padding: prompts.iter().map(|ids| longest - ids.len()).collect(),
    };
    let padded = prompts
        .iter()
        .zip(&batch.padding)
        .flat_map(|(ids, padding)| {
            let ids = ids.iter().map(|id| *id as i32);
            std::iter::repeat_n(0, *padding).chain(ids)
        });
    // A prompt is read once for all answers to it.
    let mut logits = batch.step(model, padded.collect(), device);
    // The answer in each row of the batch.
    let mut rows: Vec<usize> = (0..answers.len()).collect();
    let shared: Vec<usize> = rows.iter().map(|row| row / each).collect();
    logits = batch.select(logits, &shared, device);

    for _ in 0..sampling.max_tokens {
        let values = logits.try_into_vec_as::<f32>()?;
        for (row, logits) in rows.iter().zip(values.chunks(model.config().vocab_size)) {
            let answer = &mut answers[*row];
            if !answer.is_finished {
                let (token, log_prob) = draw(logits, sampling, rng)?;
                answer.tokens.push(token as u32);
                answer.log_probs.push(log_prob as f32);
                answer.is_finished = sampling.may_end && ends.contains(&(token as u32));
            }
        }
        let open: Vec<usize> = (0..rows.len())
            .filter(|row| !answers[rows[*row]].is_finished)
            .collect();
        if open.is_empty() || answers[rows[open[0]]].tokens.len() == sampling.max_tokens {
            break;
        }
        // Rows that are finished cost as much as others, and leaving them out copies the cache.
        if open.len() * 4 <= rows.len() * 3 {
            rows = open.iter().map(|row| rows[*row]).collect();
            batch.keep(&open, device);
        }
        let last = rows.iter().map(|row| answers[*row].tokens.last());
        let last = last.map(|token| token.map_or(0, |token| *token as i32));
        logits = batch.step(model, last.collect(), device);
    }
    Ok(answers)
}

/// The sequences that are still growing.
struct Batch {
    cache: Cache,
    /// Columns so far, padding included.
    length: usize,
    /// Columns of padding on the left of each row.
    padding: Vec<usize>,
}

impl Batch {
    /// The logits of the next token after further `tokens`, `[B, vocab_size]`. The first tokens are
    /// the padded prompts; after that, one of each row follows.
    fn step(&mut self, model: &Llama, tokens: Vec<i32>, device: &Device) -> Tensor<2> {
        let rows = self.padding.len();
        let columns = tokens.len() / rows;
        if columns == 1 && !self.cache.is_empty() {
            self.length += 1;
        }
        let length = self.length;
        let mut positions = Vec::with_capacity(rows * columns);
        let mut segments = Vec::with_capacity(rows * length);
        for padding in &self.padding {
            let first = length - columns;
            positions.extend((first..length).map(|column| column.saturating_sub(*padding) as i32));
            segments.extend((0..length).map(|column| match column < *padding {
                true => PADDING,
                false => PROMPT,
            }));
        }
        let matrix = |values: Vec<i32>, columns| {
            Tensor::<2, Int>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let places = Places {
            positions: matrix(positions, columns),
            segments: matrix(segments, length),
        };
        let tokens = matrix(tokens, columns);
        let hidden = model.hidden(tokens, places, Some(&mut self.cache));
        model.logits(hidden.narrow(1, columns - 1, 1).squeeze_dim(1))
    }

    /// Keeps these rows.
    fn keep(&mut self, rows: &[usize], device: &Device) {
        self.padding = rows.iter().map(|row| self.padding[*row]).collect();
        self.cache.select(indices(rows, device));
    }

    /// Keeps these rows, of their logits, too.
    fn select(&mut self, logits: Tensor<2>, rows: &[usize], device: &Device) -> Tensor<2> {
        self.keep(rows, device);
        logits.select(0, indices(rows, device))
    }
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    Tensor::from_data(&rows[..], device)
}

/// Draws a token, and says its log-prob.
pub fn draw(
    logits: &[f32],
    sampling: &Sampling,
    rng: &mut impl Rng,
) -> Result<(usize, f64), SamplerError> {
    let greedy = sampling.temperature == 0.0;
    let scale = match greedy {
        true => 1.0,
        false => sampling.temperature.recip(),
    };
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scaled = |token: usize| f64::from(logits[token] - largest) * scale;
    let mut tokens: Vec<Weighted> = (0..logits.len())
        .map(|token| (scaled(token).exp(), token))
        .collect();
    let mut total = sum(&tokens);
    if !total.is_finite() || !largest.is_finite() {
        return Err(SamplerError::NotFinite);
    }
    let best = logits.iter().position(|logit| *logit == largest);
    let best = best.unwrap_or(0);
    if greedy {
        return Ok((best, -total.ln()));
    }
    if sampling.top_k.is_some() || sampling.top_p.is_some_and(|p| p < 1.0) {
        restrict(&mut tokens, sampling);
        total = sum(&tokens);
    }
    // The token at which the sum of weights passes this; rounding may leave a little over.
    let mut remaining = rng.random::<f64>() * total;
    let drawn = tokens.iter().find(|(weight, _)| {
        remaining -= weight;
        remaining < 0.0
    });
    let token = drawn.map_or(best, |(_, token)| *token);
    Ok((token, scaled(token) - total.ln()))
}

/// A token behind its weight, which is its probability but for a factor.
type Weighted = (f64, usize);

fn sum(tokens: &[Weighted]) -> f64 {
    tokens.iter().map(|(weight, _)| weight).sum()
}

/// Leaves the tokens that may be drawn, the most probable first, and the lower id where two are
/// alike: the first `top_k`, and of those as few as have together `top_p` of their probability.
fn restrict(tokens: &mut Vec<Weighted>, sampling: &Sampling) {
    let order = |a: &Weighted, b: &Weighted| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if let Some(k) = sampling.top_k
        && k < tokens.len()
    {
        tokens.select_nth_unstable_by(k, order);
        tokens.truncate(k);
    }
    tokens.sort_unstable_by(order);
    if let Some(p) = sampling.top_p {
        let total = sum(tokens);
        let mut sum = 0.0;
        let enough = tokens.iter().position(|(weight, _)| {
            sum += weight;
            sum >= p * total
        });
        tokens.truncate(enough.map_or(tokens.len(), |last| last + 1));
    }
}

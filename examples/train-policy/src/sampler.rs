//! Sampling answers, as an inference engine would: from rounded weights, token by token.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, TensorReadError, bf16};
use rand::{Rng, RngExt};

use crate::model::Policy;
use crate::task::{ANSWER_LENGTH, END, PADDING, PROMPT_LENGTH, Prompt, VOCABULARY};

/// A sampled answer, up to and including `END`.
#[derive(Clone, Default)]
pub struct Answer {
    /// The tokens.
    pub tokens: Vec<i32>,
    /// The log-prob of each token under the policy that sampled it.
    pub log_probs: Vec<f32>,
}

impl Answer {
    fn is_finished(&self) -> bool {
        self.tokens.last() == Some(&END)
    }
}

/// A copy of `policy` with its weights rounded to bf16, the way they are shipped to an inference
/// engine.
pub fn rounded(policy: &Policy) -> Policy {
    policy.clone().map(&mut RoundToBf16)
}

struct RoundToBf16;

impl ModuleMapper for RoundToBf16 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Rounded on the host, because not every device computes in bf16.
        param.map(|weights| {
            let data = weights.to_data().convert::<bf16>().convert::<f32>();
            Tensor::from_data(data, &weights.device())
        })
    }
}

/// Samples one answer to each prompt, at temperature 1.
///
/// # Errors
///
/// The device failed to deliver the log-probs.
pub fn sample(
    policy: &Policy,
    prompts: &[&Prompt],
    device: &Device,
    rng: &mut impl Rng,
) -> Result<Vec<Answer>, TensorReadError> {
    let mut answers = vec![Answer::default(); prompts.len()];
    for length in PROMPT_LENGTH..PROMPT_LENGTH + ANSWER_LENGTH {
        // Recomputing the whole sequence for every token is wasteful, but short here.
        let tokens = sequences(prompts, &answers, length, device);
        let next = policy.next_log_probs(tokens).narrow(1, length - 1, 1);
        let next = next.try_into_vec_as::<f32>()?;
        for (answer, log_probs) in answers.iter_mut().zip(next.chunks_exact(VOCABULARY)) {
            if !answer.is_finished() {
                let token = draw(log_probs, rng);
                answer.tokens.push(token as i32);
                answer.log_probs.push(log_probs[token]);
            }
        }
    }
    Ok(answers)
}

/// Prompts with their answers so far, padded on the right: `[B, length]`.
pub fn sequences(
    prompts: &[&Prompt],
    answers: &[Answer],
    length: usize,
    device: &Device,
) -> Tensor<2, Int> {
    let mut tokens = Vec::with_capacity(prompts.len() * length);
    for (row, (prompt, answer)) in prompts.iter().zip(answers).enumerate() {
        tokens.extend_from_slice(&prompt[..]);
        tokens.extend_from_slice(&answer.tokens);
        tokens.resize((row + 1) * length, PADDING);
    }
    Tensor::from_data(TensorData::new(tokens, [prompts.len(), length]), device)
}

/// Draws an index with the probabilities whose logarithms are given.
fn draw(log_probs: &[f32], rng: &mut impl Rng) -> usize {
    let mut remaining: f32 = rng.random();
    for (index, log_prob) in log_probs.iter().enumerate() {
        remaining -= log_prob.exp();
        if remaining < 0.0 {
            return index;
        }
    }
    // Rounding may leave a little over.
    log_probs.len() - 1
}

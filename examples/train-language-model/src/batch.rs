//! Prompts and answers of different length as tensors.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::model::Llama;

/// A prompt with its answer.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    pub prompt: &'a [u32],
    pub answer: &'a [u32],
}

/// `B` sequences: `P` columns of prompts, padded on the left, then `T` columns of answers, padded
/// on the right, so that every answer begins in the same column.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[B, P + T]`.
    pub tokens: Tensor<2, Int>,
    /// False at padding: `[B, P + T]`. What stands at padding may be any token, one that ends
    /// answers included.
    pub mask: Tensor<2, Bool>,
    /// `P`.
    pub prompt_length: usize,
}

impl TokenBatch {
    /// The sequences, padded to the longest prompt and the longest answer.
    pub fn new(sequences: &[Sequence], device: &Device) -> Self {
        let longest = |length: fn(&Sequence) -> usize| sequences.iter().map(length).max();
        let prompt_length = longest(|sequence| sequence.prompt.len()).unwrap_or(0);
        let answer_length = longest(|sequence| sequence.answer.len()).unwrap_or(0);
        let length = prompt_length + answer_length;
        let mut tokens = vec![0_i32; sequences.len() * length];
        let mut mask = vec![false; tokens.len()];
        for (row, sequence) in sequences.iter().enumerate() {
            let start = row * length + prompt_length - sequence.prompt.len();
            let ids = sequence.prompt.iter().chain(sequence.answer);
            for (at, id) in (start..).zip(ids) {
                tokens[at] = *id as i32;
                mask[at] = true;
            }
        }
        let shape = [sequences.len(), length];
        Self {
            tokens: Tensor::from_data(TensorData::new(tokens, shape), device),
            mask: Tensor::from_data(TensorData::new(mask, shape), device),
            prompt_length,
        }
    }

    /// True where the policy generated the token: `[B, T]`.
    pub fn action_mask(&self) -> Tensor<2, Bool> {
        let (start, length) = (self.prompt_length, self.answer_length());
        self.mask.clone().narrow(1, start, length)
    }

    /// The answers, `[B, T]`, and the hidden states that predict them, `[B, T, hidden_size]`.
    pub fn answers(&self, model: &Llama) -> (Tensor<3>, Tensor<2, Int>) {
        let (start, length) = (self.prompt_length, self.answer_length());
        let targets = self.tokens.clone().narrow(1, start, length);
        // The last token predicts nothing; the last of the prompt predicts the first answer token.
        let inputs = start + length - 1;
        let tokens = self.tokens.clone().narrow(1, 0, inputs);
        let mask = self.mask.clone().narrow(1, 0, inputs);
        let hidden = model.hidden(tokens, mask, None);
        (hidden.narrow(1, start - 1, length), targets)
    }

    fn answer_length(&self) -> usize {
        self.tokens.dims()[1] - self.prompt_length
    }
}

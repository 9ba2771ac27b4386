//! Prompts with their answers as tensors.

use std::error::Error;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use policy_loss::{BatchError, LogProbsTokens, TokenLogProbs};

use crate::model::{Llama, PROMPT, Places};

/// A prompt with its answer.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    pub prompt: &'a [u32],
    pub answer: &'a [u32],
}

/// `B` sequences whose longest answer has `T` tokens.
///
/// Answers to the same prompt that stand side by side are laid out as one row behind one copy of
/// it, so that the prompt, which is most of the tokens where answers are short, passes through the
/// model once for all of them. Beyond [`LONG_ROW`] tokens they go on in another row. The results, and the
/// gradients, are those of separate rows.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[R, L]`.
    tokens: Tensor<2, Int>,
    positions: Tensor<2, Int>,
    segments: Tensor<2, Int>,
    /// For each answer token, the place in `R * L` of the token before it: `[B * T]`.
    before: Tensor<1, Int>,
    /// `[B, T]`.
    answers: Tensor<2, Int>,
    /// True where the policy generated the token: `[B, T]`.
    pub action_mask: Tensor<2, Bool>,
    /// Tokens in the rows, without padding.
    pub length: usize,
}

/// Tokens of a row beyond which no further answer is added to it. Attention takes memory with the
/// square of a row's length, and at this length about as much as the rest of a small model.
const LONG_ROW: usize = 1024;

/// One row: a prompt, and the answers to it.
#[derive(Default)]
struct Row {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    segments: Vec<i32>,
}

/// How many answers to a prompt share a row.
fn answers_of_row(group: &[Sequence]) -> usize {
    let longest = group.iter().map(|sequence| sequence.answer.len()).max();
    let room = LONG_ROW.saturating_sub(group[0].prompt.len());
    (room / longest.unwrap_or(0).max(1)).max(1)
}

impl TokenBatch {
    /// Lays out sequences, none of which has an empty prompt.
    pub fn new(sequences: &[Sequence], device: &Device) -> Self {
        let longest = sequences.iter().map(|sequence| sequence.answer.len()).max();
        let longest = longest.unwrap_or(0);
        let mut rows: Vec<Row> = Vec::new();
        // Row and column of the token before each answer token.
        let mut before = Vec::new();
        let mut answers = Vec::new();
        let mut valid = Vec::new();
        let groups = sequences.chunk_by(|a, b| a.prompt == b.prompt);
        let rows_of_groups = groups.flat_map(|group| group.chunks(answers_of_row(group)));
        for group in rows_of_groups {
            let prompt = group[0].prompt;
            let mut row = Row::default();
            row.extend(prompt, 0, PROMPT);
            for (sequence, segment) in group.iter().zip(PROMPT + 1..) {
                let start = row.tokens.len();
                // The last token predicts nothing.
                let predicting = sequence.answer.len().saturating_sub(1);
                row.extend(&sequence.answer[..predicting], prompt.len(), segment);
                let last_of_prompt = std::iter::once(prompt.len() - 1);
                let columns = last_of_prompt.chain(start..).take(sequence.answer.len());
                before.extend(columns.map(|column| (rows.len(), column)));
                answers.extend(sequence.answer.iter().map(|id| *id as i32));
                valid.extend(sequence.answer.iter().map(|_| true));
                // Any place will do where there is no answer token.
                let padding = longest - sequence.answer.len();
                before.extend(std::iter::repeat_n((rows.len(), 0), padding));
                answers.extend(std::iter::repeat_n(0, padding));
                valid.extend(std::iter::repeat_n(false, padding));
            }
            rows.push(row);
        }
        let columns = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let length = rows.iter().map(|row| row.tokens.len()).sum();
        let padded = |part: fn(&Row) -> &Vec<i32>, padding: i32| {
            let mut values = Vec::with_capacity(rows.len() * columns);
            for (index, row) in rows.iter().enumerate() {
                values.extend(part(row));
                values.resize((index + 1) * columns, padding);
            }
            Tensor::from_data(TensorData::new(values, [rows.len(), columns]), device)
        };
        let before: Vec<i32> = before
            .into_iter()
            .map(|(row, column)| (row * columns + column) as i32)
            .collect();
        let shape = [sequences.len(), longest];
        Self {
            tokens: padded(|row| &row.tokens, 0),
            positions: padded(|row| &row.positions, 0),
            segments: padded(|row| &row.segments, i32::MAX),
            before: Tensor::from_data(&before[..], device),
            answers: Tensor::from_data(TensorData::new(answers, shape), device),
            action_mask: Tensor::from_data(TensorData::new(valid, shape), device),
            length,
        }
    }

    /// The answers, `[B, T]`, and the hidden states that predict them, `[B, T, hidden_size]`.
    pub fn answers(&self, model: &Llama) -> (Tensor<3>, Tensor<2, Int>) {
        let places = Places {
            positions: self.positions.clone(),
            segments: self.segments.clone(),
        };
        let hidden = model.hidden(self.tokens.clone(), places, None);
        let [rows, columns, width] = hidden.dims();
        let [batch, tokens] = self.answers.dims();
        let hidden = hidden.reshape([rows * columns, width]);
        let hidden = hidden.select(0, self.before.clone());
        (hidden.reshape([batch, tokens, width]), self.answers.clone())
    }

    /// The log-probs of the answers' tokens under the model, `[B, T]`.
    pub fn log_probs(&self, model: &Llama, of: &TokenLogProbs) -> Result<Tensor<2>, BatchError> {
        let (hidden, targets) = self.answers(model);
        let mask = Some(self.action_mask.clone());
        let tokens = LogProbsTokens::new(targets).with_action_mask(mask);
        Ok(of.forward_linear(hidden, &model.head(), tokens)?.log_probs)
    }

    /// The same as numbers: for each answer, as many as the longest has tokens.
    pub fn log_prob_rows(
        &self,
        model: &Llama,
        of: &TokenLogProbs,
    ) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
        let log_probs = self.log_probs(model, of)?;
        let [_, columns] = log_probs.dims();
        let values = log_probs.try_into_vec_as::<f32>()?;
        Ok(values.chunks(columns).map(<[f32]>::to_vec).collect())
    }
}

impl Row {
    /// Adds tokens, the first of which stands at `position`.
    fn extend(&mut self, tokens: &[u32], position: usize, segment: i32) {
        for (token, position) in tokens.iter().zip(position..) {
            self.tokens.push(*token as i32);
            self.positions.push(position as i32);
            self.segments.push(segment);
        }
    }
}

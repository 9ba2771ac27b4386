//! What the tokens of a sequence count for in a mean over prompts.

use std::collections::HashMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::advantages::members::Members;
use crate::{BatchError, GlobalTotals, Reduction};

/// Which sequences answer the same prompt, as far as the reduction has to know.
pub(crate) enum Prompts {
    /// Every sequence of theirs is in the batch: a number for each, equal for the same prompt.
    OfBatch(Vec<i64>),
    /// The batch is a part of another one: how many valid tokens of that one answer the prompt of each
    /// sequence here.
    OfGlobalBatch(Vec<usize>),
}

impl Prompts {
    /// What `reduction` reads of a batch of so many sequences; nothing where it is no mean over
    /// prompts.
    pub fn check(
        reduction: Reduction,
        sequences: usize,
        ids: Option<Vec<i64>>,
        tokens: Option<Vec<usize>>,
        totals: Option<GlobalTotals>,
    ) -> Result<Option<Self>, BatchError> {
        let of_sequences = |tensor, length: usize| match length == sequences {
            true => Ok(()),
            false => Err(BatchError::Shape {
                tensor,
                expected: format!("[{sequences}], one for each sequence"),
                got: vec![length],
            }),
        };
        if let Some(ids) = &ids {
            of_sequences("prompt_ids", ids.len())?;
        }
        if let Some(tokens) = &tokens {
            of_sequences("prompt_tokens", tokens.len())?;
        }
        if !reduction.has_sequence_weights() {
            return Ok(None);
        }
        let missing = |tensor, needed_by, add_with| BatchError::Missing {
            tensor,
            needed_by,
            add_with,
        };
        if let (Some(tokens), Some(ids)) = (&tokens, &ids) {
            same_for_a_prompt(ids, tokens)?;
        }
        match (tokens, ids) {
            (Some(tokens), _) if totals.is_some() => Ok(Some(Self::OfGlobalBatch(tokens))),
            (Some(_), _) => Err(missing(
                "totals.prompts",
                "`prompt_tokens`, which count those of a global batch,",
                "PolicyBatch::with_totals",
            )),
            (None, Some(ids)) if totals.is_none() => Ok(Some(Self::OfBatch(ids))),
            (None, _) if totals.is_some() => Err(missing(
                "prompt_tokens",
                "`reduction = prompt_mean` of a part of a batch, whose `totals` are given,",
                "PolicyBatch::with_prompt_tokens",
            )),
            (None, _) => Err(missing(
                "prompt_ids",
                "`reduction = prompt_mean`",
                "PolicyBatch::with_prompt_ids",
            )),
        }
    }

    /// `1 / max(n_p, 1)` for each sequence, `[B, 1]`, on the device and in the type that are
    /// asked for; `per_sequence` counts the valid tokens of each, `[B, 1]`.
    pub fn weights(
        &self,
        device: &Device,
        dtype: DType,
        per_sequence: impl FnOnce() -> Tensor<2>,
    ) -> Tensor<2> {
        let tokens = match self {
            Self::OfBatch(ids) => {
                let members = Members::new(ids, &per_sequence());
                let of_prompts = members.lengths.clone().sum_dim(1);
                members.scatter(members.spread(of_prompts))
            }
            Self::OfGlobalBatch(tokens) => {
                let numbers: Vec<f64> = tokens.iter().map(|tokens| *tokens as f64).collect();
                let data = TensorData::new(numbers, [tokens.len(), 1]).convert_dtype(dtype);
                Tensor::from_data(data, (device, dtype))
            }
        };
        tokens.clamp_min(1).recip()
    }
}

/// The tokens of the global batch that answer a prompt are as many for each sequence that does.
fn same_for_a_prompt(ids: &[i64], tokens: &[usize]) -> Result<(), BatchError> {
    let mut first = HashMap::new();
    for (sequence, (id, here)) in ids.iter().zip(tokens).enumerate() {
        let (before, there) = *first.entry(id).or_insert((sequence, here));
        if there != here {
            return Err(BatchError::OutOfRange {
                field: "prompt_tokens",
                value: format!(
                    "{there} for sequence {before} and {here} for sequence {sequence}, which both \
                     answer the prompt {id}"
                ),
                accepted: "one number for each prompt".into(),
            });
        }
    }
    Ok(())
}

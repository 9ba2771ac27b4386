//! What the oracle is asked.

use std::collections::HashMap;

/// The global batch that this one is a part of: its tokens or sequences, whichever the reduction
/// counts, and the ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Scale {
    pub total: f64,
    pub world_size: f64,
}

/// Which sequences answer the same prompt.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Prompts {
    /// Every sequence of theirs is in the batch: a number for each, equal for the same prompt.
    OfBatch(Vec<i64>),
    /// The batch is a part of another one, of which so many valid tokens answer the prompt of each
    /// sequence.
    OfGlobalBatch(Vec<f64>),
}

/// A batch, row by row; the advantages per token.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Batch {
    pub sequences: usize,
    pub tokens: usize,
    pub log_probs: Vec<f64>,
    /// What stands where a formula stops the gradient: `log_probs` themselves, but where the
    /// gradient is compared with a slope.
    pub constant_log_probs: Vec<f64>,
    /// Absent on policy.
    pub old_log_probs: Option<Vec<f64>>,
    pub advantages: Vec<f64>,
    pub valid: Vec<bool>,
    pub rollout: Option<Vec<f64>>,
    pub reference: Option<Vec<f64>>,
    pub entropies: Option<Vec<f64>>,
    /// Equal at the tokens of a segment; absent: a segment is a run of valid tokens.
    pub segment_ids: Option<Vec<i64>>,
    pub prompts: Option<Prompts>,
    /// The least entropy of a token that is kept, of the global batch; absent: of this one.
    pub entropy_threshold: Option<f64>,
    /// The least squared log-ratio that a surrogate of second moments drops or clips, of the global
    /// batch; absent: of this one.
    pub second_moment_limit: Option<f64>,
}

impl Batch {
    /// The valid tokens of each row that holds one.
    pub(crate) fn rows(&self) -> Vec<Vec<usize>> {
        let mut rows = Vec::new();
        for row in 0..self.sequences {
            let mut valid = Vec::new();
            for i in row * self.tokens..(row + 1) * self.tokens {
                if self.valid[i] {
                    valid.push(i);
                }
            }
            if !valid.is_empty() {
                rows.push(valid);
            }
        }
        rows
    }

    /// The valid tokens of each segment.
    #[must_use]
    pub fn segments(&self) -> Vec<Vec<usize>> {
        let mut segments: Vec<Vec<usize>> = Vec::new();
        for row in self.rows() {
            let mut last: Option<usize> = None;
            for i in row {
                let goes_on = last.is_some_and(|before| match &self.segment_ids {
                    Some(ids) => ids[before] == ids[i],
                    None => before + 1 == i,
                });
                match goes_on {
                    true => segments.last_mut().expect("there is one").push(i),
                    false => segments.push(vec![i]),
                }
                last = Some(i);
            }
        }
        segments
    }

    /// What a token of each sequence counts for in a mean over prompts; anything for a sequence
    /// without one.
    pub(crate) fn prompt_shares(&self) -> Vec<f64> {
        match self.prompts.as_ref().expect("the reduction reads them") {
            Prompts::OfGlobalBatch(tokens) => tokens.iter().map(|tokens| 1.0 / tokens).collect(),
            Prompts::OfBatch(ids) => {
                let mut tokens = HashMap::new();
                for i in self.valid_tokens() {
                    *tokens.entry(ids[i / self.tokens]).or_insert(0.0) += 1.0;
                }
                let share = |id| 1.0 / tokens.get(id).copied().unwrap_or(f64::NAN);
                ids.iter().map(share).collect()
            }
        }
    }

    /// The valid tokens, row after row.
    pub(crate) fn valid_tokens(&self) -> Vec<usize> {
        self.rows().concat()
    }

    /// `old_log_probs`, or `log_probs` without their gradient.
    pub(crate) fn old(&self, i: usize) -> f64 {
        match &self.old_log_probs {
            Some(old) => old[i],
            None => self.constant_log_probs[i],
        }
    }

    /// `log_probs - old_log_probs`.
    pub(crate) fn log_ratio(&self, i: usize) -> f64 {
        self.log_probs[i] - self.old(i)
    }

    pub(crate) fn rollout(&self, i: usize) -> f64 {
        self.rollout.as_ref().expect("the objective reads it")[i]
    }

    pub(crate) fn entropy(&self, i: usize) -> f64 {
        self.entropies.as_ref().expect("the objective reads them")[i]
    }

    /// `old_log_probs - rollout_log_probs`.
    pub(crate) fn gap(&self, i: usize) -> f64 {
        self.old(i) - self.rollout(i)
    }
}

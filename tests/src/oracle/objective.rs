//! What the oracle is asked.

use std::ops::Range;

/// Which tokens share a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// None.
    Token,
    /// Those of a sequence.
    Sequence,
}

/// The policy in the denominator of the ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The one that the update started from.
    Old,
    /// The one that sampled.
    Rollout,
}

/// The weight for the mismatch between sampler and trainer.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Correction {
    Truncate { low: f64, high: f64 },
    Mask { low: f64, high: f64 },
    SequenceMask { low: f64, high: f64 },
}

/// The objective, as numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Objective {
    pub level: Level,
    pub base: Base,
    pub low: f64,
    pub high: f64,
    pub dual_clip: Option<f64>,
    pub correction: Option<Correction>,
    pub sequence_mean: bool,
}

/// The global batch that this one is a part of: its tokens or sequences, whichever the reduction
/// counts, and the ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Scale {
    pub total: f64,
    pub world_size: f64,
}

/// A batch, row by row; the advantages per token.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Batch {
    pub sequences: usize,
    pub tokens: usize,
    pub log_probs: Vec<f64>,
    pub old_log_probs: Vec<f64>,
    pub advantages: Vec<f64>,
    pub valid: Vec<bool>,
    pub rollout: Option<Vec<f64>>,
}

impl Batch {
    pub(super) fn rows(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let tokens = self.tokens;
        (0..self.sequences).map(move |row| row * tokens..(row + 1) * tokens)
    }

    /// The valid tokens of a row.
    pub(super) fn count(&self, row: Range<usize>) -> f64 {
        let mut count = 0.0;
        for i in row {
            count += f64::from(u8::from(self.valid[i]));
        }
        count
    }

    pub(super) fn base(&self, objective: &Objective) -> &[f64] {
        match objective.base {
            Base::Old => &self.old_log_probs,
            Base::Rollout => self.rollout.as_ref().expect("the ratio needs rollout"),
        }
    }
}

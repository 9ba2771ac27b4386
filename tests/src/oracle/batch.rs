//! What the oracle is asked.

use std::cell::Cell;

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
}

impl Batch {
    /// The valid tokens of each row that holds one.
    pub(super) fn rows(&self) -> Vec<Vec<usize>> {
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

    /// `old_log_probs`, or `log_probs` without their gradient.
    pub(super) fn old(&self, i: usize) -> f64 {
        match &self.old_log_probs {
            Some(old) => old[i],
            None => self.constant_log_probs[i],
        }
    }

    pub(super) fn rollout(&self, i: usize) -> f64 {
        self.rollout.as_ref().expect("the objective reads it")[i]
    }
}

/// How near any number came to where a formula changes its branch.
#[derive(Debug)]
pub(super) struct Margin(Cell<f64>);

impl Margin {
    pub fn new() -> Self {
        Self(Cell::new(f64::INFINITY))
    }

    /// Notes that `value` is compared with `bound`.
    pub fn meet(&self, value: f64, bound: f64) {
        self.0.set(self.0.get().min((value - bound).abs()));
    }

    pub fn least(&self) -> f64 {
        self.0.get()
    }

    /// Whether `value` is greater.
    pub fn exceeds(&self, value: f64, bound: f64) -> bool {
        self.meet(value, bound);
        value > bound
    }
}

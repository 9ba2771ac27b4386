//! What the oracle is asked.

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

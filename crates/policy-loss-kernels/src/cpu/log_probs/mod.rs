//! Log-probs, entropies and sums of squared probabilities of logits, and of hidden states whose logits are never held at once.
//!
//! With `z = logits / temperature` of one token,
//!
//! ```text
//! log_prob = z[target] - log(sum(exp(z)))
//! entropy  = log(sum(exp(z))) - sum(exp(z) z) / sum(exp(z))
//! squares  = sum(exp(z)^2) / sum(exp(z))^2
//! ```
//!
//! A row is visited once, a block at a time, for its [`Statistics`], and once more for its gradient. Both
//! visits are vectorised, and rows are divided among threads. What a row costs is that of its
//! exponentials; the products around it are those of the `gemm` crate.

pub(super) mod gradient;
mod head;
mod matrix;
mod rows;
pub(super) mod statistics;

use super::lanes::Real;

pub use head::{Head, HeadGradients, head_gradients, head_logits};
pub use matrix::{Matrix, MatrixMut};
pub use rows::{gradients, gradients_in_place, statistics};

/// What is computed of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// Whether the entropies are wanted.
    pub entropy: bool,
    /// Whether the sums of squared probabilities are.
    pub squares: bool,
}

/// What is given of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// The place of the token whose log-prob is taken.
    pub target: i64,
    /// What the logits are multiplied by: `1 / temperature`, finite and above 0.
    pub scale: f64,
}

/// What is known of a row of logits after one visit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Of the target; NaN where the target is not in the vocabulary.
    pub log_prob: f64,
    /// 0 where it is not wanted.
    pub entropy: f64,
    /// The sum of squared probabilities; 0 where it is not wanted.
    pub squares: f64,
    /// The largest logit, scaled.
    pub shift: f64,
    /// `log(sum(exp(z - shift)))`.
    ///
    /// Kept apart from `shift`: their sum would lose the digits that a gradient needs where the
    /// logits are large.
    pub log_sum: f64,
}

/// What the gradient of a row of logits is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowGradient {
    /// What was given of the row.
    pub token: Token,
    /// As in [`Statistics`].
    pub shift: f64,
    /// As in [`Statistics`].
    pub log_sum: f64,
    /// As in [`Statistics`]; without effect where `entropy_gradient` is 0.
    pub entropy: f64,
    /// As in [`Statistics`]; without effect where `squares_gradient` is 0.
    pub squares: f64,
    /// Gradient of the result with respect to the log-prob.
    pub log_prob_gradient: f64,
    /// Gradient of the result with respect to the entropy.
    pub entropy_gradient: f64,
    /// Gradient of the result with respect to the sum of squared probabilities.
    pub squares_gradient: f64,
}

impl RowGradient {
    /// Whether one reaches more than the log-prob.
    fn has_more(&self) -> bool {
        self.entropy_gradient != 0.0 || self.squares_gradient != 0.0
    }

    /// Whether any gradient reaches the row. One without is exactly 0, whatever the row holds.
    #[must_use]
    pub fn is_active(&self) -> bool {
        // A NaN is not 0: it goes on.
        self.log_prob_gradient != 0.0 || self.has_more()
    }
}

/// Elements of a row that are visited at once: they stay in the first-level cache between the
/// search for the largest and the exponentials.
const BLOCK: usize = 1024;

/// The place of a target within `range` of the vocabulary.
fn place(target: i64, range: std::ops::Range<usize>) -> Option<usize> {
    let target = usize::try_from(target).ok()?;
    range.contains(&target).then(|| target - range.start)
}

/// The nearest value of the arithmetic's type.
fn real<T: Real>(value: f64) -> T {
    T::from_f64(value)
}

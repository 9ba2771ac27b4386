//! The baseline of each token that leaves the gradient the least variance.

use burn::tensor::Tensor;
use policy_loss_kernels::objective::check::positive;
use serde::{Deserialize, Serialize};

use super::SingleScore;
use super::members::Members;
use crate::ConfigError;
use crate::valid::{Valid, running_sum};

/// The baseline of a token that leaves the gradient of a group the least variance: the mean of the
/// returns of the group's sequences, each weighted by the size of its gradient so far.
///
/// A sequence's size is known from the probabilities alone. With `p` the probability of a token, `S`
/// the sum of the squared probabilities of all words there, and `w` its importance weight, 1 without
/// one, over the valid tokens of a sequence up to its `t`-th one:
///
/// ```text
/// size_t     = sum_{s <= t} w_s^2 (1 - 2 p_s + S_s)
/// baseline_t = sum_i size_it return_it / (sum_i size_it + epsilon)
/// ```
///
/// over the sequences `i` of the group that have a `t`-th valid token. Tokens are counted and not their
/// positions, so that a gap in the mask is carried over. In a group of one there is nothing to compare
/// with, and the baseline is 0.
///
/// Paper: [arXiv 2602.07078](https://arxiv.org/abs/2602.07078); that of verl.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenBaseline {
    /// What the tokens get that the group's longest sequence alone is long enough for: by default
    /// their return. `zero` is what the formula says, the return less itself, up to the epsilon.
    pub tail: SingleScore,
    /// Added to the sum of the sizes. Finite and above 0.
    pub epsilon: f64,
}

impl Default for TokenBaseline {
    fn default() -> Self {
        Self::new()
    }
}

/// What baselines are made of beside the returns.
pub(super) struct Evidence {
    /// `[B, T]`, of the sampled tokens.
    pub log_probs: Tensor<2>,
    /// `[B, T]`, of the probabilities of all words.
    pub sums_of_squares: Tensor<2>,
    /// `[B, T]`.
    pub importance_weights: Option<Tensor<2>>,
    pub group_ids: Vec<i64>,
}

impl TokenBaseline {
    /// Returns beyond the others' ends are kept; an epsilon of 1e-8.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tail: SingleScore::Score,
            epsilon: 1e-8,
        }
    }

    /// Sets what the tokens get that one sequence of the group alone is long enough for.
    #[must_use]
    pub const fn with_tail(mut self, tail: SingleScore) -> Self {
        self.tail = tail;
        self
    }

    /// Sets what is added to the sum of the sizes.
    #[must_use]
    pub const fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Returns less their baselines, `[B, T]`. What it is given is 0 at padding.
    pub(super) fn of(&self, returns: Tensor<2>, evidence: Evidence, valid: &Valid) -> Tensor<2> {
        let members = Members::new(&evidence.group_ids, &valid.per_sequence);
        let order = valid.order();
        let sizes = valid.without_gaps(running_sum(evidence.sizes(valid)), &order);
        let returns = valid.without_gaps(returns, &order);
        let there = valid.without_gaps(valid.as_numbers(), &order);

        // Distances to the mean return, so that few digits are lost where returns lie far from 0.
        let count = members.sum_of_tokens(there.clone());
        let mean = members.sum_of_tokens(returns.clone()) / count.clone().clamp_min(1);
        let distances = returns.clone() - members.tokens_of_sequences(mean.clone());
        let distances = distances.mask_fill(there.equal_elem(0), 0);
        let weighted = members.sum_of_tokens(sizes.clone() * distances.clone());
        let size = members.sum_of_tokens(sizes) + self.epsilon;
        let baselines = (weighted - mean * self.epsilon) / size;
        let advantages = distances - members.tokens_of_sequences(baselines);

        let alone = match self.tail {
            SingleScore::Score => count,
            SingleScore::Zero => members.count.clone().expand(count.dims()),
        };
        let alone = members.tokens_of_sequences(alone).lower_equal_elem(1);
        let advantages = advantages.mask_where(alone, returns);
        advantages.gather(1, order)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        positive("return_to_go.token_baseline.epsilon", self.epsilon)
    }
}

impl Evidence {
    /// With every tensor changed.
    pub fn map(self, change: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            log_probs: change(self.log_probs),
            sums_of_squares: change(self.sums_of_squares),
            importance_weights: self.importance_weights.map(&change),
            group_ids: self.group_ids,
        }
    }

    /// What each token adds to the size of its sequence, `[B, T]`, 0 at padding.
    fn sizes(self, valid: &Valid) -> Tensor<2> {
        let p = self.log_probs.exp();
        let size = valid.select(self.sums_of_squares - p * 2.0 + 1.0);
        // A token that is certain has none, whatever its rounding.
        let rounded = size.clone().lower_elem(0);
        let size = size.mask_fill(rounded, 0);
        match self.importance_weights {
            Some(weights) => size * weights.square(),
            None => size,
        }
    }
}

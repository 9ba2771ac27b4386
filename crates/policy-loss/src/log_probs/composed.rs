//! The reference: plain tensor operations that read like the formula, hold all logits, and run on
//! every backend that Burn has. A whole vocabulary is a shard of itself.

use burn::tensor::{DType, Int, Tensor};

use super::plan::Settings;
use super::prepared::Work;
use super::seam::{Head, Tokens};
use super::shard::is_own;
use crate::composed::arithmetic;
use crate::valid::places;

/// The row of the sums of exponentials among the sums over words: behind the targets that are there,
/// and their distances from the largest logit.
pub const EXPONENTIALS: usize = 2;

/// Log-probs, and a row more each where entropies, and then where sums of squared probabilities are
/// wanted.
pub fn log_probs(work: Work) -> Tensor<2> {
    let candidates = work.tokens.candidates.clone();
    let scaled = Scaled::new(work);
    let values = values(scaled.sums(scaled.largest()), scaled.settings);
    match candidates {
        Some(words) => Tensor::cat(vec![values, scaled.of(words)], 0),
        None => values,
    }
}

/// Logits of some words as they go into the softmax, and what is given of their tokens.
#[derive(Debug, Clone)]
pub struct Scaled {
    /// `[N, V]`.
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    settings: Settings,
}

impl Scaled {
    pub fn new(work: Work) -> Self {
        let Work {
            head,
            tokens,
            settings,
            ..
        } = work;
        let Tokens {
            targets,
            scales,
            kept,
            ..
        } = tokens;
        let logits = logits(head, settings);
        let [tokens, _] = logits.dims();
        let dtype = arithmetic(logits.dtype());
        let logits = logits.cast(dtype);
        let logits = match settings.softcap {
            // Not a division: its gradient is made with an f32 (Burn 0.22.1).
            Some(cap) => (logits * cap.recip()).tanh() * cap,
            None => logits,
        };
        let scaled = logits * scales.reshape([tokens, 1]);
        let scaled = match kept {
            Some(kept) => {
                let device = targets.device();
                let range = settings.range();
                let here = places(range.len(), &device, DType::F32).int();
                let here = (here + (range.start as i64 - 1)).cast(targets.dtype());
                let targets = targets.clone().reshape([tokens, 1]);
                let is_target = targets.equal(here);
                let is_kept = Tensor::from_data(kept.mask(&range), &device);
                scaled.mask_fill(is_target.bool_or(is_kept).bool_not(), f64::NEG_INFINITY)
            }
            None => scaled,
        };
        Self {
            logits: scaled,
            targets,
            settings,
        }
    }

    /// The largest logit of each token, a constant: its gradient cancels.
    pub fn largest(&self) -> Tensor<1> {
        let logits = self.logits.clone().without_autodiff();
        logits.max_dim(1).squeeze_dim(1)
    }

    /// The logarithms of the probabilities.
    pub fn log_probabilities(&self) -> Tensor<2> {
        let [tokens, _] = self.logits.dims();
        let distance = self.logits.clone() - self.largest().reshape([tokens, 1]);
        distance.clone() - distance.exp().sum_dim(1).log()
    }

    /// Those of some words at each token, `[K, N]`.
    fn of(&self, words: Tensor<2, Int>) -> Tensor<2> {
        let unknown = words.clone().lower_elem(0);
        let unknown = unknown.bool_or(words.clone().greater_equal_elem(self.settings.words as i64));
        let log_probs = self.log_probabilities();
        let log_probs = log_probs.gather(1, words.mask_fill(unknown.clone(), 0));
        log_probs.mask_fill(unknown, f64::NAN).transpose()
    }

    /// Sums over the words, relative to `largest`, `[K, N]`: whether the target is one of them, and its
    /// distance; exponentials, those weighed by their distances, squares of them.
    pub fn sums(&self, largest: Tensor<1>) -> Tensor<2> {
        let [tokens, _] = self.logits.dims();
        let distance = self.logits.clone() - largest.reshape([tokens, 1]);
        let is_own = is_own(&self.targets, self.settings).reshape([tokens, 1]);
        let is_elsewhere = is_own.clone().bool_not();
        let first = self.settings.range().start as i64;
        let targets = self.targets.clone().reshape([tokens, 1]) - first;
        let targets = targets.mask_fill(is_elsewhere.clone(), 0);
        let target = distance.clone().gather(1, targets);
        let exponentials = distance.clone().exp();
        let mut sums = vec![
            target.zeros_like().mask_fill(is_own, 1.0),
            target.mask_fill(is_elsewhere, 0.0),
            exponentials.clone().sum_dim(1),
        ];
        if self.settings.entropy {
            // A logit of -inf has probability 0, and 0 * -inf would be NaN.
            let impossible = exponentials.clone().without_autodiff().equal_elem(0.0);
            let finite = distance.mask_fill(impossible, 0.0);
            sums.push((exponentials.clone() * finite).sum_dim(1));
        }
        if self.settings.squares {
            sums.push((exponentials.clone() * exponentials).sum_dim(1));
        }
        Tensor::cat(sums, 1).transpose()
    }

    /// What sums over all shards come to, with the gradients of this one.
    pub fn values(&self, largest: Tensor<1>, sums: Tensor<2>) -> Tensor<2> {
        let own = self.sums(largest);
        let known = own.clone().without_autodiff();
        // What is -inf is the distance of a target, to which the others add 0; it has no difference to
        // itself.
        let infinite = known.clone().lower_elem(-1e30);
        let no_change = own - known.mask_fill(infinite.clone(), 0.0);
        values(no_change + sums.mask_fill(infinite, 0.0), self.settings)
    }
}

/// Log-probs and what goes with them, as in [`log_probs`], from sums over all words.
pub fn values(sums: Tensor<2>, settings: Settings) -> Tensor<2> {
    let row = |index: usize| sums.clone().narrow(0, index, 1);
    let is_unknown = row(0).without_autodiff().not_equal_elem(1.0);
    let sum = row(EXPONENTIALS);
    let log_sum = sum.clone().log();
    let log_probs = row(1) - log_sum.clone();
    let mut values = vec![log_probs.mask_fill(is_unknown, f64::NAN)];
    if settings.entropy {
        values.push(log_sum - row(EXPONENTIALS + 1) / sum.clone());
    }
    if settings.squares {
        let squares = row(sums.dims()[0] - 1);
        values.push(squares / (sum.clone() * sum));
    }
    Tensor::cat(values, 0)
}

/// Logits as the model makes them.
fn logits(head: Head, settings: Settings) -> Tensor<2> {
    if !settings.has_weight {
        return head.hidden;
    }
    let weight = match settings.transposed {
        true => head.weight.transpose(),
        false => head.weight,
    };
    let logits = head.hidden.matmul(weight);
    match settings.has_bias {
        true => logits + head.bias.unsqueeze::<2>(),
        false => logits,
    }
}

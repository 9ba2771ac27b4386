//! Log-probs where the vocabulary lies in shards: of a head whose columns are divided among devices.

use burn::tensor::{Bool, Int, Tensor};

use super::config::{Entropy, TokenLogProbs};
use super::plan::Settings;
use super::prepared::{Place, Work};
use super::seam::{self, Statistics};
use super::{LinearHead, LogProbs, LogProbsTokens, composed};
use crate::BatchError;
use crate::alike::Alike;

/// Which words of a vocabulary logits are of: those from `first` on, as many as there are logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VocabularyShard {
    pub(super) first: usize,
    pub(super) vocabulary: usize,
}

impl VocabularyShard {
    /// The words from `first` on, of a vocabulary of `vocabulary` words in all shards.
    #[must_use]
    pub const fn new(first: usize, vocabulary: usize) -> Self {
        Self { first, vocabulary }
    }

    /// All words of a vocabulary.
    pub(super) const fn all(vocabulary: usize) -> Self {
        Self::new(0, vocabulary)
    }
}

/// What one shard of the vocabulary knows of each token, a few numbers a token, on the way to log-probs
/// over all shards: the step of tensor parallelism.
///
/// With `z` as [`TokenLogProbs`] says, over the words of this shard:
///
/// ```text
/// largest = max_v z_v                                  each token's; over all shards: the largest
/// sums    = [target in this shard]                     relative to it; over all shards: added up
///           [target in this shard] (z[target] - largest)
///           sum_v exp(z_v - largest)
///           sum_v exp(z_v - largest) (z_v - largest)   where entropies are wanted
///           sum_v exp(z_v - largest)^2                 where sums of squares are
/// ```
///
/// A rank calls [`TokenLogProbs::forward_linear_shard`] with its slice of the head and the same hidden
/// states as every other rank, reduces [`largest`](Self::largest) and [`sums`](Self::sums) over the
/// ranks, and hands both to [`finish`](Self::finish). Log-probs are then the same on each rank, and so
/// is the loss that is made of them. The backward pass needs no communication: with the merged
/// log-sum-exp a shard knows the probabilities of its own words, and makes the gradients of its weight
/// and bias from them. Its gradient of the hidden states is its part of a sum over the ranks, which is
/// all that is left to reduce.
///
/// The collective operations of Burn 0.22.1 add and do not compare: each rank puts its `largest` into
/// its own row of zeros, `[ranks, N]`, reduces that by a sum, and takes the largest of each column.
///
/// The shards cover the vocabulary once. A target that lies in no shard, or in two, makes its log-prob
/// NaN.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Distribution, Int, Tensor};
/// use policy_loss::{LinearHead, LogProbsConfig, VocabularyShard};
///
/// let device = Device::flex().autodiff();
/// let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device).require_grad();
/// let hidden = random([4, 8]); // the same on both ranks
/// let weights = [random([8, 60]), random([8, 40])]; // one on each
/// let targets = Tensor::<1, Int>::from_ints([3, 99, 0, 77], &device);
/// let log_probs = LogProbsConfig::new().init()?;
/// let on_rank = |rank: usize| {
///     let shard = VocabularyShard::new([0, 60][rank], 100);
///     let head = LinearHead::new(weights[rank].clone());
///     log_probs.forward_linear_shard(hidden.clone(), &head, targets.clone(), shard)
/// };
/// let (first, second) = (on_rank(0)?, on_rank(1)?);
///
/// // Two collective operations, here by hand.
/// let largest = first.largest().max_pair(second.largest());
/// let sums = first.sums(largest.clone())? + second.sums(largest.clone())?;
///
/// // What follows happens on each rank, here on the second.
/// let output = second.finish(largest, sums)?;
/// let gradients = output.log_probs.sum().backward();
/// assert!(weights[1].grad(&gradients).is_some());
/// let part = hidden.grad(&gradients); // to be added up over the ranks
/// # assert!(part.is_some());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: Megatron-LM, [arXiv 1909.08053](https://arxiv.org/abs/1909.08053), section 3, whose
/// cross entropy over a divided vocabulary reduces the same numbers.
#[derive(Debug, Clone)]
pub struct ShardPartials<const E: usize> {
    log_probs: TokenLogProbs,
    place: Place<E>,
    /// Absent where there is no token.
    known: Option<Known>,
}

#[derive(Debug, Clone)]
enum Known {
    Composed(composed::Scaled),
    Fused { work: Box<Work>, own: Statistics },
}

impl TokenLogProbs {
    /// What a shard's `logits` say of `tokens`; everything else is as in [`forward`](Self::forward).
    ///
    /// # Shapes
    ///
    /// - `logits`: `[B, T, S]` or `[N, S]`, of the `S` words of the shard
    /// - `tokens`: the same without `S`; targets and kept tokens count from the first word of the
    ///   vocabulary
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and a shard that reaches beyond its vocabulary.
    pub fn forward_shard<const D: usize, const E: usize>(
        &self,
        logits: Tensor<D>,
        tokens: impl Into<LogProbsTokens<E>>,
        shard: VocabularyShard,
    ) -> Result<ShardPartials<E>, BatchError> {
        let (work, place) = self.prepare(logits, tokens.into(), Some(shard))?;
        Ok(self.partials(work, place))
    }

    /// What a shard of the head, `[H, S]` of it, says of `tokens`; everything else is as in
    /// [`forward_linear`](Self::forward_linear).
    ///
    /// # Shapes
    ///
    /// - `hidden`: `[B, T, H]` or `[N, H]`, the same in each shard
    /// - `head`: the `S` words of the shard
    /// - `tokens`: as in [`forward_shard`](Self::forward_shard)
    ///
    /// # Errors
    ///
    /// As [`forward_linear`](Self::forward_linear), and a shard that reaches beyond its vocabulary.
    pub fn forward_linear_shard<const D: usize, const E: usize>(
        &self,
        hidden: Tensor<D>,
        head: &LinearHead,
        tokens: impl Into<LogProbsTokens<E>>,
        shard: VocabularyShard,
    ) -> Result<ShardPartials<E>, BatchError> {
        let (work, place) = self.prepare_linear(hidden, head, tokens.into(), Some(shard))?;
        Ok(self.partials(work, place))
    }

    fn partials<const E: usize>(&self, work: Option<Work>, place: Place<E>) -> ShardPartials<E> {
        let known = work.map(|work| match work.is_fused {
            true => Known::Fused {
                own: seam::statistics(work.clone()),
                work: Box::new(work),
            },
            false => Known::Composed(composed::Scaled::new(work)),
        });
        ShardPartials {
            log_probs: self.clone(),
            place,
            known,
        }
    }
}

impl<const E: usize> ShardPartials<E> {
    /// The largest scaled logit of each token, `[N]`, where `N` counts the tokens that are computed:
    /// of hidden states the valid ones, and one where there is none.
    pub fn largest(&self) -> Tensor<1> {
        match &self.known {
            None => self.place.none([0]),
            Some(Known::Composed(scaled)) => scaled.largest(),
            Some(Known::Fused { own, .. }) => row(&own.moments, 0).squeeze_dim(0),
        }
    }

    /// Sums over the words of this shard, relative to the largest logits over all shards; `[K, N]`.
    ///
    /// # Errors
    ///
    /// `largest` has another shape than that of this shard, or is on another device.
    pub fn sums(&self, largest: Tensor<1>) -> Result<Tensor<2>, BatchError> {
        let largest = self.reduced("largest", largest, self.largest().dims())?;
        Ok(match &self.known {
            None => self.place.none([self.rows(), 0]),
            Some(Known::Composed(scaled)) => scaled.sums(largest).without_autodiff(),
            Some(Known::Fused { work, own }) => sums(own, work, largest),
        })
    }

    /// Log-probs, and what else the configuration asks for, over all shards, from what was reduced
    /// over them. The values are those of all shards, the gradients those of this one.
    ///
    /// # Errors
    ///
    /// `largest` or `sums` has another shape than that of this shard, or is on another device.
    pub fn finish(self, largest: Tensor<1>, sums: Tensor<2>) -> Result<LogProbs<E>, BatchError> {
        let [tokens] = self.largest().dims();
        let largest = self.reduced("largest", largest, [tokens])?;
        let sums = self.reduced("sums", sums, [self.rows(), tokens])?;
        let values = match self.known {
            None => return Ok(self.log_probs.of_no_tokens(&self.place)),
            Some(Known::Composed(scaled)) => scaled.values(largest, sums),
            Some(Known::Fused { work, .. }) => {
                let log_sum = row(&sums, composed::EXPONENTIALS).log();
                let statistics = Statistics {
                    moments: Tensor::cat(vec![largest.unsqueeze(), log_sum], 0),
                    values: composed::values(sums, work.settings),
                };
                seam::with_statistics(*work, statistics)
            }
        };
        Ok(self.log_probs.split(values, &self.place))
    }

    /// What was reduced over the shards, in the type that this one computes in: a collective operation
    /// may have a type of its own.
    fn reduced<const D: usize>(
        &self,
        name: &'static str,
        tensor: Tensor<D>,
        shape: [usize; D],
    ) -> Result<Tensor<D>, BatchError> {
        let alike = Alike {
            reference: "ShardPartials",
            shape,
            device: self.place.device.clone(),
        };
        alike.tokens(name, &tensor)?;
        Ok(tensor.without_autodiff().cast(self.place.dtype))
    }

    /// How many sums there are of each token.
    fn rows(&self) -> usize {
        let config = &self.log_probs.config;
        let more = [config.entropy != Entropy::None, config.sum_of_squares];
        composed::EXPONENTIALS + 1 + more.into_iter().filter(|is_wanted| *is_wanted).count()
    }
}

/// Which targets are among the words at hand.
pub(super) fn is_own(targets: &Tensor<1, Int>, settings: Settings) -> Tensor<1, Bool> {
    let words = settings.range();
    let is_behind = targets.clone().greater_equal_elem(words.start as i64);
    is_behind.bool_and(targets.clone().lower_elem(words.end as i64))
}

fn row(rows: &Tensor<2>, index: usize) -> Tensor<2> {
    rows.clone().narrow(0, index, 1)
}

/// The sums of a shard, from its own log-probs: with `p` the share of the shard in all
/// exponentials, `log_prob + log p` is the log-prob over all shards.
fn sums(own: &Statistics, work: &Work, largest: Tensor<1>) -> Tensor<2> {
    let log_sum = row(&own.moments, 1);
    // There is a 1 in every sum, unless all logits are -inf: such a shard adds nothing.
    let is_nothing = log_sum.clone().lower_elem(-1.0);
    // The largest first: added to it, a small number would lose its digits.
    let log_sum = (row(&own.moments, 0) - largest.unsqueeze()) + log_sum;
    let finite = |sums: Tensor<2>| sums.mask_fill(is_nothing.clone(), 0.0);
    let sum = finite(log_sum.clone().exp());
    let is_own = is_own(&work.tokens.targets, work.settings).unsqueeze::<2>();
    let target = (row(&own.values, 0) + log_sum.clone())
        .mask_fill(is_nothing.clone(), f64::NEG_INFINITY)
        .mask_fill(is_own.clone().bool_not(), 0.0);
    let mut sums = vec![sum.zeros_like().mask_fill(is_own, 1.0), target, sum.clone()];
    if work.settings.entropy {
        let entropy = row(&own.values, 1);
        sums.push(finite(sum.clone() * (log_sum - entropy)));
    }
    if work.settings.squares {
        let squares = row(&own.values, own.values.dims()[0] - 1);
        sums.push(finite(squares * sum.clone() * sum));
    }
    Tensor::cat(sums, 0)
}

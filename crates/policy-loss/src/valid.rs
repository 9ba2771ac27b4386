//! The valid tokens of a batch, and reductions over them.
//!
//! Reductions of rows stay right however long the rows are. Burn adds a row up in one running sum
//! on some backends, which in f32 loses digits from some thousand addends on. And a software
//! renderer ends every loop after 65,536 turns, silently: a row of 100,000 ones sums to 65,532
//! there. So long rows are reduced block by block.

use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Tensor};

use crate::Reduction;
use crate::advantages::{ahead, behind, lowest};
use crate::device::is_host;
use policy_loss_kernels::objective::Denominator;

/// The action mask with its counts. Everything here is outside autodiff.
pub(crate) struct Valid {
    /// `[B, T]`, true where the policy generated the token.
    pub tokens: Tensor<2, Bool>,
    /// `[B, T]`, the opposite.
    pub padding: Tensor<2, Bool>,
    /// `[B, 1]`, the number of valid tokens of each sequence.
    pub per_sequence: Tensor<2>,
    /// `[1]`, the number of valid tokens.
    pub total: Tensor<1>,
    /// `[1]`, the number of sequences that hold a valid token.
    pub sequences: Tensor<1>,
    /// `[B, T]`, equal at the tokens of a segment, where the batch says so.
    pub segment_ids: Option<Tensor<2, Int>>,
}

impl Valid {
    pub fn new(action_mask: Tensor<2, Bool>, dtype: DType) -> Self {
        let tokens = action_mask.without_autodiff();
        let per_sequence = sum_per_row(as_numbers(&tokens, dtype));
        let present = per_sequence.clone().greater_elem(0);
        Self {
            padding: tokens.clone().bool_not(),
            total: total(per_sequence.clone()),
            sequences: total(as_numbers(&present, dtype)),
            per_sequence,
            tokens,
            segment_ids: None,
        }
    }

    /// With ids of the segments that tokens are in.
    pub fn with_segment_ids(mut self, segment_ids: Option<Tensor<2, Int>>) -> Self {
        self.segment_ids = segment_ids.map(Tensor::without_autodiff);
        self
    }

    /// 0 at padding, whatever stood there; `x` may be `[B, T]` or `[B, 1]`.
    ///
    /// Values are selected before anything is computed from them. A product with a 0 / 1 mask
    /// afterwards would keep a NaN in the value, and a select afterwards would keep it in the
    /// gradient: `0 * NaN` is NaN.
    pub fn select(&self, x: Tensor<2>) -> Tensor<2> {
        let padding = match x.dims() == self.padding.dims() {
            true => self.padding.clone(),
            false => self.per_sequence.clone().equal_elem(0),
        };
        x.mask_fill(padding, 0)
    }

    /// The mean over the valid tokens of each sequence, `[B, 1]`; 0 where there is none.
    pub fn mean_per_sequence(&self, selected: Tensor<2>) -> Tensor<2> {
        sum_per_row(selected) / self.per_sequence.clone().clamp_min(1)
    }

    /// The mean over the valid tokens of the segment that each token is in, `[B, T]`; 0 at padding. A
    /// segment is a run of valid tokens with the same id, or, without ids, between others.
    pub fn mean_per_segment(&self, selected: Tensor<2>) -> Tensor<2> {
        let valid = self.as_numbers();
        let starts = match &self.segment_ids {
            Some(ids) => as_numbers(&self.changes(ids), valid.dtype()),
            None => {
                let [rows, tokens] = self.tokens.dims();
                let before = Tensor::zeros([rows, 1], (&valid.device(), valid.dtype()));
                let before = Tensor::cat(vec![before, valid.clone()], 1);
                valid.clone() * (before.slice([0..rows, 0..tokens]).neg() + 1)
            }
        };
        // Numbered from 0; padding in front is in the first one, and adds nothing to it.
        let segments = (running_sum(starts) - 1).clamp_min(0);
        let count = sum_per_run(valid, &segments).clamp_min(1);
        self.select(sum_per_run(selected, &segments) / count)
    }

    /// Where a valid token has another id than the one before it, or is the first of its sequence,
    /// `[B, T]`.
    fn changes(&self, ids: &Tensor<2, Int>) -> Tensor<2, Bool> {
        let [rows, tokens] = self.tokens.dims();
        // Counted from 1, so that 0 is no place.
        let places = places(tokens, &self.tokens.device(), self.total.dtype());
        let places = self.select(places.expand([rows, tokens]));
        let before = behind(&running_largest(places), 1);
        let place = (before.clone() - 1).clamp_min(0).int();
        let changes = ids.clone().not_equal(ids.clone().gather(1, place));
        let changes = changes.bool_or(before.equal_elem(0));
        changes.bool_and(self.tokens.clone())
    }

    /// How many valid tokens of its sequence stand before each one, `[B, T]`; any number at padding.
    pub fn order(&self) -> Tensor<2, Int> {
        (running_sum(self.as_numbers()) - 1).clamp_min(0).int()
    }

    /// Values of the valid tokens one behind the other, `[B, T]`, 0 behind the last. They are 0 at
    /// padding, or become so.
    pub fn without_gaps(&self, x: Tensor<2>, order: &Tensor<2, Int>) -> Tensor<2> {
        let nothing = x.zeros_like();
        nothing.scatter(1, order.clone(), self.select(x), IndexingUpdateOp::Add)
    }

    /// 1 at valid tokens, 0 at padding, `[B, T]`.
    pub fn as_numbers(&self) -> Tensor<2> {
        as_numbers(&self.tokens, self.total.dtype())
    }

    /// The largest value among the valid tokens of each sequence, `[B, 1]`; 0 where there is none.
    pub fn max_per_sequence(&self, x: Tensor<2>) -> Tensor<2> {
        let largest = largest_per_row(x.mask_fill(self.padding.clone(), f32::MIN));
        largest.mask_fill(self.per_sequence.clone().equal_elem(0), 0)
    }

    /// Whether `condition` (`[B, T]`) holds at a valid token of each sequence, `[B, 1]`.
    pub fn per_sequence_any(&self, condition: Tensor<2, Bool>) -> Tensor<2, Bool> {
        let met = condition.bool_and(self.tokens.clone());
        sum_per_row(as_numbers(&met, self.total.dtype())).greater_elem(0)
    }

    /// The mean over all valid tokens, `[1]`; 0 where there is none.
    pub fn mean(&self, selected: Tensor<2>) -> Tensor<1> {
        total(selected) / self.total.clone().clamp_min(1)
    }

    /// The fraction of valid tokens at which `condition` (`[B, T]` or `[B, 1]`) holds, `[1]`.
    pub fn fraction(&self, condition: Tensor<2, Bool>) -> Tensor<1> {
        self.count(condition) / self.total.clone().clamp_min(1)
    }

    /// The number of valid tokens at which `condition` (`[B, T]` or `[B, 1]`) holds, `[1]`.
    pub fn count(&self, condition: Tensor<2, Bool>) -> Tensor<1> {
        let dtype = self.total.dtype();
        match condition.dims() == self.tokens.dims() {
            true => total(as_numbers(&condition.bool_and(self.tokens.clone()), dtype)),
            false => total(as_numbers(&condition, dtype) * self.per_sequence.clone()),
        }
    }

    /// What a reduction divides, `[1]`: the sum of the token losses, which are 0 at padding, or of
    /// the sequences' means, or of their sums times what the batch says that they count for,
    /// `[B, 1]`.
    pub fn numerator(
        &self,
        reduction: Reduction,
        token_loss: Tensor<2>,
        weights: Option<&Tensor<2>>,
    ) -> Tensor<1> {
        match weights {
            Some(weights) => total(sum_per_row(token_loss) * weights.clone()),
            None if reduction.takes_sequence_means() => total(self.mean_per_sequence(token_loss)),
            None => total(token_loss),
        }
    }

    /// The number of prompts that a valid token answers, `[1]`, of what the tokens of each sequence
    /// count for, `[B, 1]`.
    pub fn prompts(&self, weights: &Tensor<2>) -> Tensor<1> {
        total(self.per_sequence.clone() * weights.clone())
    }

    /// The loss of a numerator, `[1]`. Where global totals are given, `scale` replaces the division
    /// by a local count.
    pub fn divided(
        &self,
        reduction: Reduction,
        numerator: Tensor<1>,
        prompts: Option<Tensor<1>>,
        scale: Option<f64>,
    ) -> Tensor<1> {
        if let Some(scale) = scale {
            return numerator * scale;
        }
        match reduction.denominator() {
            Denominator::Tokens => numerator / self.total.clone().clamp_min(1),
            Denominator::Sequences => {
                numerator / (self.sequences.clone().clamp_min(1) * reduction.length())
            }
            Denominator::Prompts => match prompts {
                Some(prompts) => {
                    let none = prompts.clone().lower_equal_elem(0);
                    numerator / prompts.mask_fill(none, 1)
                }
                None => numerator,
            },
            Denominator::One => numerator,
        }
    }
}

/// Where one of the inputs is NaN or infinite, `[B, T]`.
pub(crate) fn non_finite(inputs: impl Iterator<Item = Tensor<2>>) -> Tensor<2, Bool> {
    // Finite addends of this size never overflow, and an infinity or NaN survives the sum.
    let magnitude = inputs.map(Tensor::abs).reduce(|sum, x| sum + x);
    let magnitude = magnitude.expect("a loss has inputs");
    let largest = -lowest(magnitude.dtype());
    magnitude.lower_equal_elem(largest).bool_not()
}

/// 1 where a condition holds, and 0 elsewhere.
pub(crate) fn as_numbers(condition: &Tensor<2, Bool>, dtype: DType) -> Tensor<2> {
    condition.clone().float().cast(dtype)
}

/// The sum of all of `[B, T]`, `[1]`: of rows first, then of their sums.
pub(crate) fn total(x: Tensor<2>) -> Tensor<1> {
    let [rows, _] = x.dims();
    sum_per_row(sum_per_row(x).reshape([1, rows])).reshape([1])
}

/// Numbers of some of the tokens, the least first, and the means of those up to each one.
pub(crate) struct Moments {
    /// `[1, N]`, [`BEYOND`](Self::BEYOND) behind the last.
    sorted: Tensor<2>,
    /// `[1, N]`, where there is one.
    there: Tensor<2, Bool>,
    /// `[1, N]`, how many there are up to each one.
    rank: Tensor<2>,
    /// `[1, N]`, the sums up to each one.
    sums: Tensor<2>,
    /// `[1]`, how many there are.
    count: Tensor<1>,
}

impl Moments {
    /// What stands for a number that is not there, and for one that is as large.
    const BEYOND: f32 = f32::MAX;

    /// Of numbers that are not negative, `[B, T]`, where a condition holds.
    pub fn new(x: Tensor<2>, condition: Tensor<2, Bool>) -> Self {
        let dtype = x.dtype();
        let length = x.dims().iter().product();
        let count = total(as_numbers(&condition, dtype));
        let x = x.clamp_max(Self::BEYOND);
        let x = x.mask_fill(condition.bool_not(), Self::BEYOND);
        let sorted = x.reshape([length]).sort(0).reshape([1, length]);
        let rank = places(length, &sorted.device(), dtype);
        let all = count.clone().reshape([1, 1]).expand([1, length]);
        let there = rank.clone().lower_equal(all);
        let sums = running_sum(sorted.clone().mask_fill(there.clone().bool_not(), 0));
        Self {
            sorted,
            there,
            rank,
            sums,
            count,
        }
    }

    /// The mean of all, `[1]`.
    pub fn mean(&self) -> Tensor<1> {
        let last = self.sums.dims()[1] - 1;
        let sum = self.sums.clone().narrow(1, last, 1).reshape([1]);
        sum / self.count.clone().clamp_min(1)
    }

    /// The means of the numbers up to each one, `[1, N]`, of which none is below the one before.
    pub fn means(&self) -> Tensor<2> {
        self.sums.clone() / self.rank.clone()
    }

    /// The means of the lesser one of each number and all numbers, `[1, N]`.
    pub fn means_of_lesser(&self) -> Tensor<2> {
        let count = self.count.clone().clamp_min(1).reshape([1, 1]);
        let count = count.expand(self.sums.dims());
        let rest = (count.clone() - self.rank.clone()).clamp_min(0);
        (self.sorted.clone() * rest + self.sums.clone()) / count
    }

    /// The least number at which a condition holds, `[1]`; above all of them where it holds nowhere.
    pub fn first_beyond(&self, condition: Tensor<2, Bool>) -> Tensor<1> {
        let without = condition.bool_and(self.there.clone()).bool_not();
        let candidates = self.sorted.clone().mask_fill(without, Self::BEYOND);
        largest(candidates.neg()).neg()
    }

    /// The largest number at which a condition holds, `[1]`; 0 where it holds nowhere.
    pub fn last_within(&self, condition: Tensor<2, Bool>) -> Tensor<1> {
        let without = condition.bool_and(self.there.clone()).bool_not();
        largest(self.sorted.clone().mask_fill(without, 0))
    }
}

/// The largest of all of `[B, T]`, `[1]`: of rows first, then of them.
pub(crate) fn largest(x: Tensor<2>) -> Tensor<1> {
    let [rows, _] = x.dims();
    largest_per_row(largest_per_row(x).reshape([1, rows])).reshape([1])
}

/// The sum of each row of `[B, T]`, `[B, 1]`.
pub(crate) fn sum_per_row(x: Tensor<2>) -> Tensor<2> {
    in_blocks(x, &|x| x.sum_dim(1), &|left, right| left + right)
}

/// The largest value of each row of `[B, T]`, `[B, 1]`.
pub(crate) fn largest_per_row(x: Tensor<2>) -> Tensor<2> {
    let larger = |left: Tensor<2>, right: Tensor<2>| {
        // Burn's `max_pair` keeps a NaN on the left only.
        let is_right = left
            .clone()
            .lower(right.clone())
            .bool_or(right.clone().is_nan());
        left.mask_where(is_right, right)
    };
    in_blocks(x, &|x| x.max_dim(1), &larger)
}

/// For each value of `[B, T]` the sum of the run of its row that it is in. Runs are numbered from 0.
fn sum_per_run(x: Tensor<2>, runs: &Tensor<2>) -> Tensor<2> {
    if is_host(&x.device()) {
        let runs = runs.clone().int();
        let sums = x.zeros_like();
        let sums = sums.scatter(1, runs.clone(), x, IndexingUpdateOp::Add);
        return sums.gather(1, runs);
    }
    // Burn's `scatter` adds by atomics on a GPU, in any order, or goes through a row in one loop.
    let [_, tokens] = x.dims();
    // Numbered from 1, so that there is another run beyond the ends.
    let runs = &(runs.clone() + 1);
    // The sums up to each value: spans of 1, 2, 4, ... are joined.
    let mut sums = x;
    let mut span = 1;
    while span < tokens {
        sums = sums.clone() + within(runs, behind(runs, span), behind(&sums, span));
        span *= 2;
    }
    // That of the last one, the same number for all: whatever else there is, is 0.
    let goes_on = runs.clone().equal(ahead(runs, 1));
    sums = sums.mask_fill(goes_on, 0);
    span = 1;
    while span < tokens {
        sums = sums.clone() + within(runs, ahead(runs, span), ahead(&sums, span));
        span *= 2;
    }
    sums
}

/// Values of other places, 0 where those are in another run.
fn within(runs: &Tensor<2>, runs_there: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    x.mask_fill(runs.clone().not_equal(runs_there), 0)
}

/// The largest of the values of each row of `[B, T]`, none of them below 0, up to each one.
fn running_largest(mut x: Tensor<2>) -> Tensor<2> {
    if is_host(&x.device()) {
        return x.cummax(1);
    }
    // Burn goes through a row anew for every value on a GPU.
    let [_, tokens] = x.dims();
    let mut span = 1;
    while span < tokens {
        x = x.clone().max_pair(behind(&x, span));
        span *= 2;
    }
    x
}

/// The sums of each row of `[B, T]` up to each of its values. In blocks, because a GPU adds up anew for
/// every value, which takes turns in the square of the length.
pub(crate) fn running_sum(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    if columns <= BLOCK {
        return x.cumsum(1);
    }
    let blocks = columns.div_ceil(BLOCK);
    let rest = blocks * BLOCK - columns;
    let x = match rest {
        0 => x,
        _ => {
            let rest = Tensor::zeros([rows, rest], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, rest], 1)
        }
    };
    let within = x.reshape([rows * blocks, BLOCK]).cumsum(1);
    let of_blocks = within.clone().slice([0..rows * blocks, BLOCK - 1..BLOCK]);
    let of_blocks = of_blocks.reshape([rows, blocks]);
    // Not the sums less what is a block's own: a large one would take the digits of all before it.
    let before = behind(&running_sum(of_blocks), 1);
    let sums = within
        + before
            .reshape([rows * blocks, 1])
            .expand([rows * blocks, BLOCK]);
    sums.reshape([rows, blocks * BLOCK])
        .slice([0..rows, 0..columns])
}

/// 1, 2, 3 and so on, `[1, length]`. With fusion, Burn's `arange` is a running sum in one loop for each
/// number: slow on a GPU, and cut short at 65,536 by a software renderer.
pub(crate) fn places(length: usize, device: &Device, dtype: DType) -> Tensor<2> {
    running_sum(Tensor::ones([1, length], (device, dtype)))
}

/// Values that are reduced at once.
const BLOCK: usize = 512;

fn in_blocks(
    x: Tensor<2>,
    reduce: &dyn Fn(Tensor<2>) -> Tensor<2>,
    combine: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let blocks = columns / BLOCK;
    if blocks < 2 {
        return reduce(x);
    }
    let whole = blocks * BLOCK;
    let of_blocks = |x: Tensor<2>| {
        let reduced = reduce(x.reshape([rows * blocks, BLOCK]));
        in_blocks(reduced.reshape([rows, blocks]), reduce, combine)
    };
    match columns - whole {
        0 => of_blocks(x),
        _ => {
            let rest = reduce(x.clone().slice([0..rows, whole..columns]));
            combine(of_blocks(x.slice([0..rows, 0..whole])), rest)
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn row(values: Vec<f32>) -> Tensor<2> {
        let length = values.len();
        let data = TensorData::new(values, [1, length]);
        Tensor::from_data(data, &Device::flex())
    }

    fn numbers(x: Tensor<2>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    #[test]
    fn a_large_number_takes_nothing_from_the_sums_before_it() {
        for large in [1e30, f32::INFINITY] {
            let mut values = vec![1.0; 1200];
            values[700] = large;
            let sums = numbers(running_sum(row(values)));
            let expected: Vec<f64> = (1..=700).map(f64::from).collect();
            assert_eq!(sums[..700], expected);
            assert!(sums[700..].iter().all(|sum| *sum >= 1e29), "{large}");
        }
    }

    #[test]
    fn a_nan_is_the_largest_wherever_it_stands() {
        for place in [0, 600, 1024, 1100] {
            let mut values = vec![0.5; 1101];
            values[place] = f32::NAN;
            assert!(numbers(largest_per_row(row(values)))[0].is_nan(), "{place}");
        }
        let rising = (0..1101).map(|index| index as f32).collect();
        assert_eq!(numbers(largest_per_row(row(rising))), [1100.0]);
    }
}

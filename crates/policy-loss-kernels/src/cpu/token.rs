//! The mathematics of one token, composed at compile time from the parts of an objective.

use super::exp::Exponential;
use super::formula::{Formula, Given};
use super::lanes::Lanes;
use super::output::Output;
use super::parts::{Ratio, Weight};
use super::sums::LaneSums;

/// What is read for a token.
#[derive(Clone, Copy)]
pub struct Inputs<L: Lanes> {
    pub log_probs: L::Vector,
    pub old_log_probs: L::Vector,
    /// Equal to `old_log_probs` where the objective has no use for it.
    pub rollout_log_probs: L::Vector,
    pub advantage: L::Vector,
    pub valid: L::Mask,
}

/// The numbers of the objective.
#[derive(Clone, Copy)]
pub struct Constants<L: Lanes> {
    pub log_ratio_bound: L::Vector,
    pub negative_log_ratio_bound: L::Vector,
    /// `1 - low`.
    pub clip_low: L::Vector,
    /// `1 + high`.
    pub clip_high: L::Vector,
    pub dual_clip: L::Vector,
    /// Bounds of the weight of `log_probs`, and whether meeting them counts as clipped.
    pub positive_low: L::Vector,
    pub positive_high: L::Vector,
    pub positive_counts: L::Vector,
    pub negative_low: L::Vector,
    pub negative_high: L::Vector,
    pub negative_counts: L::Vector,
}

/// The numbers that the tokens of a row share.
#[derive(Clone, Copy)]
pub struct RowConstants<L: Lanes> {
    /// The ratio of the sequence, where there is one.
    pub ratio: L::Vector,
    /// Bounds of the weight.
    pub weight_low: L::Vector,
    pub weight_high: L::Vector,
    /// The row's part of the reduction's factor: `1 / n_b`, or 1.
    pub loss_factor: L::Vector,
    /// Minus the whole factor of the reduction.
    pub negative_gradient_factor: L::Vector,
}

/// A log-ratio within its bounds, and its exponential.
#[derive(Clone, Copy)]
pub struct BoundedRatio<L: Lanes> {
    pub exponential: Exponential<L>,
    /// The bound was reached: no gradient passes.
    pub saturated: L::Mask,
}

impl<L: Lanes> BoundedRatio<L> {
    #[inline(always)]
    pub fn new(lanes: L, constants: &Constants<L>, log_ratio: L::Vector) -> Self {
        let above = lanes.greater(log_ratio, constants.log_ratio_bound);
        let below = lanes.less(log_ratio, constants.negative_log_ratio_bound);
        let bounded = lanes.select(above, constants.log_ratio_bound, log_ratio);
        let bounded = lanes.select(below, constants.negative_log_ratio_bound, bounded);
        Self {
            exponential: Exponential::of_bounded(lanes, bounded),
            saturated: lanes.or(above, below),
        }
    }
}

/// What the parts of a token's loss are known to be when its output is formed.
#[derive(Clone, Copy)]
pub struct Surrogate<L: Lanes> {
    pub valid: L::Mask,
    /// `A * weight`.
    pub weighted_advantage: L::Vector,
    /// `ratio * A * weight`, before clipping: the gradient where nothing is constant.
    pub unclipped: L::Vector,
    /// What enters the loss.
    pub value: L::Vector,
    /// The value does not depend on `log_probs`.
    pub constant: L::Mask,
}

/// Adds a token to the sums and returns its output.
///
/// Everything is selected by the mask before it is exponentiated or multiplied, so that a
/// masked token enters each sum as an exact 0, whatever it holds.
#[inline(always)]
pub fn token<L: Lanes, R: Ratio, W: Weight, F: Formula, O: Output>(
    lanes: L,
    constants: &Constants<L>,
    row: &RowConstants<L>,
    inputs: &Inputs<L>,
    sums: &mut LaneSums<L>,
) -> L::Vector {
    let valid = inputs.valid;
    let advantage = lanes.keep(valid, inputs.advantage);

    let difference = lanes.sub(inputs.log_probs, inputs.old_log_probs);
    let log_ratio = lanes.keep(valid, difference);
    let against_old = BoundedRatio::new(lanes, constants, log_ratio);
    let k3 = against_old.exponential.minus_one_minus_x(lanes);
    sums.log_ratio = lanes.add(sums.log_ratio, log_ratio);
    sums.squared_log_ratio = lanes.mul_add(log_ratio, log_ratio, sums.squared_log_ratio);
    sums.k3 = lanes.add(sums.k3, k3);

    let (ratio, saturated) = R::ratio(lanes, constants, row, inputs, against_old, sums);

    let given = Given {
        advantage,
        ratio,
        saturated,
    };
    let surrogate = F::surrogate(lanes, constants, inputs, given, sums);
    let surrogate = W::apply(lanes, row, inputs, surrogate, sums);
    sums.surrogate = lanes.mul_add(surrogate.value, row.loss_factor, sums.surrogate);
    O::value(lanes, row, &surrogate)
}

//! The mathematics of one token, composed at compile time from the parts of an objective.

use crate::LOG_RATIO_BOUND;

use super::exp::Exponential;
use super::lanes::Lanes;
use super::output::Output;
use super::parts::Ratio;
use super::real::Real;
use super::sums::LaneSums;
use super::surrogates::SurrogatePart;
use super::weight::{RowWeightConstants, Weight, WeightConstants};

/// What is read for a token.
#[derive(Clone, Copy)]
pub struct Inputs<L: Lanes> {
    pub log_probs: L::Vector,
    pub old_log_probs: L::Vector,
    /// Equal to `old_log_probs` where the objective has no use for it.
    pub rollout_log_probs: L::Vector,
    /// Anything where the objective brings its own.
    pub weights: L::Vector,
    pub advantage: L::Vector,
    pub valid: L::Mask,
}

/// The numbers of the objective.
#[derive(Clone, Copy)]
pub struct Constants<L: Lanes> {
    /// The bounds of a log-ratio, the lower one first.
    pub log_ratio_bounds: [L::Vector; 2],
    /// Those of the surrogate; their meaning is its own.
    pub surrogate: [L::Vector; 4],
    pub weight: WeightConstants<L>,
}

/// The numbers that the tokens of a row share.
#[derive(Clone, Copy)]
pub struct RowConstants<L: Lanes> {
    /// The ratio of the sequence, where there is one.
    pub ratio: L::Vector,
    /// Above 0 where its logarithm reached a bound.
    pub saturated: L::Vector,
    /// What the surrogate makes of the sequence; the meaning is its own.
    pub surrogate: [L::Vector; 2],
    /// Above 0 where tokens with a negative advantage are dropped.
    pub drops_negative: L::Vector,
    pub weight: RowWeightConstants<L>,
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
    pub fn new(lanes: L, &[low, high]: &[L::Vector; 2], log_ratio: L::Vector) -> Self {
        let above = lanes.greater(log_ratio, high);
        let below = lanes.less(log_ratio, low);
        let bounded = lanes.select(above, high, log_ratio);
        let bounded = lanes.select(below, low, bounded);
        Self {
            exponential: Exponential::of_bounded(lanes, bounded),
            saturated: lanes.or(above, below),
        }
    }
}

/// The bounds of a log-ratio, the lower one first.
#[inline(always)]
pub fn log_ratio_bounds<L: Lanes>(lanes: L) -> [L::Vector; 2] {
    [-LOG_RATIO_BOUND, LOG_RATIO_BOUND].map(|bound| lanes.splat(L::Real::from_f64(bound)))
}

/// The ratio of a token, or that of its sequence.
#[derive(Clone, Copy)]
pub struct TokenRatio<L: Lanes> {
    pub value: L::Vector,
    /// Its logarithm for the token alone, not clamped.
    pub log_ratio: L::Vector,
    /// What it is taken against; anything for the ratio of a sequence.
    pub base: L::Vector,
    /// The logarithm reached a bound: no gradient passes.
    pub saturated: L::Mask,
}

/// The surrogate of a token, and how it changes.
#[derive(Clone, Copy)]
pub struct Surrogate<L: Lanes> {
    /// What enters the loss.
    pub value: L::Vector,
    /// Its derivative with respect to the token's log-probability.
    pub slope: L::Vector,
    /// Its derivative with respect to the ratio.
    pub ratio_slope: L::Vector,
    /// The value does not depend on `log_probs`, whatever the slopes are.
    pub constant: L::Mask,
}

/// Adds a token to the sums and returns its output.
///
/// Everything is selected by the mask before it is exponentiated or multiplied, so that a
/// masked token enters each sum as an exact 0, whatever it holds.
#[inline(always)]
pub fn token<L: Lanes, R: Ratio, W: Weight, S: SurrogatePart, O: Output>(
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
    let against_old = BoundedRatio::new(lanes, &constants.log_ratio_bounds, log_ratio);
    let k3 = against_old.exponential.minus_one_minus_x(lanes);
    sums.advantage = lanes.add(sums.advantage, advantage);
    sums.log_ratio = lanes.add(sums.log_ratio, log_ratio);
    sums.squared_log_ratio = lanes.mul_add(log_ratio, log_ratio, sums.squared_log_ratio);
    sums.k3 = lanes.add(sums.k3, k3);

    let ratio = R::ratio(
        lanes,
        constants,
        row,
        inputs,
        (log_ratio, against_old),
        sums,
    );
    let surrogate = S::of(lanes, constants, row, inputs, &ratio, advantage, sums);
    let surrogate = W::apply(lanes, constants, row, inputs, advantage, surrogate, sums);
    sums.surrogate = lanes.mul_add(surrogate.value, row.loss_factor, sums.surrogate);
    O::value(lanes, row, &surrogate)
}

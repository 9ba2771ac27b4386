//! The weights of tokens, from the gaps between the old policy and the sampler.

// Only a loop over a range can be unrolled.
#![allow(clippy::needless_range_loop)]

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements, Valid};
use super::gaps::{estimate, is_within};
use super::kinds::{ModeKind, WeightKind};
use super::parts::{clamped, within};
use super::sums::Sums;
use super::token::{Numbers, Row};
use crate::FilterLevel;

/// The constant that multiplies a token's loss.
#[derive(CubeType, Clone, Copy)]
pub struct Weighting<A: Float, N: Size> {
    /// `old_log_probs - rollout_log_probs`, 0 at masked tokens.
    pub gap: Vector<A, N>,
    /// Anything at masked tokens.
    pub weight: Vector<A, N>,
    /// It was moved to a bound.
    pub truncated: Vector<bool, N>,
    /// It was set to 0.
    pub rejected: Vector<bool, N>,
}

/// The weights of the tokens at `index`.
#[cube]
pub fn weighting<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    row: &Row<E::Real>,
    index: usize,
    #[comptime] blueprint: Blueprint,
) -> Weighting<E::Real, E::Width> {
    let valid = columns.valid(index);
    let gap = valid.keep(columns.old_log_probs(index) - columns.rollout_log_probs(index));
    let mut rho = gap.exp();
    if comptime!(blueprint.weight == WeightKind::Given) {
        rho = valid.keep(columns.weights(index));
    } else if comptime!(blueprint.weight != WeightKind::Token) {
        rho = Vector::new(row.weight);
    }
    let low = numbers.weight_low.get::<E::Real>();
    let high = numbers.weight_high.get::<E::Real>();
    let mut weight = rho;
    let mut truncated = Vector::new(false);
    let mut rejected = Vector::new(row.rejected);
    if comptime!(blueprint.mode == ModeKind::Truncate) {
        weight = clamped(rho, low, high);
        // Not a NaN, which stays one.
        truncated = rho
            .less_than(&Vector::new(low))
            .or(rho.greater_than(&Vector::new(high)));
    } else if comptime!(blueprint.mode == ModeKind::Mask) {
        rejected = rejected.or(!within(rho, low, high));
    }
    let filters = comptime!(blueprint.filters());
    #[unroll]
    for k in 0..comptime!(filters.len()) {
        let (level, estimator) = comptime!(filters[k]);
        if comptime!(level == FilterLevel::Token) {
            let statistic = estimate(gap, estimator, comptime!(blueprint.double));
            rejected = rejected.or(!is_within(numbers, statistic, k, estimator));
        }
    }
    Weighting::<E::Real, E::Width> {
        gap,
        // Selected, not multiplied: infinity times 0 would be NaN.
        weight: select_many(rejected, Vector::new(E::Real::new(0.0)), weight),
        truncated,
        rejected,
    }
}

/// Adds weights to the sums.
#[cube]
pub fn add_weights<A: Float, N: Size>(
    sums: &mut Sums<A>,
    valid: &Valid<N>,
    weighting: &Weighting<A, N>,
) {
    let kept = valid.keep(weighting.weight);
    sums.log_weight += weighting.gap.vector_sum();
    sums.weight += kept.vector_sum();
    sums.squared_weight += (kept * kept).vector_sum();
    sums.truncated_weight += valid.count::<A>(weighting.truncated);
    sums.zeroed_weight += valid.count::<A>(weighting.rejected);
}

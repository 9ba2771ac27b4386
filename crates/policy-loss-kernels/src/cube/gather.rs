//! What is known of a sequence before its tokens are visited.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements};
use super::gaps::Gaps;
use super::lanes::Lanes;
use super::of_sequence::{addends, of_row};
use super::parts::bounded;
use super::sums::end_of_stretch;
use super::token::{Numbers, Row};

/// Sums over a sequence that the visit of its tokens needs. A sum that the objective does not
/// use stays 0.
#[derive(CubeType, Clone, Copy)]
pub struct Statistics<A: Float> {
    pub valid_tokens: A,
    log_ratio: A,
    gaps: Gaps<A>,
    /// As the surrogate bounds them.
    bounded_log_ratio: A,
    advantage: A,
}

#[cube]
impl<A: Float> Statistics<A> {
    /// The number of valid tokens, or 1.
    pub fn count(&self) -> A {
        let one = A::new(1.0);
        select(self.valid_tokens > one, self.valid_tokens, one)
    }
}

#[cube]
pub fn gather<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    sequence: usize,
    start: usize,
    end: usize,
    vectors_per_row: usize,
    lanes: &mut Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> Statistics<E::Real> {
    let mut valid_tokens = E::Real::new(0.0);
    let mut log_ratio = E::Real::new(0.0);
    let mut gaps = Gaps::<E::Real>::new();
    let mut bounded_log_ratio = E::Real::new(0.0);
    let mut advantage = E::Real::new(0.0);
    let sums = comptime!(
        blueprint.adds_log_ratios()
            || blueprint.gathers_gaps()
            || blueprint.surrogate.is_of_sequence()
    );
    if comptime!(blueprint.masked || sums) {
        let step = lanes.count();
        let mut index = start;
        while index < end {
            let stop = end_of_stretch(index, end, step);
            let mut stretch_of_log_ratio = E::Real::new(0.0);
            let mut stretch_of_gaps = Gaps::<E::Real>::new();
            let mut stretch_of_bounded = E::Real::new(0.0);
            let mut stretch_of_advantage = E::Real::new(0.0);
            while index < stop {
                let valid = columns.valid(index);
                if comptime!(blueprint.masked) {
                    valid_tokens += valid.total::<E::Real>();
                }
                if comptime!(blueprint.adds_log_ratios()) {
                    let difference = columns.log_probs(index) - columns.base(index, blueprint);
                    stretch_of_log_ratio += valid.keep(difference).vector_sum();
                }
                if comptime!(blueprint.surrogate.is_of_sequence()) {
                    let difference = columns.log_probs(index) - columns.base(index, blueprint);
                    let advantages = valid.keep(columns.advantages(index, sequence));
                    let addends = addends(numbers, valid.keep(difference), advantages, blueprint);
                    stretch_of_bounded += addends.log_ratio.vector_sum();
                    stretch_of_advantage += addends.advantage.vector_sum();
                }
                if comptime!(blueprint.gathers_gaps()) {
                    let gap = columns.old_log_probs(index) - columns.rollout_log_probs(index);
                    stretch_of_gaps.add_tokens(gap, &valid, blueprint);
                }
                index += step;
            }
            log_ratio += stretch_of_log_ratio;
            if comptime!(blueprint.gathers_gaps()) {
                gaps.add(&stretch_of_gaps);
            }
            bounded_log_ratio += stretch_of_bounded;
            advantage += stretch_of_advantage;
        }
    }
    if comptime!(blueprint.masked) {
        valid_tokens = lanes.sum(valid_tokens);
    } else {
        valid_tokens = E::Real::cast_from(vectors_per_row * E::Width::value());
    }
    if comptime!(blueprint.adds_log_ratios()) {
        log_ratio = lanes.sum(log_ratio);
    }
    if comptime!(blueprint.surrogate.is_of_sequence()) {
        bounded_log_ratio = lanes.sum(bounded_log_ratio);
        advantage = lanes.sum(advantage);
    }
    if comptime!(blueprint.gathers_gaps()) {
        gaps.add_lanes(lanes, blueprint);
    }
    Statistics::<E::Real> {
        valid_tokens,
        log_ratio,
        gaps,
        bounded_log_ratio,
        advantage,
    }
}

/// What the tokens of a sequence share.
#[cube]
pub fn share<A: Float>(
    statistics: &Statistics<A>,
    numbers: &Numbers,
    #[comptime] blueprint: Blueprint,
) -> Row<A> {
    let one = A::new(1.0);
    let count = statistics.count();
    let mut row = Row::<A>::unused();
    if comptime!(blueprint.sequence_mean) {
        row.factor = one / count;
    }
    if comptime!(blueprint.sequence_ratio) {
        let mut divisor = count;
        if comptime!(blueprint.product_ratio) {
            divisor = one;
        }
        let log_ratio = bounded(Vector::<A, Const<1>>::new(statistics.log_ratio / divisor));
        let ratio = log_ratio.log_ratio.exp().extract(0usize);
        let saturated = log_ratio.beyond.extract(0usize);
        row.ratio = ratio;
        row.saturated = saturated;
        row.ratio_slope = select(saturated, A::new(0.0), ratio / divisor);
    }
    if comptime!(blueprint.off_policy) {
        // Not where a NaN is, which must be seen.
        let mean = statistics.log_ratio / count;
        row.drops_negative = mean < numbers.least_log_ratio.get::<A>();
    }
    if comptime!(blueprint.surrogate.is_of_sequence()) {
        let sum = statistics.bounded_log_ratio;
        let of_row = of_row::<A>(numbers, sum, statistics.advantage, count, blueprint);
        row.surrogate_first = of_row.first;
        row.surrogate_second = of_row.second;
    }
    if comptime!(blueprint.gathers_gaps()) {
        row.weight = statistics.gaps.weight(count, blueprint);
        row.rejected = statistics.gaps.rejected(numbers, count, blueprint);
    }
    row
}

//! The visit for objectives in which a token needs to know something of its sequence: a row of
//! lanes takes a sequence as a whole, first for the sequence's own numbers, then for its tokens.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements};
use super::lanes::{Division, Lanes};
use super::of_sequence::{addends, of_row};
use super::parts::{bounded, within};
use super::penalty::{TokenRatio, penalty};
use super::sums::{Sums, end_of_stretch};
use super::token::{Numbers, Row, token};

#[cube]
pub fn by_rows<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    gradient: &mut [Vector<E::LogProbs, E::Width>],
    sums: &mut Sums<E::Real>,
    sequences: usize,
    vectors_per_row: usize,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
) {
    let mut lanes = Lanes::<E::Real>::new(division);
    let rows = comptime!(division.rows());
    let step = comptime!(division.lanes as usize);

    let mut first = CUBE_POS * rows;
    // The same number of turns for all units of a cube: they add up together.
    while first < sequences {
        let sequence = first + lanes.row;
        let start = sequence * vectors_per_row;
        let end = select(sequence < sequences, start + vectors_per_row, start);
        let start = start + lanes.lane;

        let statistics = gather::<E>(
            columns,
            numbers,
            sequence,
            start,
            end,
            vectors_per_row,
            &mut lanes,
            blueprint,
        );
        let row = share(&statistics, numbers, blueprint);
        let speaks = sequence < sequences && lanes.lane == 0;
        if comptime!(blueprint.masked) {
            let valid = statistics.valid_tokens > E::Real::new(0.0);
            sums.count_sequence(valid && speaks);
        }
        if comptime!(blueprint.sequence_ratio) {
            let tokens = select(speaks, statistics.valid_tokens, E::Real::new(0.0));
            sums.add_sequence_ratio(row.ratio, tokens);
        }

        let mut slope = E::Real::new(0.0);
        let mut index = start;
        while index < end {
            let stop = end_of_stretch(index, end, step);
            let mut stretch = Sums::<E::Real>::new();
            while index < stop {
                let own = token::<E>(
                    columns,
                    numbers,
                    &row,
                    index,
                    sequence,
                    &mut stretch,
                    blueprint,
                );
                if comptime!(blueprint.with_gradient && !blueprint.shares_gradient) {
                    gradient[index] = Vector::cast_from(own);
                }
                index += step;
            }
            slope += stretch.slope;
            sums.add(&stretch);
        }

        if comptime!(blueprint.with_gradient && blueprint.shares_gradient) {
            // d ratio / d log_probs of a valid token is ratio / n_b, or ratio for the product,
            // and 0 beyond the bounds.
            let slope = lanes.sum(slope) * row.ratio_slope;
            let mut index = start;
            while index < end {
                let mut slopes = Vector::<E::Real, E::Width>::new(slope);
                if comptime!(blueprint.penalized()) {
                    // Its ratio is constant for the token: what flows through it is in `slope`.
                    let ratio = TokenRatio::<E::Real, E::Width> {
                        value: Vector::new(row.ratio),
                        constant: Vector::new(true),
                    };
                    let penalty = penalty::<E>(columns, numbers, &row, index, &ratio, blueprint);
                    slopes += penalty.slope * penalty.factor;
                }
                gradient[index] = Vector::cast_from(columns.valid(index).keep(slopes));
                index += step;
            }
        }
        first += CUBE_COUNT * rows;
    }
}

/// Sums over a sequence that the visit of its tokens needs. A sum that the objective does not
/// use stays 0.
#[derive(CubeType, Clone, Copy)]
struct Statistics<A: Float> {
    valid_tokens: A,
    log_ratio: A,
    log_weight: A,
    /// As the surrogate bounds them.
    bounded_log_ratio: A,
    advantage: A,
}

#[cube]
fn gather<E: Elements>(
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
    let mut log_weight = E::Real::new(0.0);
    let mut bounded_log_ratio = E::Real::new(0.0);
    let mut advantage = E::Real::new(0.0);
    let sums = comptime!(
        blueprint.adds_log_ratios()
            || blueprint.sequence_weight()
            || blueprint.surrogate.is_of_sequence()
    );
    if comptime!(blueprint.masked || sums) {
        let step = lanes.count();
        let mut index = start;
        while index < end {
            let stop = end_of_stretch(index, end, step);
            let mut stretch_of_log_ratio = E::Real::new(0.0);
            let mut stretch_of_log_weight = E::Real::new(0.0);
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
                if comptime!(blueprint.sequence_weight()) {
                    let difference =
                        columns.old_log_probs(index) - columns.rollout_log_probs(index);
                    stretch_of_log_weight += valid.keep(difference).vector_sum();
                }
                index += step;
            }
            log_ratio += stretch_of_log_ratio;
            log_weight += stretch_of_log_weight;
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
    if comptime!(blueprint.sequence_weight()) {
        log_weight = lanes.sum(log_weight);
    }
    Statistics::<E::Real> {
        valid_tokens,
        log_ratio,
        log_weight,
        bounded_log_ratio,
        advantage,
    }
}

/// What the tokens of a sequence share.
#[cube]
fn share<A: Float>(
    statistics: &Statistics<A>,
    numbers: &Numbers,
    #[comptime] blueprint: Blueprint,
) -> Row<A> {
    let one = A::new(1.0);
    let count = select(statistics.valid_tokens > one, statistics.valid_tokens, one);
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
    if comptime!(blueprint.sequence_weight()) {
        let mean = Vector::<A, Const<1>>::new(statistics.log_weight / count);
        let low = numbers.weight_low.get::<A>();
        let high = numbers.weight_high.get::<A>();
        row.accepted = within(mean.exp(), low, high).extract(0usize);
    }
    row
}

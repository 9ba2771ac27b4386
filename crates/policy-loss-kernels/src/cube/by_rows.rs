//! The visit for objectives in which a token needs to know something of its sequence: a row of
//! lanes takes a sequence as a whole, first for the sequence's own numbers, then for its tokens.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements};
use super::lanes::{Division, Lanes};
use super::parts::{bounded, within};
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

        let statistics = gather::<E>(columns, start, end, vectors_per_row, &mut lanes, blueprint);
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
                if comptime!(blueprint.with_gradient && !blueprint.sequence_ratio) {
                    gradient[index] = Vector::cast_from(own);
                }
                index += step;
            }
            slope += stretch.slope;
            sums.add(&stretch);
        }

        if comptime!(blueprint.with_gradient && blueprint.sequence_ratio) {
            // d ratio / d log_probs of a valid token is ratio / n_b, and 0 beyond the bounds.
            let slope = lanes.sum(slope) * row.ratio_slope;
            let mut index = start;
            while index < end {
                let slopes = Vector::<E::Real, E::Width>::new(slope);
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
}

#[cube]
fn gather<E: Elements>(
    columns: &Columns<E>,
    start: usize,
    end: usize,
    vectors_per_row: usize,
    lanes: &mut Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> Statistics<E::Real> {
    let mut valid_tokens = E::Real::new(0.0);
    let mut log_ratio = E::Real::new(0.0);
    let mut log_weight = E::Real::new(0.0);
    if comptime!(blueprint.masked || blueprint.sequence_ratio || blueprint.sequence_weight()) {
        let step = lanes.count();
        let mut index = start;
        while index < end {
            let stop = end_of_stretch(index, end, step);
            let mut stretch_of_log_ratio = E::Real::new(0.0);
            let mut stretch_of_log_weight = E::Real::new(0.0);
            while index < stop {
                let valid = columns.valid(index);
                if comptime!(blueprint.masked) {
                    valid_tokens += valid.total::<E::Real>();
                }
                if comptime!(blueprint.sequence_ratio) {
                    let difference = columns.log_probs(index) - columns.base(index, blueprint);
                    stretch_of_log_ratio += valid.keep(difference).vector_sum();
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
        }
    }
    if comptime!(blueprint.masked) {
        valid_tokens = lanes.sum(valid_tokens);
    } else {
        valid_tokens = E::Real::cast_from(vectors_per_row * E::Width::value());
    }
    if comptime!(blueprint.sequence_ratio) {
        log_ratio = lanes.sum(log_ratio);
    }
    if comptime!(blueprint.sequence_weight()) {
        log_weight = lanes.sum(log_weight);
    }
    Statistics::<E::Real> {
        valid_tokens,
        log_ratio,
        log_weight,
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
        let mean = bounded(Vector::<A, Const<1>>::new(statistics.log_ratio / count));
        let ratio = mean.log_ratio.exp().extract(0usize);
        row.ratio = ratio;
        row.ratio_slope = select(mean.beyond.extract(0usize), A::new(0.0), ratio / count);
    }
    if comptime!(blueprint.sequence_weight()) {
        let mean = Vector::<A, Const<1>>::new(statistics.log_weight / count);
        let low = numbers.weight_low.get::<A>();
        let high = numbers.weight_high.get::<A>();
        row.accepted = within(mean.exp(), low, high).extract(0usize);
    }
    row
}

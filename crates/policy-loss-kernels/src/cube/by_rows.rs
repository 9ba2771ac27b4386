//! The visit for objectives in which a token needs to know something of its sequence: a row of
//! lanes takes a sequence as a whole, first for the sequence's own numbers, then for its tokens.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements};
use super::correction::weighting;
use super::gather::{gather, share};
use super::lanes::{Division, Lanes};
use super::penalty::{TokenRatio, penalty};
use super::sums::{Sums, end_of_stretch};
use super::token::{Numbers, Row, dropped, token};

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
        let mut row = share(&statistics, numbers, blueprint);
        if comptime!(blueprint.adds_weights()) {
            let own = kept_weight::<E>(
                columns, numbers, &row, sequence, start, end, step, blueprint,
            );
            row.surrogate_second *= lanes.sum(own) / statistics.count();
        }
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

/// The sum of the weights of a unit's tokens that are not dropped.
#[cube]
fn kept_weight<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    row: &Row<E::Real>,
    sequence: usize,
    start: usize,
    end: usize,
    #[comptime] step: usize,
    #[comptime] blueprint: Blueprint,
) -> E::Real {
    let zero = Vector::new(E::Real::new(0.0));
    let mut sum = E::Real::new(0.0);
    let mut index = start;
    while index < end {
        let stop = end_of_stretch(index, end, step);
        let mut stretch = E::Real::new(0.0);
        while index < stop {
            let valid = columns.valid(index);
            let mut weight = Vector::new(E::Real::new(1.0));
            if comptime!(blueprint.weighted()) {
                weight = weighting::<E>(columns, numbers, row, index, blueprint).weight;
            }
            if comptime!(blueprint.off_policy) {
                let advantage = valid.keep(columns.advantages(index, sequence));
                weight = select_many(dropped(row, advantage), zero, weight);
            }
            stretch += valid.keep(weight).vector_sum();
            index += step;
        }
        sum += stretch;
    }
    sum
}

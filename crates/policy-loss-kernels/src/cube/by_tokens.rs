//! The visit for objectives in which a token needs nothing of its sequence: cubes take blocks
//! of tokens, whatever the shape of the batch.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements};
use super::lanes::{Division, Lanes};
use super::sums::{Sums, end_of_stretch};
use super::token::{Numbers, Row, token};

#[cube]
pub fn by_tokens<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    gradient: &mut [Vector<E::LogProbs, E::Width>],
    sums: &mut Sums<E::Real>,
    sequences: usize,
    vectors_per_row: usize,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
) {
    let vectors = sequences * vectors_per_row;
    let step = CUBE_COUNT * comptime!(division.cube_size as usize);
    let row = Row::<E::Real>::unused();
    let mut index = CUBE_POS * comptime!(division.cube_size as usize) + UNIT_POS as usize;
    while index < vectors {
        let stop = end_of_stretch(index, vectors, step);
        let mut stretch = Sums::<E::Real>::new();
        while index < stop {
            let sequence = index / vectors_per_row;
            let own = token::<E>(
                columns,
                numbers,
                &row,
                index,
                sequence,
                &mut stretch,
                blueprint,
            );
            if comptime!(blueprint.with_gradient) {
                gradient[index] = Vector::cast_from(own);
            }
            index += step;
        }
        sums.add(&stretch);
    }
    if comptime!(blueprint.masked) {
        count_sequences::<E>(columns, sequences, vectors_per_row, sums, division);
    }
}

/// Counts the sequences with a valid token. A row of lanes looks through a sequence until each
/// lane has found one, which is soon: masked tokens come in runs.
#[cube]
fn count_sequences<E: Elements>(
    columns: &Columns<E>,
    sequences: usize,
    vectors_per_row: usize,
    sums: &mut Sums<E::Real>,
    #[comptime] division: Division,
) {
    let mut lanes = Lanes::<E::Real>::new(division);
    let rows = comptime!(division.rows());
    let nothing = E::Real::new(0.0);
    let mut first = CUBE_POS * rows;
    // The same number of turns for all units of a cube: they add up together.
    while first < sequences {
        let sequence = first + lanes.row;
        let start = sequence * vectors_per_row;
        let end = select(sequence < sequences, start + vectors_per_row, start);
        let mut found = nothing;
        let mut index = start + lanes.lane;
        while index < end && found == nothing {
            found = columns.valid(index).total::<E::Real>();
            index += lanes.count();
        }
        let found = lanes.sum(found) > nothing;
        sums.count_sequence(found && lanes.lane == 0);
        first += CUBE_COUNT * rows;
    }
}

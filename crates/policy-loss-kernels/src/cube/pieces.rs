//! The visit for few and very long sequences: each is divided into pieces, one for a cube, so that
//! a single sequence fills the device. What the tokens of a sequence share is made of the sums of its
//! pieces, which a kernel of its own adds up first.

use cubecl::prelude::*;

use super::columns::{Gradients, Inputs, Part, Types};
use super::lanes::{Division, Lanes};
use super::partials::write_partials;
use super::visit::{add_shared, gather_tokens, no_tokens, shared_row, visit_tokens};
use crate::blueprint::Blueprint;
use crate::formula::row_sums::RowSum;
use crate::formula::row_sums::gpu::RowSums;
use crate::sums::gpu::Sums;

/// How sequences are divided into pieces.
#[derive(CubeType, CubeLaunch)]
pub struct Pieces {
    /// Pieces in a sequence.
    pub count: usize,
    /// Vectors in a piece; the last of a sequence may have fewer.
    pub vectors: usize,
}

#[cube]
impl Pieces {
    fn piece<E: Types>(&self, inputs: &Inputs<E>, number: usize) -> Part {
        let sequence = number / self.count;
        let place = number % self.count;
        let first = sequence * inputs.vectors_per_row;
        let end = first + inputs.vectors_per_row;
        let start = first + place * self.vectors;
        let stop = start + self.vectors;
        Part {
            sequence,
            counts: place == 0,
            start: select(start < end, start, end),
            end: select(stop < end, stop, end),
        }
    }
}

/// Writes the sums of each piece to its column of `row_sums`, `[sums, pieces]`.
#[cube(launch_unchecked)]
pub fn gather_pieces<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    row_sums: &mut [A],
    pieces: &Pieces,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(O, R, V, M, A)] _types: [ElemType; 5],
) {
    let mut lanes = Lanes::<A>::new(division);
    let total = inputs.sequences * pieces.count;
    let mut number = CUBE_POS;
    while number < total {
        let piece = pieces.piece(inputs, number);
        let sums = gather_tokens(inputs, &piece, &mut lanes, blueprint);
        if lanes.lane == 0 {
            let needed = comptime!(RowSum::needed(&blueprint));
            sums.write(row_sums, number, total, needed);
        }
        number += CUBE_COUNT;
    }
}

/// The sums of a sequence, from those of its pieces.
#[cube]
fn read_sums<E: Types>(
    inputs: &Inputs<E>,
    row_sums: &[E::Real],
    pieces: &Pieces,
    sequence: usize,
    lanes: &mut Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> RowSums<E> {
    let mut sums = no_tokens(inputs, blueprint);
    let first = sequence * pieces.count;
    let total = inputs.sequences * pieces.count;
    let needed = comptime!(RowSum::needed(&blueprint));
    sums.read(row_sums, first, pieces.count, total, lanes, needed);
    sums
}

/// Visits the tokens: as the kernel for whole sequences, but for what flows through a ratio that
/// tokens share, whose slopes are written to `slopes`, one for each piece.
#[cube(launch_unchecked)]
pub fn visit_pieces<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    row_sums: &[A],
    slopes: &mut [A],
    gradients: &mut Gradients<(O, R, V, M, A, N)>,
    partials: &mut [A],
    pieces: &Pieces,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(O, R, V, M, A)] _types: [ElemType; 5],
) {
    let mut lanes = Lanes::<A>::new(division);
    let mut sums = Sums::<(O, R, V, M, A, N)>::new();
    let mut number = CUBE_POS;
    while number < inputs.sequences * pieces.count {
        let piece = pieces.piece(inputs, number);
        let sequence = piece.sequence;
        let own = read_sums(inputs, row_sums, pieces, sequence, &mut lanes, blueprint);
        let row = shared_row(inputs, &own, sequence, blueprint);
        let tokens = own.tokens;
        let slope = visit_tokens(
            inputs, &row, tokens, gradients, &mut sums, &piece, &lanes, blueprint,
        );
        if comptime!(blueprint.with_gradient && blueprint.shares_gradient()) {
            let slope = lanes.sum(slope);
            if lanes.lane == 0 {
                slopes[number] = slope;
            }
        }
        number += CUBE_COUNT;
    }
    write_partials(&sums, partials, blueprint);
}

/// Adds what flows through the ratio that the tokens of a sequence share.
#[cube(launch_unchecked)]
pub fn finish_pieces<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    row_sums: &[A],
    slopes: &[A],
    gradients: &mut Gradients<(O, R, V, M, A, N)>,
    pieces: &Pieces,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(O, R, V, M, A)] _types: [ElemType; 5],
) {
    let mut lanes = Lanes::<A>::new(division);
    let mut number = CUBE_POS;
    while number < inputs.sequences * pieces.count {
        let piece = pieces.piece(inputs, number);
        let sequence = piece.sequence;
        let own = read_sums(inputs, row_sums, pieces, sequence, &mut lanes, blueprint);
        let row = shared_row(inputs, &own, sequence, blueprint);
        let mut slope = A::new(0.0);
        let mut other = lanes.lane;
        while other < pieces.count {
            slope += slopes[sequence * pieces.count + other];
            other += lanes.count();
        }
        let shared = Vector::new(lanes.sum(slope)) * row.log_ratio_slope;
        add_shared(inputs, gradients, shared, &piece, &lanes, blueprint);
        number += CUBE_COUNT;
    }
}

//! The visit for few and very long sequences: each is divided into pieces, one for a cube, so that
//! a single sequence fills the device. What the tokens of a sequence share is made of the sums of its
//! pieces, which a kernel of its own adds up first.

use cubecl::prelude::*;

use super::columns::{Gradients, Inputs, Types};
use super::lanes::{Division, Lanes};
use super::partials::write_partials;
use super::visit::{add_row, add_shared, gather_tokens, visit_tokens};
use crate::blueprint::Blueprint;
use crate::formula::row::gpu::{Row, share};
use crate::formula::row_sums::RowSum;
use crate::formula::row_sums::gpu::RowSums;
use crate::numbers::gpu::NumberArguments;
use crate::sums::gpu::Sums;

/// How sequences are divided into pieces.
#[derive(CubeType, CubeLaunch)]
pub struct Pieces {
    pub sequences: usize,
    /// Vectors in a sequence.
    pub vectors_per_row: usize,
    /// Pieces in a sequence.
    pub count: usize,
    /// Vectors in a piece; the last of a sequence may have fewer.
    pub vectors: usize,
}

/// One piece: its sequence, and its vectors.
#[derive(CubeType)]
struct Piece {
    sequence: usize,
    is_first: bool,
    start: usize,
    end: usize,
}

#[cube]
impl Pieces {
    /// Pieces of all sequences.
    fn total(&self) -> usize {
        self.sequences * self.count
    }

    fn piece(&self, number: usize) -> Piece {
        let sequence = number / self.count;
        let place = number % self.count;
        let first = sequence * self.vectors_per_row;
        let end = first + self.vectors_per_row;
        let start = first + place * self.vectors;
        let stop = start + self.vectors;
        Piece {
            sequence,
            is_first: place == 0,
            start: select(start < end, start, end),
            end: select(stop < end, stop, end),
        }
    }
}

/// Writes the sums of each piece to its column of `row_sums`, `[sums, pieces]`.
#[cube(launch_unchecked)]
pub fn gather_pieces<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    numbers: &NumberArguments,
    row_sums: &mut [A],
    pieces: &Pieces,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(O, R, V, M, A)] _types: [ElemType; 5],
) {
    let mut lanes = Lanes::<A>::new(division);
    let total = pieces.total();
    let mut number = CUBE_POS;
    while number < total {
        let piece = pieces.piece(number);
        let sums = gather_tokens::<(O, R, V, M, A, N)>(
            inputs,
            numbers,
            piece.sequence,
            piece.start + lanes.lane,
            piece.end,
            &mut lanes,
            blueprint,
        );
        if lanes.lane == 0 {
            sums.write(
                row_sums,
                number,
                total,
                comptime!(RowSum::needed(&blueprint)),
            );
        }
        number += CUBE_COUNT;
    }
}

/// What the tokens of a sequence share, from the sums of its pieces.
#[cube]
fn shared_row<E: Types>(
    inputs: &Inputs<E>,
    numbers: &NumberArguments,
    row_sums: &[E::Real],
    pieces: &Pieces,
    sequence: usize,
    lanes: &mut Lanes<E::Real>,
    tokens: &mut E::Real,
    #[comptime] blueprint: Blueprint,
) -> Row<E> {
    let mut sums = RowSums::<E>::new();
    let first = sequence * pieces.count;
    let total = pieces.total();
    let needed = comptime!(RowSum::needed(&blueprint));
    sums.read(row_sums, first, pieces.count, total, lanes, needed);
    if comptime!(!blueprint.masked) {
        sums.tokens = E::Real::cast_from(pieces.vectors_per_row * E::Width::value());
    }
    *tokens = sums.tokens;
    let row = share::<E>(numbers, &sums, Vector::new(E::Real::new(0.0)), blueprint);
    inputs.of_sequence(row, sequence)
}

/// Visits the tokens: as the kernel for whole sequences, but for what flows through a ratio that
/// tokens share, whose slopes are written to `slopes`, one for each piece.
#[cube(launch_unchecked)]
pub fn visit_pieces<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    numbers: &NumberArguments,
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
    let step = comptime!(division.lanes as usize);
    let total = pieces.total();
    let mut number = CUBE_POS;
    while number < total {
        let piece = pieces.piece(number);
        let mut tokens = A::new(0.0);
        let row = shared_row::<(O, R, V, M, A, N)>(
            inputs,
            numbers,
            row_sums,
            pieces,
            piece.sequence,
            &mut lanes,
            &mut tokens,
            blueprint,
        );
        let speaks = piece.is_first && lanes.lane == 0;
        let counted = select(speaks, tokens, A::new(0.0));
        add_row::<(O, R, V, M, A, N)>(&mut sums, &row, counted, blueprint);
        let slope = visit_tokens::<(O, R, V, M, A, N)>(
            inputs,
            numbers,
            &row,
            gradients,
            &mut sums,
            piece.sequence,
            piece.start + lanes.lane,
            piece.end,
            step,
            blueprint,
        );
        if comptime!(blueprint.with_gradient && blueprint.shares_gradient()) {
            let slope = lanes.sum(slope);
            if lanes.lane == 0 {
                slopes[number] = slope;
            }
        }
        number += CUBE_COUNT;
    }
    let cube_size = comptime!(division.cube_size);
    write_partials::<(O, R, V, M, A, N)>(&sums, partials, cube_size, blueprint);
}

/// Adds what flows through the ratio that the tokens of a sequence share.
#[cube(launch_unchecked)]
pub fn finish_pieces<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    numbers: &NumberArguments,
    row_sums: &[A],
    slopes: &[A],
    gradients: &mut Gradients<(O, R, V, M, A, N)>,
    pieces: &Pieces,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(O, R, V, M, A)] _types: [ElemType; 5],
) {
    let mut lanes = Lanes::<A>::new(division);
    let step = comptime!(division.lanes as usize);
    let total = pieces.total();
    let mut number = CUBE_POS;
    while number < total {
        let piece = pieces.piece(number);
        let mut tokens = A::new(0.0);
        let row = shared_row::<(O, R, V, M, A, N)>(
            inputs,
            numbers,
            row_sums,
            pieces,
            piece.sequence,
            &mut lanes,
            &mut tokens,
            blueprint,
        );
        let mut slope = A::new(0.0);
        let mut other = lanes.lane;
        while other < pieces.count {
            slope += slopes[piece.sequence * pieces.count + other];
            other += step;
        }
        let shared = Vector::new(lanes.sum(slope)) * row.log_ratio_slope;
        let start = piece.start + lanes.lane;
        add_shared::<(O, R, V, M, A, N)>(
            inputs, gradients, shared, start, piece.end, step, blueprint,
        );
        number += CUBE_COUNT;
    }
}

//! The visit of all tokens: one kernel, composed of the parts that an objective asks for.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::by_rows::by_rows;
use super::by_tokens::by_tokens;
use super::columns::Columns;
use super::lanes::Division;
use super::sums::{Sums, write_partials};
use super::token::Numbers;

/// Writes the gradient of each token, and the sums of each cube to its column of `partials`,
/// `[slots, cubes]`.
#[cube(launch_unchecked)]
pub fn visit<L: Float, O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    columns: &Columns<(L, O, R, V, M, A, N)>,
    numbers: &Numbers,
    gradient: &mut [Vector<L, N>],
    partials: &mut [A],
    sequences: usize,
    vectors_per_row: usize,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(L, O, R, V, M, A)] _types: [ElemType; 6],
) {
    let mut sums = Sums::<A>::new();
    if comptime!(blueprint.by_rows()) {
        by_rows::<(L, O, R, V, M, A, N)>(
            columns,
            numbers,
            gradient,
            &mut sums,
            sequences,
            vectors_per_row,
            division,
            blueprint,
        );
    } else {
        by_tokens::<(L, O, R, V, M, A, N)>(
            columns,
            numbers,
            gradient,
            &mut sums,
            sequences,
            vectors_per_row,
            division,
            blueprint,
        );
    }
    write_partials::<A>(&sums, partials, comptime!(division.cube_size), blueprint);
}

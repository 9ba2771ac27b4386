//! The visit of all tokens: one kernel, composed of the parts that an objective asks for.

use cubecl::prelude::*;

use super::columns::{Gradients, Inputs, Part, Types};
use super::geometry::CUBE_SIZE;
use super::lanes::{Division, Lanes};
use super::partials::write_partials;
use super::words::{count, mean};
use crate::blueprint::Blueprint;
use crate::formula::parts::gpu::keep;
use crate::formula::rollout::gpu::kept_weight;
use crate::formula::row::gpu::{Row, gather, share, unshared};
use crate::formula::row_sums::RowSum;
use crate::formula::row_sums::gpu::RowSums;
use crate::formula::token::gpu::token;
use crate::sums::gpu::Sums;

/// Vectors that a unit adds up in one go.
///
/// Sums are made of the sums of stretches, because rounding errors grow with the number of addends,
/// and one sequence can have a hundred thousand tokens.
const STRETCH: usize = 16;

/// Writes the gradients of each token, and the sums of each cube to its column of `partials`,
/// `[sums, cubes]`.
#[cube(launch_unchecked)]
pub fn visit<O: Float, R: Float, V: Float, M: Int, A: Float, N: Size>(
    inputs: &Inputs<(O, R, V, M, A, N)>,
    gradients: &mut Gradients<(O, R, V, M, A, N)>,
    partials: &mut [A],
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
    #[define(O, R, V, M, A)] _types: [ElemType; 5],
) {
    let mut sums = Sums::<(O, R, V, M, A, N)>::new();
    if comptime!(blueprint.by_rows()) {
        by_rows(inputs, gradients, &mut sums, division, blueprint);
    } else {
        by_tokens(inputs, gradients, &mut sums, division, blueprint);
    }
    write_partials(&sums, partials, blueprint);
}

/// For objectives in which a token needs nothing of its sequence: cubes take blocks of tokens,
/// whatever the shape of the batch.
#[cube]
fn by_tokens<E: Types>(
    inputs: &Inputs<E>,
    gradients: &mut Gradients<E>,
    sums: &mut Sums<E>,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
) {
    let vectors = inputs.sequences * inputs.vectors_per_row;
    let step = CUBE_COUNT * comptime!(CUBE_SIZE as usize);
    let row = inputs.of_batch(unshared::<E>(Vector::new(E::Real::new(0.0))));
    let mut index = CUBE_POS * comptime!(CUBE_SIZE as usize) + UNIT_POS as usize;
    while index < vectors {
        let stop = end_of_stretch(index, vectors, step);
        let mut stretch = Sums::<E>::new();
        while index < stop {
            let sequence = index / inputs.vectors_per_row;
            let tokens = inputs.tokens(index, sequence, blueprint);
            let own = token::<E>(&inputs.numbers, &row, &tokens, &mut stretch, blueprint);
            gradients.write(index, &own, blueprint);
            index += step;
        }
        sums.add(&stretch);
    }
    if comptime!(blueprint.masked) {
        count_sequences::<E>(inputs, sums, division);
    }
}

/// Counts the sequences with a valid token. A row of lanes looks through a sequence until each
/// lane has found one, which is soon: masked tokens come in runs.
#[cube]
fn count_sequences<E: Types>(
    inputs: &Inputs<E>,
    sums: &mut Sums<E>,
    #[comptime] division: Division,
) {
    let mut lanes = Lanes::<E::Real>::new(division);
    let rows = comptime!(division.rows());
    let nothing = E::Real::new(0.0);
    let mut first = CUBE_POS * rows;
    // The same number of turns for all units of a cube: they add up together.
    while first < inputs.sequences {
        let part = inputs.whole(first + lanes.row);
        let mut found = nothing;
        let mut index = part.start + lanes.lane;
        while index < part.end && found == nothing {
            found = count::<E>(inputs.valid(index));
            index += lanes.count();
        }
        let found = lanes.sum(found) > nothing;
        let counted = found && lanes.lane == 0;
        sums.valid_sequences += select(counted, E::Real::new(1.0), nothing);
        first += CUBE_COUNT * rows;
    }
}

/// For objectives in which a token needs to know something of its sequence: a row of lanes takes a
/// sequence as a whole, first for the sequence's own numbers, then for its tokens.
#[cube]
fn by_rows<E: Types>(
    inputs: &Inputs<E>,
    gradients: &mut Gradients<E>,
    sums: &mut Sums<E>,
    #[comptime] division: Division,
    #[comptime] blueprint: Blueprint,
) {
    let mut lanes = Lanes::<E::Real>::new(division);
    let rows = comptime!(division.rows());
    let mut first = CUBE_POS * rows;
    // The same number of turns for all units of a cube: they add up together.
    while first < inputs.sequences {
        let part = inputs.whole(first + lanes.row);
        let row_sums = gather_tokens::<E>(inputs, &part, &mut lanes, blueprint);
        let mut row = shared_row::<E>(inputs, &row_sums, part.sequence, blueprint);
        if comptime!(blueprint.adds_weights()) {
            let own = sum_of_kept_weights::<E>(inputs, &row, &part, &lanes, blueprint);
            let own = lanes.sum(own);
            row.mean_slope = row.mean_surrogate * mean::<E>(own, row_sums.tokens);
        }
        let tokens = row_sums.tokens;
        let log_ratio_slope = visit_tokens::<E>(
            inputs, &row, tokens, gradients, sums, &part, &lanes, blueprint,
        );
        if comptime!(blueprint.with_gradient && blueprint.shares_gradient()) {
            let shared = Vector::new(lanes.sum(log_ratio_slope)) * row.log_ratio_slope;
            add_shared::<E>(inputs, gradients, shared, &part, &lanes, blueprint);
        }
        first += CUBE_COUNT * rows;
    }
}

/// Adds the sums of a unit's tokens, for all lanes of its row.
#[cube]
pub fn gather_tokens<E: Types>(
    inputs: &Inputs<E>,
    part: &Part,
    lanes: &mut Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> RowSums<E> {
    let mut sums = no_tokens::<E>(inputs, blueprint);
    if comptime!(blueprint.masked || blueprint.gathers()) {
        let step = lanes.count();
        let mut index = part.start + lanes.lane;
        while index < part.end {
            let stop = end_of_stretch(index, part.end, step);
            let mut stretch = RowSums::<E>::new();
            while index < stop {
                let tokens = inputs.tokens(index, part.sequence, blueprint);
                gather::<E>(&inputs.numbers, &tokens, &mut stretch, blueprint);
                index += step;
            }
            sums.add(&stretch);
        }
        sums.fold_lanes(lanes, comptime!(RowSum::needed(&blueprint)));
    }
    sums
}

/// The sums of a sequence before its tokens are added: with their number where none is masked.
#[cube]
pub fn no_tokens<E: Types>(inputs: &Inputs<E>, #[comptime] blueprint: Blueprint) -> RowSums<E> {
    let mut sums = RowSums::<E>::new();
    if comptime!(!blueprint.masked) {
        sums.tokens = E::Real::cast_from(inputs.vectors_per_row * E::Width::value());
    }
    sums
}

/// What the tokens of a sequence share, from its sums.
#[cube]
pub fn shared_row<E: Types>(
    inputs: &Inputs<E>,
    sums: &RowSums<E>,
    sequence: usize,
    #[comptime] blueprint: Blueprint,
) -> Row<E> {
    let like = Vector::new(E::Real::new(0.0));
    let row = share::<E>(&inputs.numbers, sums, like, blueprint);
    inputs.of_sequence(row, sequence)
}

/// Counts a sequence with its `tokens` valid tokens, and its ratio once for each of them. `tokens` is
/// 0 for all units but one.
#[cube]
fn add_row<E: Types>(
    sums: &mut Sums<E>,
    row: &Row<E>,
    tokens: E::Real,
    #[comptime] blueprint: Blueprint,
) {
    let zero = E::Real::new(0.0);
    if comptime!(blueprint.masked) {
        sums.valid_sequences += select(tokens > zero, E::Real::new(1.0), zero);
    }
    if comptime!(blueprint.has_sequence_weights()) {
        sums.valid_prompts += row.factor.extract(0usize) * tokens;
    }
    if comptime!(blueprint.sequence_ratio()) {
        let ratio = row.ratio.extract(0usize);
        sums.ratio += ratio * tokens;
        sums.squared_ratio += ratio * ratio * tokens;
        let some = tokens > zero;
        // Comparisons with NaN are false, so that NaN is left out.
        let least = sums.least_ratio;
        let largest = sums.largest_ratio;
        sums.least_ratio = select(some && ratio < least, ratio, least);
        sums.largest_ratio = select(some && ratio > largest, ratio, largest);
    }
}

/// Visits a unit's tokens, and counts their sequence with its `tokens` valid ones. Returns the sum of
/// what their losses change by with the ratio that they share; what flows through it is added to the
/// gradient afterwards.
#[cube]
pub fn visit_tokens<E: Types>(
    inputs: &Inputs<E>,
    row: &Row<E>,
    tokens: E::Real,
    gradients: &mut Gradients<E>,
    sums: &mut Sums<E>,
    part: &Part,
    lanes: &Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> E::Real {
    let zero = E::Real::new(0.0);
    let speaks = part.counts && lanes.lane == 0;
    add_row::<E>(sums, row, select(speaks, tokens, zero), blueprint);
    let mut log_ratio_slope = zero;
    let step = lanes.count();
    let mut index = part.start + lanes.lane;
    while index < part.end {
        let stop = end_of_stretch(index, part.end, step);
        let mut stretch = Sums::<E>::new();
        let mut stretch_of_slopes = E::Real::new(0.0);
        while index < stop {
            let tokens = inputs.tokens(index, part.sequence, blueprint);
            let own = token::<E>(&inputs.numbers, row, &tokens, &mut stretch, blueprint);
            gradients.write(index, &own, blueprint);
            if comptime!(blueprint.shares_gradient()) {
                stretch_of_slopes += own.log_ratio_slope.vector_sum();
            }
            index += step;
        }
        log_ratio_slope += stretch_of_slopes;
        sums.add(&stretch);
    }
    log_ratio_slope
}

/// Adds what flows through a shared ratio to the gradients of a unit's tokens.
#[cube]
pub fn add_shared<E: Types>(
    inputs: &Inputs<E>,
    gradients: &mut Gradients<E>,
    shared: Vector<E::Real, E::Width>,
    part: &Part,
    lanes: &Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) {
    let mut index = part.start + lanes.lane;
    while index < part.end {
        gradients.add_shared(index, keep::<E>(inputs.valid(index), shared), blueprint);
        index += lanes.count();
    }
}

/// The sum of the weights of a unit's tokens that are not dropped.
#[cube]
fn sum_of_kept_weights<E: Types>(
    inputs: &Inputs<E>,
    row: &Row<E>,
    part: &Part,
    lanes: &Lanes<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> E::Real {
    let mut sum = E::Real::new(0.0);
    let step = lanes.count();
    let mut index = part.start + lanes.lane;
    while index < part.end {
        let stop = end_of_stretch(index, part.end, step);
        let mut stretch = E::Real::new(0.0);
        while index < stop {
            let tokens = inputs.tokens(index, part.sequence, blueprint);
            stretch += kept_weight::<E>(&inputs.numbers, row, &tokens, blueprint).vector_sum();
            index += step;
        }
        sum += stretch;
    }
    sum
}

/// The end of the stretch that begins at `index` and of which a unit takes every `step`-th vector.
#[cube]
fn end_of_stretch(index: usize, end: usize, step: usize) -> usize {
    let stop = index + STRETCH * step;
    select(stop < end, stop, end)
}

//! From the sums of units to those of the batch.

// Only a loop over a range can be unrolled.
#![allow(clippy::needless_range_loop)]

use cubecl::prelude::*;

use super::geometry::CUBE_SIZE;
use super::lanes::at_run_time;
use super::words::{Elements, at_least_one, combine, neutral};
use crate::blueprint::Blueprint;
use crate::kind::Kind;
use crate::objective::Denominator;
use crate::sums::Sum;
use crate::sums::gpu::Sums;

/// Adds up the sums of a cube's units, always in the same order, and writes them to the cube's
/// column of the partial sums `[sums, cubes]`.
///
/// Counts are floats here, and exact, because a cube sees fewer than 2^24 tokens: longer sequences are
/// divided into pieces, except where the weights of a sequence are added up first
/// (`Blueprint::adds_weights`), whose counts are rounded then.
#[cube]
pub fn write_partials<E: Elements>(
    sums: &Sums<E>,
    partials: &mut [E::Real],
    #[comptime] blueprint: Blueprint,
) {
    let needed = comptime!(Sum::needed(&blueprint));
    let count = comptime!(needed.len());
    let size = comptime!(CUBE_SIZE as usize);
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[E::Real]>::new_slice(comptime!(count * size));

    #[unroll]
    for k in 0..count {
        shared[k * size + unit] = sums.get(comptime!(needed[k]));
    }
    sync_cube();
    for step in 0..at_run_time(comptime!(CUBE_SIZE.ilog2())) {
        let half = size >> (step as usize + 1);
        if unit < half {
            #[unroll]
            for k in 0..count {
                let left = shared[k * size + unit];
                let right = shared[k * size + unit + half];
                let kind = comptime!(needed[k].kind());
                shared[k * size + unit] = combine::<E::Real>(kind, left, right);
            }
        }
        sync_cube();
    }
    if unit == 0 {
        #[unroll]
        for k in 0..count {
            partials[k * CUBE_COUNT + CUBE_POS] = shared[k * size];
        }
    }
}

/// The size of a batch, and what replaces its counts.
#[derive(CubeType, CubeLaunch)]
pub struct BatchSize {
    /// Number of tokens, masked ones included.
    pub tokens: u32,
    pub sequences: u32,
    /// What each sequence counts for where the reduction divides by their number.
    pub length: InputScalar,
    /// The reduction's factor, if it is not taken from the batch's own counts.
    pub scale: InputScalar,
}

/// One cube adds up the partial sums `[sums, cubes]`, and makes the loss and the gradient's factor
/// of them.
#[cube(launch_unchecked)]
pub fn finish<A: Float>(
    partials: &[A],
    loss: &mut [A],
    row: &mut [A],
    factor: &mut [A],
    cubes: usize,
    size: &BatchSize,
    #[comptime] scaled: bool,
    #[comptime] blueprint: Blueprint,
    #[define(A)] _arithmetic: ElemType,
) {
    let totals = Totals::<A>::of(partials, cubes, blueprint);
    if UNIT_POS == 0 {
        let mut tokens = A::cast_from(size.tokens);
        let mut sequences = A::cast_from(size.sequences);
        if comptime!(blueprint.masked) {
            tokens = totals.get(Sum::valid_tokens);
            sequences = totals.get(Sum::valid_sequences);
        }
        let sum = totals.get(Sum::loss);
        if comptime!(scaled) {
            let scale = size.scale.get::<A>();
            loss[0] = sum * scale;
            factor[0] = scale;
        } else {
            let mut count = A::new(1.0);
            if comptime!(blueprint.divides_by == Denominator::Tokens) {
                count = at_least_one::<A>(tokens);
            }
            if comptime!(blueprint.divides_by == Denominator::Sequences) {
                count = at_least_one::<A>(sequences) * size.length.get::<A>();
            }
            if comptime!(blueprint.divides_by == Denominator::Prompts) {
                let prompts = totals.get(Sum::valid_prompts);
                count = select(prompts > A::new(0.0), prompts, count);
            }
            loss[0] = sum / count;
            factor[0] = A::new(1.0) / count;
        }
        #[unroll]
        for k in 0..comptime!(Sum::ALL.len()) {
            row[k] = totals.get(comptime!(Sum::ALL[k]));
        }
        row[comptime!(Sum::valid_tokens as usize)] = tokens;
        row[comptime!(Sum::valid_sequences as usize)] = sequences;
    }
}

/// The sums of all cubes, added up by one.
///
/// Counts are added up as integers: f32 loses them above 2^24.
#[derive(CubeType)]
struct Totals<A: Float> {
    floats: Shared<[A]>,
    counts: Shared<[u32]>,
    #[cube(comptime)]
    blueprint: Blueprint,
}

#[cube]
impl<A: Float> Totals<A> {
    /// Adds up the columns of `partials`, `[sums, cubes]`, always in the same order.
    fn of(partials: &[A], cubes: usize, #[comptime] blueprint: Blueprint) -> Self {
        let size = comptime!(CUBE_SIZE as usize);
        let mut totals = Totals::<A> {
            floats: Shared::new_slice(comptime!(needed(blueprint, false).len() * size)),
            counts: Shared::new_slice(comptime!(needed(blueprint, true).len() * size)),
            blueprint,
        };
        totals.gather(partials, cubes);
        totals.fold();
        totals
    }

    /// Each unit adds up every `CUBE_SIZE`-th column.
    fn gather(&mut self, partials: &[A], cubes: usize) {
        let sums = comptime!(Sum::needed(&self.blueprint));
        let step = comptime!(CUBE_SIZE as usize);
        let unit = UNIT_POS as usize;
        #[unroll]
        for k in 0..comptime!(sums.len()) {
            let sum = comptime!(sums[k]);
            let place = self.place(sum) + unit;
            let mut cube = unit;
            if comptime!(sum.kind() == Kind::Count) {
                let mut count = 0u32;
                while cube < cubes {
                    count += u32::cast_from(partials[k * cubes + cube]);
                    cube += step;
                }
                self.counts[place] = count;
            } else {
                let mut value = neutral::<A>(comptime!(sum.kind()));
                while cube < cubes {
                    value = combine::<A>(comptime!(sum.kind()), value, partials[k * cubes + cube]);
                    cube += step;
                }
                self.floats[place] = value;
            }
        }
        sync_cube();
    }

    /// Adds up the units' sums, in a tree.
    fn fold(&mut self) {
        let sums = comptime!(Sum::needed(&self.blueprint));
        let unit = UNIT_POS as usize;
        for step in 0..at_run_time(comptime!(CUBE_SIZE.ilog2())) {
            let half = comptime!(CUBE_SIZE as usize) >> (step as usize + 1);
            if unit < half {
                #[unroll]
                for k in 0..comptime!(sums.len()) {
                    let sum = comptime!(sums[k]);
                    let place = self.place(sum) + unit;
                    if comptime!(sum.kind() == Kind::Count) {
                        let other = self.counts[place + half];
                        self.counts[place] += other;
                    } else {
                        let value = self.floats[place];
                        let other = self.floats[place + half];
                        self.floats[place] = combine::<A>(comptime!(sum.kind()), value, other);
                    }
                }
            }
            sync_cube();
        }
    }

    /// A sum; neutral where the objective does not need it.
    fn get(&self, #[comptime] sum: Sum) -> A {
        if comptime!(!Sum::needed(&self.blueprint).contains(&sum)) {
            neutral::<A>(comptime!(sum.kind()))
        } else if comptime!(sum.kind() == Kind::Count) {
            A::cast_from(self.counts[self.place(sum)])
        } else {
            self.floats[self.place(sum)]
        }
    }

    /// Where the units' values of a sum begin.
    fn place(&self, #[comptime] sum: Sum) -> comptime_type!(usize) {
        comptime!({
            let sums = needed(self.blueprint, sum.kind() == Kind::Count);
            let position = sums.iter().position(|other| *other == sum);
            position.unwrap_or(0) * CUBE_SIZE as usize
        })
    }
}

/// The sums of an objective that are counts, or those that are not.
fn needed(blueprint: Blueprint, counts: bool) -> Vec<Sum> {
    let mut sums = Sum::needed(&blueprint);
    sums.retain(|sum| (sum.kind() == Kind::Count) == counts);
    sums
}

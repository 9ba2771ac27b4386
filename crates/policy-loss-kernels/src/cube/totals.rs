//! The sums of a whole batch.

// Only a loop over a range can be unrolled.
#![allow(clippy::needless_range_loop)]

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::sums::{Slot, combine, neutral};

/// The sums of all cubes, added up by one.
///
/// Counts are added up as integers: f32 loses them above 2^24. A cube's own count is far below
/// that, and exact as a float.
#[derive(CubeType)]
pub struct Totals<A: Float> {
    floats: Shared<[A]>,
    counts: Shared<[u32]>,
    #[cube(comptime)]
    cube_size: u32,
    #[cube(comptime)]
    blueprint: Blueprint,
}

#[cube]
impl<A: Float> Totals<A> {
    /// Adds up the columns of `partials`, `[slots, cubes]`, always in the same order.
    pub fn of(
        partials: &[A],
        cubes: usize,
        #[comptime] cube_size: u32,
        #[comptime] blueprint: Blueprint,
    ) -> Self {
        let size = comptime!(cube_size as usize);
        let mut totals = Totals::<A> {
            floats: Shared::new_slice(comptime!(blueprint.slots_of(false).len() * size)),
            counts: Shared::new_slice(comptime!(blueprint.slots_of(true).len() * size)),
            cube_size,
            blueprint,
        };
        totals.gather(partials, cubes);
        totals.fold();
        totals
    }

    /// Each unit adds up every `cube_size`-th column.
    fn gather(&mut self, partials: &[A], cubes: usize) {
        let slots = comptime!(self.blueprint.slots());
        let step = comptime!(self.cube_size as usize);
        let unit = UNIT_POS as usize;
        #[unroll]
        for k in 0..comptime!(slots.len()) {
            let slot = comptime!(slots[k]);
            let place = self.place(slot) + unit;
            let mut cube = unit;
            if comptime!(slot.is_count()) {
                let mut count = 0u32;
                while cube < cubes {
                    count += u32::cast_from(partials[k * cubes + cube]);
                    cube += step;
                }
                self.counts[place] = count;
            } else {
                let mut sum = neutral::<A>(slot);
                while cube < cubes {
                    sum = combine::<A>(slot, sum, partials[k * cubes + cube]);
                    cube += step;
                }
                self.floats[place] = sum;
            }
        }
        sync_cube();
    }

    /// Adds up the units' sums, in a tree.
    fn fold(&mut self) {
        let slots = comptime!(self.blueprint.slots());
        let unit = UNIT_POS as usize;
        #[unroll]
        for step in 0..comptime!(self.cube_size.ilog2()) {
            let half = comptime!((self.cube_size >> (step + 1)) as usize);
            if unit < half {
                #[unroll]
                for k in 0..comptime!(slots.len()) {
                    let slot = comptime!(slots[k]);
                    let place = self.place(slot) + unit;
                    if comptime!(slot.is_count()) {
                        let other = self.counts[place + half];
                        self.counts[place] += other;
                    } else {
                        let sum = self.floats[place];
                        let other = self.floats[place + half];
                        self.floats[place] = combine::<A>(slot, sum, other);
                    }
                }
            }
            sync_cube();
        }
    }

    /// A sum; 0 for one that the objective does not need.
    pub fn get(&self, #[comptime] slot: Slot) -> A {
        if comptime!(!self.blueprint.slots().contains(&slot)) {
            A::new(0.0)
        } else if comptime!(slot.is_count()) {
            A::cast_from(self.counts[self.place(slot)])
        } else {
            self.floats[self.place(slot)]
        }
    }

    /// Where the units' sums of a slot begin.
    fn place(&self, #[comptime] slot: Slot) -> comptime_type!(usize) {
        comptime!({
            let slots = self.blueprint.slots_of(slot.is_count());
            let position = slots.iter().position(|other| *other == slot);
            position.unwrap_or(0) * self.cube_size as usize
        })
    }
}

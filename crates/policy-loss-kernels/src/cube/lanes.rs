//! A cube as rows of lanes: each sequence is visited by the `lanes` units of one row.

use cubecl::prelude::*;

use super::words::combine;
use crate::kind::Kind;

/// How a cube is divided; both numbers are powers of two.
#[derive_cube_comptime]
pub struct Division {
    /// Units in a cube.
    pub cube_size: u32,
    /// Units in a row; at most `cube_size`.
    pub lanes: u32,
}

impl Division {
    /// Rows in a cube.
    pub fn rows(&self) -> usize {
        (self.cube_size / self.lanes) as usize
    }
}

/// The place of a unit when a cube is divided into rows of `lanes` units.
#[derive(CubeType)]
pub struct Lanes<A: Float> {
    /// The row within the cube.
    pub row: usize,
    /// The place within the row.
    pub lane: usize,
    shared: Shared<[A]>,
    #[cube(comptime)]
    count: u32,
}

#[cube]
impl<A: Float> Lanes<A> {
    pub fn new(#[comptime] division: Division) -> Self {
        let lanes = comptime!(division.lanes);
        Lanes::<A> {
            row: (UNIT_POS / lanes) as usize,
            lane: (UNIT_POS % lanes) as usize,
            shared: Shared::new_slice(comptime!(division.cube_size as usize)),
            count: lanes,
        }
    }

    /// The number of lanes in a row.
    pub fn count(&self) -> comptime_type!(usize) {
        comptime!(self.count as usize)
    }

    /// The sum over the lanes of each row, for all of them, always in the same order. All units
    /// of the cube have to take part.
    pub fn sum(&mut self, value: A) -> A {
        self.fold(Kind::Sum, value)
    }

    /// As [`sum`](Self::sum), of another kind.
    pub fn fold(&mut self, #[comptime] kind: Kind, value: A) -> A {
        let lanes = comptime!(self.count);
        if comptime!(lanes == 1) {
            value
        } else {
            let unit = UNIT_POS as usize;
            self.shared[unit] = value;
            sync_cube();
            for step in 0..at_run_time(comptime!(lanes.ilog2())) {
                let half = comptime!(lanes as usize) >> (step as usize + 1);
                if self.lane < half {
                    let own = self.shared[unit];
                    let other = self.shared[unit + half];
                    self.shared[unit] = combine::<A>(kind, own, other);
                }
                sync_cube();
            }
            let total = self.shared[unit - self.lane];
            // Before the next one overwrites it.
            sync_cube();
            total
        }
    }
}

/// A number of turns that no compiler knows. It would unroll them, and a software renderer then
/// takes seconds for a barrier in each.
#[cube]
pub fn at_run_time(#[comptime] turns: u32) -> u32 {
    // There always is a cube.
    select(CUBE_COUNT > 0, turns, 0u32)
}

//! How a batch is divided among cubes and units.

use cubecl::prelude::*;

/// Units in a cube. The sums of that many units fit the 16 KiB of shared memory that every
/// WebGPU device has.
pub const CUBE_SIZE: u32 = 128;

/// Enough to occupy the largest devices, and few enough for one cube to add up what they hand
/// over.
const MOST_CUBES: usize = 1024;

/// Vectors of tokens that a unit should have, for its part in the adding up to be worth it.
const VECTORS_PER_UNIT: usize = 4;

/// Widest vector of tokens. Wider ones need more registers than they save loads.
const WIDEST: usize = 4;

/// The widest vector of elements of `element_size` bytes that a device loads at once and that
/// divides `length`.
pub fn width(client: &Client, element_size: usize, length: usize) -> usize {
    client
        .io_optimized_vector_sizes(element_size)
        .filter(|width| *width <= WIDEST && length.is_multiple_of(*width))
        .max()
        .unwrap_or(1)
}

/// Cubes for a kernel that takes vectors from anywhere.
pub fn cubes_for_vectors(vectors: usize) -> u32 {
    let units = vectors.div_ceil(VECTORS_PER_UNIT);
    bounded(units.div_ceil(CUBE_SIZE as usize))
}

/// Units that visit one sequence together: a power of two.
pub fn lanes(vectors_per_row: usize) -> u32 {
    let units = vectors_per_row.div_ceil(VECTORS_PER_UNIT).max(1);
    CUBE_SIZE.min(units.next_power_of_two() as u32)
}

/// Cubes for a kernel in which `lanes` units visit a sequence.
pub fn cubes_for_sequences(sequences: usize, lanes: u32) -> u32 {
    bounded(sequences.div_ceil((CUBE_SIZE / lanes) as usize))
}

fn bounded(cubes: usize) -> u32 {
    cubes.clamp(1, MOST_CUBES) as u32
}

//! How a batch is divided among cubes and units.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::lanes::Division;

/// Units in a cube. The sums of that many units fit the 16 KiB of shared memory that every
/// WebGPU device has.
pub const CUBE_SIZE: u32 = 128;

/// Enough to occupy the largest devices, and few enough for one cube to add up what they hand
/// over.
const MOST_CUBES: usize = 1024;

/// Vectors that a unit should have, for its part in the adding up to be worth it.
const VECTORS_PER_UNIT: usize = 4;

/// Widest vector of tokens. Wider ones need more registers than they save loads.
const WIDEST: usize = 4;

/// Units that look through one sequence together where each token stands for itself.
const SEARCH_LANES: u32 = 32;

/// The launch of a visit.
pub struct Geometry {
    /// Tokens in a vector.
    pub width: usize,
    pub cubes: u32,
    pub division: Division,
}

impl Geometry {
    /// `types` are those of everything that is read or written in vectors.
    pub fn new(
        client: &Client,
        blueprint: &Blueprint,
        sequences: usize,
        tokens: usize,
        types: &[ElemType],
    ) -> Self {
        let largest = types.iter().map(ElemType::size).max().unwrap_or(1);
        let width = width(client, largest, tokens);
        let vectors_per_row = tokens / width;
        let (lanes, cubes) = match blueprint.by_rows() {
            true => {
                let lanes = lanes(vectors_per_row);
                (lanes, cubes_for_sequences(sequences, lanes))
            }
            false => (SEARCH_LANES, cubes_for_vectors(sequences * vectors_per_row)),
        };
        Self {
            width,
            cubes,
            division: Division {
                cube_size: CUBE_SIZE,
                lanes,
            },
        }
    }
}

/// The widest vector of elements of `size` bytes that a device loads at once and that divides
/// `length`.
pub fn width(client: &Client, size: usize, length: usize) -> usize {
    client
        .io_optimized_vector_sizes(size)
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
fn lanes(vectors_per_row: usize) -> u32 {
    let units = vectors_per_row.div_ceil(VECTORS_PER_UNIT);
    let units = u32::try_from(units).unwrap_or(CUBE_SIZE);
    units.clamp(1, CUBE_SIZE).next_power_of_two()
}

/// Cubes for a kernel in which `lanes` units visit a sequence.
fn cubes_for_sequences(sequences: usize, lanes: u32) -> u32 {
    bounded(sequences.div_ceil((CUBE_SIZE / lanes) as usize))
}

/// Kernels loop over what is left, so that no limit on the number of cubes is ever reached.
fn bounded(cubes: usize) -> u32 {
    cubes.clamp(1, MOST_CUBES) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_a_power_of_two_within_a_cube() {
        let expected = [
            (1, 1),
            (4, 1),
            (5, 2),
            (12, 4),
            (257, 128),
            (1 << 30, CUBE_SIZE),
        ];
        for (vectors_per_row, expected) in expected {
            assert_eq!(
                lanes(vectors_per_row),
                expected,
                "{vectors_per_row} vectors"
            );
        }
    }

    #[test]
    fn there_is_always_a_cube_and_never_too_many() {
        assert_eq!(cubes_for_vectors(1), 1);
        assert_eq!(cubes_for_vectors(513), 2);
        assert_eq!(cubes_for_vectors(usize::MAX / 2), MOST_CUBES as u32);
        assert_eq!(cubes_for_sequences(1, CUBE_SIZE), 1);
        assert_eq!(cubes_for_sequences(129, 1), 2);
        assert_eq!(cubes_for_sequences(70_000, CUBE_SIZE), MOST_CUBES as u32);
    }
}

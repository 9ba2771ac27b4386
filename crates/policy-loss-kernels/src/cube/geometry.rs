//! How a batch is divided among cubes and units.

use cubecl::prelude::*;

use super::lanes::Division;
use crate::blueprint::Blueprint;

/// Units in a cube. The sums of that many units fit the 16 KiB of shared memory that every
/// WebGPU device has.
pub const CUBE_SIZE: u32 = 128;

/// Enough to occupy the largest devices, and few enough for one cube to add up what they hand
/// over.
const MOST_CUBES: usize = 1024;

/// Tokens that a unit should have, for its part in the adding up to be worth it.
const TOKENS_PER_UNIT: usize = 16;

/// Widest vector of tokens; wider ones would need more registers than they save loads. Against
/// single tokens, vectors of 4 take about 0.6 of the time on llvmpipe.
const WIDEST: usize = 4;

/// Units that look through one sequence together where each token stands for itself.
const SEARCH_LANES: u32 = 32;

/// Vectors that a unit should have in a piece of a sequence, for the sums of pieces to be few.
const VECTORS_PER_UNIT: usize = 16;

/// Fewer cubes than this leave a large device idle.
const FEW_CUBES: u32 = 256;

/// The launch of a visit.
pub struct Geometry {
    /// Tokens in a vector.
    pub width: usize,
    pub cubes: u32,
    pub division: Division,
    /// The pieces of each sequence, where they are divided.
    pub pieces: Option<PieceSize>,
}

/// How a sequence is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceSize {
    /// Pieces in a sequence.
    pub count: usize,
    /// Vectors in a piece.
    pub vectors: usize,
}

impl PieceSize {
    /// For sequences of `vectors` vectors; none where whole sequences keep the device busy, or are
    /// short.
    fn new(sequences: usize, vectors: usize) -> Option<Self> {
        let least = VECTORS_PER_UNIT * CUBE_SIZE as usize;
        let wanted = (FEW_CUBES as usize).div_ceil(sequences.max(1));
        let count = wanted.min(vectors.div_ceil(least));
        (sequences < FEW_CUBES as usize && count > 1).then(|| Self {
            count,
            vectors: vectors.div_ceil(count),
        })
    }
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
        // The sum of kept weights would take one more kernel.
        let pieces = match blueprint.by_rows() && !blueprint.adds_weights() {
            true => PieceSize::new(sequences, tokens / width),
            false => None,
        };
        let (lanes, cubes) = match (pieces, blueprint.by_rows()) {
            (Some(pieces), _) => (CUBE_SIZE, bounded(sequences * pieces.count)),
            (None, true) => {
                let lanes = lanes(tokens);
                (lanes, cubes_for_sequences(sequences, lanes))
            }
            (None, false) => (SEARCH_LANES, cubes_for_tokens(sequences * tokens)),
        };
        Self {
            width,
            pieces,
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

/// Cubes for a kernel that takes tokens from anywhere.
pub fn cubes_for_tokens(tokens: usize) -> u32 {
    let units = tokens.div_ceil(TOKENS_PER_UNIT);
    bounded(units.div_ceil(CUBE_SIZE as usize))
}

/// Units that visit a sequence of `tokens` tokens together: a power of two.
fn lanes(tokens: usize) -> u32 {
    let units = tokens.div_ceil(TOKENS_PER_UNIT);
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
            (16, 1),
            (17, 2),
            (48, 4),
            (1025, 128),
            (1 << 40, CUBE_SIZE),
        ];
        for (tokens, expected) in expected {
            assert_eq!(lanes(tokens), expected, "{tokens} tokens");
        }
    }

    #[test]
    fn few_long_sequences_are_divided() {
        let vectors = 1_000_000 / 4;
        let one = PieceSize::new(1, vectors).expect("divided");
        assert!(one.count > 100 && one.count * one.vectors >= vectors);
        let four = PieceSize::new(4, 65_536).expect("divided");
        assert!(four.count >= 32 && four.count * four.vectors >= 65_536);
        assert_eq!(PieceSize::new(1, 1000), None);
        assert_eq!(PieceSize::new(1000, vectors), None);
    }

    #[test]
    fn there_is_always_a_cube_and_never_too_many() {
        assert_eq!(cubes_for_tokens(1), 1);
        assert_eq!(cubes_for_tokens(2049), 2);
        assert_eq!(cubes_for_tokens(usize::MAX / 2), MOST_CUBES as u32);
        assert_eq!(cubes_for_sequences(1, CUBE_SIZE), 1);
        assert_eq!(cubes_for_sequences(129, 1), 2);
        assert_eq!(cubes_for_sequences(70_000, CUBE_SIZE), MOST_CUBES as u32);
    }
}

//! How many tokens and sequences of a batch are valid.

use pulp::Arch;

use super::batch::{Batch, Mask};
use super::element::Element;
use super::{gather, partition};

/// Valid tokens and sequences.
pub struct Counts {
    pub tokens: usize,
    pub sequences: usize,
    /// Valid tokens of each row; absent where all are valid.
    pub by_row: Option<Vec<usize>>,
}

impl Counts {
    pub fn new<E: Element>(arch: Arch, batch: &Batch<'_, E>, total: usize) -> Self {
        let Some(Mask(mask)) = batch.mask else {
            return Self {
                tokens: total,
                sequences: if batch.tokens == 0 {
                    0
                } else {
                    batch.sequences
                },
                by_row: None,
            };
        };
        let mut chunks = partition::by_row(batch.sequences, batch.tokens);
        let counts = partition::each(
            total,
            &mut chunks,
            || (),
            |(), chunk| {
                // A piece of a row is shorter than the row.
                mask[chunk.tokens.clone()]
                    .chunks(batch.tokens)
                    .map(|row| gather::count(arch, row))
                    .collect::<Vec<_>>()
            },
        );
        let mut by_row = vec![0; batch.sequences];
        for (chunk, counts) in chunks.iter().zip(counts) {
            for (row, count) in by_row[chunk.rows.clone()].iter_mut().zip(counts) {
                *row += count;
            }
        }
        Self {
            tokens: by_row.iter().sum(),
            sequences: by_row.iter().filter(|&&count| count > 0).count(),
            by_row: Some(by_row),
        }
    }
}

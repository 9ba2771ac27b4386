//! A batch in host memory.

use super::element::Floats;
use crate::blueprint::Blueprint;
use crate::columns::Columns;

/// The inputs of the loss, as row-major slices of `sequences * tokens` elements. Advantages may also
/// be one for each sequence.
///
/// Whatever stands at a masked position takes no part.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct Batch<'a> {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of tokens in a sequence, masked ones included.
    pub tokens: usize,
    /// What is read of a token; absent where the objective does not read it.
    pub columns: Columns<Option<Floats<'a>>>,
    /// Which tokens are valid; absent: all.
    pub mask: Option<Mask<'a>>,
    /// What rollout weights are divided by, where the objective normalizes them.
    pub weight_mean: f64,
    /// The least entropy of a token that is kept, where there is an entropy mask.
    pub entropy_threshold: f64,
    /// What the tokens of each sequence count for, `sequences` elements; absent where the reduction
    /// does not read it.
    pub sequence_weights: Option<Floats<'a>>,
}

/// One byte for each token: 0 where the token is masked.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a>(pub(super) &'a [u8]);

impl<'a> From<&'a [bool]> for Mask<'a> {
    fn from(mask: &'a [bool]) -> Self {
        Self(bytemuck::cast_slice(mask))
    }
}

impl<'a> From<&'a [u8]> for Mask<'a> {
    fn from(mask: &'a [u8]) -> Self {
        Self(mask)
    }
}

/// Why a batch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A slice does not have the length that the batch's shape asks for.
    #[error("`{name}` has {got} elements, the batch's shape asks for {expected}")]
    Length {
        /// Name of the slice.
        name: &'static str,
        /// Length that the shape asks for.
        expected: usize,
        /// Length of the slice.
        got: usize,
    },
    /// The objective reads a slice that the batch does not have.
    #[error("`{name}` is missing, and the objective needs it")]
    Missing {
        /// Name of the slice.
        name: &'static str,
    },
    /// `sequences * tokens` does not fit a `usize`.
    #[error("`sequences * tokens` overflows")]
    TooLarge,
    /// The objective's surrogate is one of those that need an order of all tokens.
    #[error("the surrogate has no kernel")]
    NoKernel,
}

impl<'a> Batch<'a> {
    /// The columns that the objective reads, and the number of tokens in the batch, after checking
    /// every length against it.
    pub(super) fn check(
        &self,
        blueprint: &Blueprint,
    ) -> Result<(Columns<Option<Floats<'a>>>, usize), BatchError> {
        let total = self
            .sequences
            .checked_mul(self.tokens)
            .ok_or(BatchError::TooLarge)?;
        let check = |name, expected, got| match got == expected {
            true => Ok(()),
            false => Err(BatchError::Length {
                name,
                expected,
                got,
            }),
        };
        let reads = blueprint.reads();
        for (name, (column, is_read)) in self.columns.zip(reads).named() {
            match (column, is_read) {
                (_, false) => {}
                (None, true) => return Err(BatchError::Missing { name }),
                (Some(column), true) if name == "advantages" && column.len() == self.sequences => {}
                (Some(column), true) => check(name, total, column.len())?,
            }
        }
        if let Some(mask) = self.mask {
            check("mask", total, mask.0.len())?;
        }
        if blueprint.has_sequence_weights() {
            let name = "sequence_weights";
            let weights = self.sequence_weights.ok_or(BatchError::Missing { name })?;
            check(name, self.sequences, weights.len())?;
        }
        let read = self.columns.zip(reads);
        Ok((
            read.map(|(column, is_read)| column.filter(|_| is_read)),
            total,
        ))
    }
}

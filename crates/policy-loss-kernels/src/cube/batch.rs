//! A batch in the memory of a device, and what the loss makes of it.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::columns::Columns;

/// Contiguous, row-major memory of a device.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct Buffer {
    /// The memory.
    pub handle: Handle,
    /// The type of an element.
    pub element: ElemType,
}

impl Buffer {
    /// Memory that holds whatever it held before.
    pub(super) fn empty(client: &Client, length: usize, element: ElemType) -> Self {
        Self {
            handle: client.empty(length * element.size()),
            element,
        }
    }

    /// The number of elements.
    #[must_use]
    pub fn length(&self) -> usize {
        self.handle.size_in_used() as usize / self.element.size()
    }

    /// The buffer as an argument of a kernel that may touch all of it.
    pub(super) fn whole(&self) -> BufferArg {
        self.argument(self.length())
    }

    /// The buffer as an argument of a kernel that touches its first `length` elements.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub(super) fn argument(&self, length: usize) -> BufferArg {
        assert!(
            self.length() >= length,
            "a buffer of {} elements where {length} are needed",
            self.length()
        );
        // SAFETY: the memory is at least as long, as was just checked.
        #[allow(unsafe_code)]
        unsafe {
            BufferArg::from_raw_parts(self.handle.clone(), length)
        }
    }
}

/// The inputs of the loss, each of `sequences * tokens` elements; advantages may also be one for each
/// sequence.
///
/// `old_log_probs`, `rollout_log_probs` and `advantages` are of any float type that the device has, the
/// others of one, f32 or f64, in which everything is computed. Whatever stands at a masked position
/// takes no part.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct Batch {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of tokens in a sequence, masked ones included.
    pub tokens: usize,
    /// What is read of a token; absent where the objective does not read it.
    pub columns: Columns<Option<Buffer>>,
    /// Whether there is one advantage for each sequence.
    pub advantages_per_sequence: bool,
    /// One element, of the type of `log_probs`: what rollout weights are divided by. Read where the
    /// objective normalizes them.
    pub weight_mean: Option<Buffer>,
    /// One element, of the type of `log_probs`: the least entropy of a token that is kept. Read where
    /// there is an entropy mask.
    pub entropy_threshold: Option<Buffer>,
    /// `sequences` elements, of the type of `log_probs`: what the tokens of each sequence count for.
    /// Read where the reduction is one that weighs sequences.
    pub sequence_weights: Option<Buffer>,
    /// Which tokens are valid, as unsigned integers: 0 where a token is masked. Absent: all.
    pub mask: Option<Buffer>,
}

/// What one visit of a batch yields, all of it still to be computed by the device, and all of it in
/// the type of the arithmetic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outputs {
    /// One element.
    pub loss: Buffer,
    /// The row of [`Sums`](crate::Sums).
    pub sums: Buffer,
    /// The gradient of `log_probs` up to `factor`: `sequences * tokens` elements, exactly 0 at
    /// masked tokens. One vector without a meaning where none was asked for.
    pub gradient: Buffer,
    /// The same of `entropies`.
    pub entropy_gradient: Buffer,
    /// The same of `segment_log_ratios`.
    pub segment_gradient: Buffer,
    /// One element: what the gradients still have to be multiplied by.
    pub factor: Buffer,
}

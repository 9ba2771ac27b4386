//! A batch in the memory of a device, and what the loss makes of it.

use cubecl::prelude::*;
use cubecl::server::Handle;

/// Contiguous, row-major memory of a device.
#[derive(Clone, Debug)]
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

/// The inputs of the loss, each of `sequences * tokens` elements.
///
/// Whatever stands at a masked position takes no part.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of tokens in a sequence, masked ones included.
    pub tokens: usize,
    /// Log-probabilities of the policy being trained; the gradient has their type.
    pub log_probs: Buffer,
    /// Log-probabilities of the policy that the update started from.
    pub old_log_probs: Buffer,
    /// Log-probabilities reported by the sampler.
    pub rollout_log_probs: Option<Buffer>,
    /// The weights of [`Weight::Given`](crate::Weight::Given), of the
    /// [arithmetic's](super::arithmetic) type.
    pub weights: Option<Buffer>,
    /// Log-probabilities of the reference policy, for a [`Penalty`](crate::Penalty), of the
    /// arithmetic's type.
    pub ref_log_probs: Option<Buffer>,
    /// Advantage estimates.
    pub advantages: Advantages,
    /// Which tokens are valid, as unsigned integers: 0 where a token is masked. Absent: all.
    pub mask: Option<Buffer>,
}

/// Advantages, one for each token or one for each sequence.
#[derive(Clone, Debug)]
pub enum Advantages {
    /// `sequences * tokens` elements.
    PerToken(Buffer),
    /// `sequences` elements.
    PerSequence(Buffer),
}

impl Advantages {
    pub(super) fn buffer(&self) -> &Buffer {
        match self {
            Self::PerToken(buffer) | Self::PerSequence(buffer) => buffer,
        }
    }
}

/// What one visit of a batch yields, all of it still to be computed by the device.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// One element of the [arithmetic's](super::arithmetic) type.
    pub loss: Buffer,
    /// Elements of the arithmetic's type, those of [`metrics`](super::metrics) in their order.
    pub metrics: Buffer,
    /// The gradient up to `factor`, of the type of `log_probs`: `sequences * tokens` elements,
    /// exactly 0 at masked tokens. One element without a meaning where none was asked for.
    pub gradient: Buffer,
    /// One element of the arithmetic's type: what `gradient` still has to be multiplied by. It is
    /// kept apart because `1 / n` would push gradients in half precision below the smallest
    /// number.
    pub factor: Buffer,
}

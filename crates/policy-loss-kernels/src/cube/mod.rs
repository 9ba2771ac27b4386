//! scratch
mod backward;
mod blueprint;
mod by_rows;
mod by_tokens;
mod finish;
mod geometry;
mod inputs;
mod lanes;
mod launch;
mod parts;
mod sums;
mod token;
mod visit;

use cubecl::prelude::*;
use cubecl::server::Handle;
pub use launch::{arithmetic, backward, forward};
pub use finish::Metric;

/// Contiguous memory of a device.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub handle: Handle,
    pub element: ElemType,
}

impl Buffer {
    fn empty(client: &Client, length: usize, element: ElemType) -> Self {
        Self { handle: client.empty(length * element.size()), element }
    }
    fn length(&self) -> usize { self.handle.size_in_used() as usize / self.element.size() }
    fn argument(&self) -> BufferArg {
        // SAFETY: the length is the handle's own.
        #[allow(unsafe_code)]
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.length()) }
    }
}

/// x
pub struct Shape { pub sequences: usize, pub tokens: usize }
/// x
pub enum Advantages { PerToken(Buffer), PerSequence(Buffer) }
/// x
pub struct Inputs {
    pub log_probs: Buffer,
    pub old_log_probs: Buffer,
    pub rollout_log_probs: Option<Buffer>,
    pub advantages: Advantages,
    pub action_mask: Option<Buffer>,
}
/// x
pub struct Outputs { pub loss: Buffer, pub metrics: Buffer, pub metric_count: usize, pub gradient: Buffer, pub factor: Buffer }

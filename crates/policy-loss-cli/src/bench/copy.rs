//! The floor: copying what the loss reads.

use burn::tensor::{Bool, Tensor};
use rayon::prelude::*;

use super::inputs::Inputs;

/// Bytes of a token in host memory: three floats, and one byte of mask.
const HOST_BYTES: usize = 3 * 4 + 1;
/// What one thread copies at a time.
const CHUNK: usize = 1 << 18;

/// A copy of the inputs' bytes.
pub enum Copy {
    /// On the host, by all threads, into memory that is already there. That is stricter than what
    /// the loss is asked for, which has to hand out new memory for its gradient.
    Host { source: Vec<u8>, target: Vec<u8> },
    /// On another device, one element-wise operation for each input.
    Device,
}

impl Copy {
    /// A copy for a batch of `count` tokens.
    pub fn new(count: usize, on_host: bool) -> Self {
        match on_host {
            true => Self::Host {
                source: vec![1; count * HOST_BYTES],
                target: vec![0; count * HOST_BYTES],
            },
            false => Self::Device,
        }
    }

    /// Copies once, and returns what a device has made.
    pub fn run(&mut self, inputs: &Inputs) -> Option<([Tensor<2>; 3], Tensor<2, Bool>)> {
        match self {
            Self::Host { source, target } => {
                target
                    .par_chunks_mut(CHUNK)
                    .zip(source.par_chunks(CHUNK))
                    .for_each(|(target, source)| target.copy_from_slice(source));
                None
            }
            Self::Device => Some((
                inputs.floats().map(|tensor| tensor.add_scalar(1)),
                inputs.mask().bool_not(),
            )),
        }
    }
}

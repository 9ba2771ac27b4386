//! The policy loss over slices in host memory.
//!
//! One visit of the inputs gives the loss, the sums of all metrics and the gradient. The
//! mathematics is written once, over vectors of any width, and composed at compile time of
//! the parts that an objective asks for; the vector unit is chosen when the program runs.
//! Batches that are large enough are divided among the threads of the current
//! [`rayon`] pool, by their shape alone: results are the same bits for any number of threads.
//!
//! Inputs may be f64, f32, f16 or bf16, in any mixture. Arithmetic is f64 or f32, whichever the
//! caller asks for; sums over tokens are f64. No input is copied: what has another type is
//! converted a block at a time. Memory in proportion to the tokens is that of the gradients.
//!
//! `POLICY_LOSS_VECTOR_UNIT` in the environment (`avx512`, `avx2`, `neon` or `scalar`) takes the
//! choice of the vector unit from the machine.

mod batch;
mod drive;
mod element;
mod exp;
mod half_bits;
mod lanes;
pub mod log_probs;
mod partition;
mod scale;
// Its own tests call no loop that is specialized: they take minutes to compile.
#[cfg_attr(test, allow(dead_code))]
mod specialization;
mod stage;
#[cfg(test)]
mod tests;
#[cfg_attr(test, allow(dead_code))]
mod vector_unit;
#[cfg_attr(test, allow(dead_code))]
mod visit;
pub(crate) mod words;

use std::mem::MaybeUninit;

use crate::blueprint::Blueprint;
use crate::objective::Objective;
use crate::sums::Sums;

pub use batch::{Batch, BatchError, Mask};
pub use element::{Element, Floats};
#[doc(hidden)]
pub use pulp::Arch;
pub use scale::scale_in_place;
pub use specialization::Arithmetic;
#[doc(hidden)]
pub use vector_unit::units;

use vector_unit::vector_unit;
use visit::Gradients;

/// What a batch gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluated<T> {
    /// The loss.
    pub loss: f64,
    /// Everything that was summed up.
    pub sums: Sums,
    /// The gradient of the loss with respect to `log_probs`; empty where it is not wanted.
    pub gradient: Vec<T>,
    /// The gradient with respect to `entropies`; empty where it is not wanted, and without an entropy
    /// bonus.
    pub entropy_gradient: Vec<T>,
    /// The gradient with respect to `segment_log_ratios`; empty where it is not wanted, and where
    /// ratios are not those of segments.
    pub segment_gradient: Vec<T>,
}

/// The loss, its sums and, if wanted, its gradients, in the arithmetic of `T`.
///
/// The gradients contain the reduction's factor and are 0 at masked tokens: for the backward pass
/// they are only multiplied by the gradient of the result ([`scale_in_place`]). `scale` replaces the
/// factor `1 / count` of the reduction: `world_size / global_count` under data parallelism.
///
/// # Errors
///
/// [`BatchError`] if a slice does not fit the batch's shape or is missing, or if the surrogate has no
/// kernel.
pub fn evaluate<T: Arithmetic>(
    objective: &Objective,
    batch: &Batch<'_>,
    scale: Option<f64>,
    with_gradient: bool,
) -> Result<Evaluated<T>, BatchError> {
    evaluate_on(vector_unit(), objective, batch, scale, with_gradient)
}

/// As [`evaluate`], on a certain vector unit: for tests.
#[doc(hidden)]
pub fn evaluate_on<T: Arithmetic>(
    arch: Arch,
    objective: &Objective,
    batch: &Batch<'_>,
    scale: Option<f64>,
    with_gradient: bool,
) -> Result<Evaluated<T>, BatchError> {
    let blueprint = Blueprint::new(objective, batch.mask.is_some(), with_gradient, T::IS_DOUBLE)
        .ok_or(BatchError::NoKernel)?;
    let (columns, total) = batch.check(&blueprint)?;
    let wanted = |is_wanted: bool| if is_wanted { total } else { 0 };
    let length = wanted(with_gradient);
    let entropy_length = wanted(with_gradient && blueprint.entropy);
    let segment_length = wanted(with_gradient && blueprint.segment_ratio());
    // Not zeroed first: the threads touch the memory when they write their parts.
    let mut gradient = Vec::with_capacity(length);
    let mut entropy_gradient = Vec::with_capacity(entropy_length);
    let mut segment_gradient = Vec::with_capacity(segment_length);
    let (loss, sums) = drive::run(
        arch,
        objective,
        batch,
        blueprint,
        columns,
        Gradients {
            log_probs: spare(&mut gradient, length),
            entropies: spare(&mut entropy_gradient, entropy_length),
            segment_log_ratios: spare(&mut segment_gradient, segment_length),
        },
        scale,
    );
    // SAFETY: `run` has written all elements up to these lengths.
    #[allow(unsafe_code)]
    unsafe {
        gradient.set_len(length);
        entropy_gradient.set_len(entropy_length);
        segment_gradient.set_len(segment_length);
    }
    Ok(Evaluated {
        loss,
        sums,
        gradient,
        entropy_gradient,
        segment_gradient,
    })
}

fn spare<T: Arithmetic>(memory: &mut Vec<T>, length: usize) -> &mut [MaybeUninit<T>] {
    let spare = &mut memory.spare_capacity_mut()[..length];
    if cfg!(debug_assertions) {
        // What is not written shows.
        spare.fill(MaybeUninit::new(T::from_f64(f64::NAN)));
    }
    spare
}

//! The policy loss over slices in host memory.
//!
//! One visit of the inputs gives the loss, the sums of all metrics and the gradient. The
//! mathematics is written once, over vectors of any width, and composed at compile time of
//! the parts that an objective asks for; the vector unit is chosen when the program runs.
//! Batches that are large enough are divided among the threads of the current
//! [`rayon`] pool, by their shape alone: results are the same bits for any number of threads.
//!
//! Inputs may be f64, f32, f16 or bf16, in any mixture. Arithmetic is f64 if `log_probs` is
//! f64, else f32; sums over tokens are f64. No input is copied: what has another type is
//! converted a block at a time. Memory in proportion to the tokens is that of the output.

mod batch;
mod chunk;
mod counts;
mod drive;
mod element;
mod estimates;
mod exp;
mod gaps;
mod gather;
mod half_bits;
mod kept_weight;
mod kernel;
mod lanes;
pub mod log_probs;
mod of_sequence;
mod output;
mod partition;
mod parts;
mod penalty;
mod penalty_factor;
mod real;
mod row;
mod scale;
mod simd_lanes;
mod stage;
mod summary;
mod sums;
mod surrogates;
#[cfg(test)]
mod tests;
mod token;
mod trust_region;
mod vector_unit;
mod visit;
mod weight;

use std::mem::MaybeUninit;

use crate::{Objective, Summary};

pub use batch::{Advantages, Batch, BatchError, Floats, Mask};
pub use element::Element;
pub use scale::scale_in_place;

use kernel::OutputKind;
use vector_unit::vector_unit;

/// The loss and its sums, without a gradient.
///
/// # Errors
///
/// [`BatchError`] if a slice does not fit the batch's shape or is missing.
pub fn forward<E: Element>(
    objective: &Objective,
    batch: &Batch<'_, E>,
) -> Result<Summary, BatchError> {
    drive::run(
        vector_unit(),
        objective,
        batch,
        OutputKind::Nothing,
        &mut [],
    )
}

/// The loss and its sums, and the loss's gradient with respect to `log_probs`.
///
/// The gradient contains the reduction's factor and is 0 at masked tokens: for the backward
/// pass it is only multiplied by the gradient of the result ([`scale_in_place`]).
///
/// # Errors
///
/// [`BatchError`] if a slice does not fit the batch's shape or is missing.
pub fn forward_with_gradient<E: Element>(
    objective: &Objective,
    batch: &Batch<'_, E>,
) -> Result<(Summary, Vec<E>), BatchError> {
    allocate(objective, batch, OutputKind::Gradient)
}

/// As [`forward_with_gradient`], into memory of the caller's.
///
/// On success every element of `gradient` has been written.
///
/// # Errors
///
/// [`BatchError`] if a slice does not fit the batch's shape or is missing.
pub fn forward_with_gradient_into<E: Element>(
    objective: &Objective,
    batch: &Batch<'_, E>,
    gradient: &mut [MaybeUninit<E>],
) -> Result<Summary, BatchError> {
    drive::run(
        vector_unit(),
        objective,
        batch,
        OutputKind::Gradient,
        gradient,
    )
}

#[allow(unsafe_code)]
fn allocate<E: Element>(
    objective: &Objective,
    batch: &Batch<'_, E>,
    kind: OutputKind,
) -> Result<(Summary, Vec<E>), BatchError> {
    // Not zeroed first: the threads touch the memory when they write their parts.
    let mut output = Vec::with_capacity(batch.log_probs.len());
    let memory = &mut output.spare_capacity_mut()[..batch.log_probs.len()];
    let summary = drive::run(vector_unit(), objective, batch, kind, memory)?;
    // SAFETY: `run` was successful, so that it has written all elements up to this length.
    unsafe { output.set_len(batch.log_probs.len()) };
    Ok((summary, output))
}

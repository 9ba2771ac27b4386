//! Inputs in the type of the arithmetic, a block at a time.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::batch::{Advantages, Batch, Floats, Mask};
use super::element::{Element, Stored};
use super::kernel::Columns;
use super::penalty::PenaltyColumns;
use super::real::Real;
use crate::Objective;

/// Tokens in a block: what is staged of it stays in the first-level cache.
pub const BLOCK: usize = 1024;

/// Memory for what cannot be read in place; a part that is not needed stays empty.
#[derive(Debug)]
pub struct Scratch<T> {
    log_probs: Vec<T>,
    old_log_probs: Vec<T>,
    rollout_log_probs: Vec<T>,
    weights: Vec<T>,
    ref_log_probs: Vec<T>,
    advantages: Vec<T>,
    mask: Vec<T>,
    /// Whether `mask` holds nothing but 1.
    mask_is_full: bool,
}

impl<T: Real> Scratch<T> {
    pub fn new() -> Self {
        Self {
            log_probs: Vec::new(),
            old_log_probs: Vec::new(),
            rollout_log_probs: Vec::new(),
            weights: Vec::new(),
            ref_log_probs: Vec::new(),
            advantages: Vec::new(),
            mask: Vec::new(),
            mask_is_full: false,
        }
    }

    /// The columns of at most [`BLOCK`] tokens.
    pub fn stage<'a, E: Element + Stored<Real = T>>(
        &'a mut self,
        arch: Arch,
        batch: &Batch<'a, E>,
        objective: &Objective,
        range: Range<usize>,
    ) -> Columns<'a, T> {
        let log_probs = E::floats(batch.log_probs);
        let old_log_probs = widen(
            arch,
            batch.old_log_probs,
            range.clone(),
            &mut self.old_log_probs,
        );
        Columns {
            log_probs: widen(arch, log_probs, range.clone(), &mut self.log_probs),
            old_log_probs,
            rollout_log_probs: match batch.rollout_log_probs {
                Some(rollout) if objective.uses_rollout() => {
                    widen(arch, rollout, range.clone(), &mut self.rollout_log_probs)
                }
                _ => old_log_probs,
            },
            weights: match batch.weights {
                Some(weights) if objective.uses_given_weights() => {
                    widen(arch, weights, range.clone(), &mut self.weights)
                }
                _ => old_log_probs,
            },
            advantages: match batch.advantages {
                Advantages::PerToken(advantages) => {
                    widen(arch, advantages, range.clone(), &mut self.advantages)
                }
                Advantages::PerSequence(advantages) => spread(
                    advantages,
                    batch.tokens,
                    range.clone(),
                    &mut self.advantages,
                ),
            },
            mask: stage_mask(
                arch,
                batch.mask,
                range,
                &mut self.mask,
                &mut self.mask_is_full,
            ),
        }
    }

    /// What a penalty reads: `log_probs`, `ref_log_probs`, what the ratio is taken against, and
    /// the mask.
    pub fn stage_penalty<'a, E: Element + Stored<Real = T>>(
        &'a mut self,
        arch: Arch,
        batch: &Batch<'a, E>,
        base: Floats<'a>,
        range: Range<usize>,
    ) -> PenaltyColumns<'a, T> {
        let log_probs = E::floats(batch.log_probs);
        // `check` made sure that it is there.
        let ref_log_probs = batch.ref_log_probs.unwrap_or(log_probs);
        PenaltyColumns {
            log_probs: widen(arch, log_probs, range.clone(), &mut self.log_probs),
            ref_log_probs: widen(arch, ref_log_probs, range.clone(), &mut self.ref_log_probs),
            base: widen(arch, base, range.clone(), &mut self.old_log_probs),
            mask: stage_mask(
                arch,
                batch.mask,
                range,
                &mut self.mask,
                &mut self.mask_is_full,
            ),
        }
    }

    /// The terms of a difference, and the mask.
    pub fn stage_difference<'a>(
        &'a mut self,
        arch: Arch,
        (minuend, subtrahend): (Floats<'a>, Floats<'a>),
        mask: Option<Mask<'a>>,
        range: Range<usize>,
    ) -> (&'a [T], &'a [T], &'a [T]) {
        (
            widen(arch, minuend, range.clone(), &mut self.log_probs),
            widen(arch, subtrahend, range.clone(), &mut self.old_log_probs),
            stage_mask(arch, mask, range, &mut self.mask, &mut self.mask_is_full),
        )
    }
}

/// Borrows values that have the type already, and converts others.
fn widen<'a, T: Real>(
    arch: Arch,
    values: Floats<'a>,
    range: Range<usize>,
    scratch: &'a mut Vec<T>,
) -> &'a [T] {
    if let Some(values) = T::of_floats(values) {
        return &values[range];
    }
    let widened = first(scratch, range.len());
    match values {
        Floats::F64(values) => f64::widen_all(arch, &values[range], widened),
        Floats::F32(values) => f32::widen_all(arch, &values[range], widened),
        Floats::F16(values) => half::f16::widen_all(arch, &values[range], widened),
        Floats::Bf16(values) => half::bf16::widen_all(arch, &values[range], widened),
    }
    widened
}

/// Repeats a sequence's value for each of its tokens.
fn spread<'a, T: Real>(
    values: Floats<'_>,
    tokens: usize,
    range: Range<usize>,
    scratch: &'a mut Vec<T>,
) -> &'a [T] {
    let spread = first(scratch, range.len());
    let mut filled = 0;
    while filled < spread.len() {
        let place = range.start + filled;
        let end = spread.len().min(filled + (tokens - place % tokens));
        spread[filled..end].fill(value_at(values, place / tokens));
        filled = end;
    }
    spread
}

fn value_at<T: Real>(values: Floats<'_>, index: usize) -> T {
    match values {
        Floats::F64(values) => values[index].widen(),
        Floats::F32(values) => values[index].widen(),
        Floats::F16(values) => values[index].widen(),
        Floats::Bf16(values) => values[index].widen(),
    }
}

/// 1 for a valid token, 0 for a masked one.
fn stage_mask<'a, T: Real>(
    arch: Arch,
    mask: Option<Mask<'_>>,
    range: Range<usize>,
    scratch: &'a mut Vec<T>,
    is_full: &mut bool,
) -> &'a [T] {
    let length = range.len();
    match mask {
        Some(Mask(bytes)) => {
            arch.dispatch(SpreadMask {
                bytes: &bytes[range],
                mask: first(scratch, length),
            });
            *is_full = false;
        }
        None if *is_full => {}
        None => {
            scratch.clear();
            scratch.resize(BLOCK, T::from_f64(1.0));
            *is_full = true;
        }
    }
    &scratch[..length]
}

struct SpreadMask<'a, T> {
    bytes: &'a [u8],
    mask: &'a mut [T],
}

impl<T: Real> WithSimd for SpreadMask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (mask, &byte) in self.mask.iter_mut().zip(self.bytes) {
            *mask = T::from_f32(f32::from(u8::from(byte != 0)));
        }
    }
}

/// The first elements of the scratch memory, which grows to a block once.
fn first<T: Real>(scratch: &mut Vec<T>, length: usize) -> &mut [T] {
    if scratch.is_empty() {
        scratch.resize(BLOCK, T::from_f64(0.0));
    }
    &mut scratch[..length]
}

/// Passes memory for `length` elements to `write` and returns it as written.
///
/// # Safety
///
/// `write` must have written every element when it returns.
#[allow(unsafe_code)]
pub unsafe fn written<T, R>(
    memory: &mut Vec<T>,
    length: usize,
    write: impl FnOnce(&mut [MaybeUninit<T>]) -> R,
) -> R {
    memory.clear();
    memory.reserve_exact(length);
    let result = write(&mut memory.spare_capacity_mut()[..length]);
    // SAFETY: the capacity is at least `length`, and the caller vouches that all elements
    // up to it have been written.
    unsafe { memory.set_len(length) };
    result
}

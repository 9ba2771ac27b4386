//! Inputs in the type of the arithmetic, a block at a time.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::batch::Mask;
use super::element::{Floats, Stored};
use super::lanes::Real;
use crate::columns::Columns;

/// Tokens in a block: what is staged of it stays in the first-level cache.
pub const BLOCK: usize = 1024;

/// What a block reads.
#[derive(Clone, Copy)]
pub struct Staged<C> {
    pub columns: Columns<C>,
    /// 1 or 0 for a token that is valid or masked.
    pub mask: C,
    /// What earlier passes made of the losses of tokens; anything in the first one.
    pub term: Term<C>,
}

/// The loss of a token while it is being made: one thing for each of its parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term<C> {
    pub value: C,
    pub slope: C,
}

impl<C> Staged<C> {
    #[inline(always)]
    pub fn map<D>(self, mut change: impl FnMut(C) -> D) -> Staged<D> {
        Staged {
            columns: self.columns.map(&mut change),
            mask: change(self.mask),
            term: Term {
                value: change(self.term.value),
                slope: change(self.term.slope),
            },
        }
    }

    /// One thing of each, as a slice.
    #[inline(always)]
    pub fn as_slices(&self) -> Staged<&[C]> {
        Staged {
            columns: self.columns.as_ref().map(std::slice::from_ref),
            mask: std::slice::from_ref(&self.mask),
            term: Term {
                value: std::slice::from_ref(&self.term.value),
                slope: std::slice::from_ref(&self.term.slope),
            },
        }
    }
}

/// Memory for what cannot be read in place; a part that is not needed stays empty.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    columns: Columns<Vec<T>>,
    mask: Vec<T>,
    /// Whether `mask` holds nothing but 1.
    mask_is_full: bool,
}

/// The inputs of a batch that are read.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub columns: Columns<Option<Floats<'a>>>,
    pub mask: Option<Mask<'a>>,
    /// Number of tokens in a sequence.
    pub row_length: usize,
    /// Number of tokens in the batch.
    pub total: usize,
}

impl<T: Real> Scratch<T> {
    /// What at most [`BLOCK`] tokens read. What is absent shows `log_probs`.
    pub fn stage<'a>(
        &'a mut self,
        arch: Arch,
        inputs: &Inputs<'a>,
        range: Range<usize>,
    ) -> Staged<&'a [T]> {
        let Inputs {
            columns,
            mask,
            row_length,
            total,
        } = *inputs;
        let memory = self.columns.as_mut();
        let staged = columns.zip(memory).map(|(column, memory)| {
            let column = column?;
            Some(match column.len() == total {
                true => widen(arch, column, range.clone(), memory),
                false => spread(column, row_length, range.clone(), memory),
            })
        });
        let stand_in = staged.log_probs.unwrap_or_default();
        Staged {
            columns: staged.map(|column| column.unwrap_or(stand_in)),
            mask: stage_mask(arch, mask, range, &mut self.mask, &mut self.mask_is_full),
            term: Term {
                value: stand_in,
                slope: stand_in,
            },
        }
    }
}

/// Borrows values that have the type already, and converts others.
fn widen<'a, T: Real>(
    arch: Arch,
    values: Floats<'a>,
    range: Range<usize>,
    scratch: &'a mut Vec<T>,
) -> &'a [T] {
    if let Some(values) = values.of::<T>() {
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

pub fn value_at<T: Real>(values: Floats<'_>, index: usize) -> T {
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

impl<T: Real> Term<Vec<T>> {
    /// Memory for the terms of a number of tokens, to be written.
    pub fn outputs(&mut self, length: usize) -> [&mut [MaybeUninit<T>]; 3] {
        [
            as_output(first(&mut self.slope, length)),
            as_output(first(&mut self.value, length)),
            &mut [],
        ]
    }

    /// The terms of a number of tokens.
    pub fn read(&self, length: usize) -> Term<&[T]> {
        Term {
            value: &self.value[..length],
            slope: &self.slope[..length],
        }
    }
}

fn as_output<T: Real>(memory: &mut [T]) -> &mut [MaybeUninit<T>] {
    let length = memory.len();
    // SAFETY: the layout is the same, and nothing writes what is not initialised: what is written
    // are vectors of numbers.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), length)
    }
}

/// The first elements of the scratch memory, which grows to a block once.
fn first<T: Real>(scratch: &mut Vec<T>, length: usize) -> &mut [T] {
    if scratch.is_empty() {
        scratch.resize(BLOCK, T::from_f64(0.0));
    }
    &mut scratch[..length]
}

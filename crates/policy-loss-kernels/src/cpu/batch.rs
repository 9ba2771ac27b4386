//! A batch in host memory.

use std::fmt;

use half::{bf16, f16};

use crate::Objective;

use super::element::Element;

/// The inputs of the loss, as row-major slices of `sequences * tokens` elements.
///
/// Whatever stands at a masked position takes no part.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, E> {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of tokens in a sequence, masked ones included.
    pub tokens: usize,
    /// Log-probabilities of the policy being trained; the gradient has their type.
    pub log_probs: &'a [E],
    /// Log-probabilities of the policy that the update started from.
    pub old_log_probs: Floats<'a>,
    /// Log-probabilities reported by the sampler.
    pub rollout_log_probs: Option<Floats<'a>>,
    /// The weights of [`Weight::Given`](crate::Weight::Given).
    pub weights: Option<Floats<'a>>,
    /// Log-probabilities of the reference policy, for a [`Penalty`](crate::Penalty).
    pub ref_log_probs: Option<Floats<'a>>,
    /// Advantage estimates.
    pub advantages: Advantages<'a>,
    /// Which tokens are valid; absent: all.
    pub mask: Option<Mask<'a>>,
}

/// A slice of one of the floating-point types.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// 64 bits.
    F64(&'a [f64]),
    /// 32 bits.
    F32(&'a [f32]),
    /// 16 bits, IEEE 754 half precision.
    F16(&'a [f16]),
    /// 16 bits, the upper half of f32.
    Bf16(&'a [bf16]),
}

/// Advantages, one for each token or one for each sequence.
#[derive(Clone, Copy, Debug)]
pub enum Advantages<'a> {
    /// `sequences * tokens` elements.
    PerToken(Floats<'a>),
    /// `sequences` elements.
    PerSequence(Floats<'a>),
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

impl<'a, E: Element> From<&'a [E]> for Floats<'a> {
    fn from(values: &'a [E]) -> Self {
        E::floats(values)
    }
}

impl Floats<'_> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether an element is neither NaN nor infinite.
    pub(super) fn is_finite(&self, index: usize) -> bool {
        match self {
            Self::F64(values) => values[index].is_finite(),
            Self::F32(values) => values[index].is_finite(),
            Self::F16(values) => values[index].is_finite(),
            Self::Bf16(values) => values[index].is_finite(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a batch, or the memory for its result, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// A slice does not have the length that the batch's shape asks for.
    Length {
        /// Name of the slice.
        name: &'static str,
        /// Length that the shape asks for.
        expected: usize,
        /// Length of the slice.
        got: usize,
    },
    /// The objective reads a slice that the batch does not have.
    Missing {
        /// Name of the slice.
        name: &'static str,
    },
    /// `sequences * tokens` does not fit a `usize`.
    TooLarge,
}

impl fmt::Display for BatchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length {
                name,
                expected,
                got,
            } => write!(
                formatter,
                "`{name}` has {got} elements, the batch's shape asks for {expected}"
            ),
            Self::Missing { name } => {
                write!(formatter, "`{name}` is missing, and the objective needs it")
            }
            Self::TooLarge => formatter.write_str("`sequences * tokens` overflows"),
        }
    }
}

impl std::error::Error for BatchError {}

impl<E: Element> Batch<'_, E> {
    /// Number of tokens in the batch, after checking every length against it.
    pub(super) fn check(
        &self,
        objective: &Objective,
        output: Option<usize>,
    ) -> Result<usize, BatchError> {
        let total = self
            .sequences
            .checked_mul(self.tokens)
            .ok_or(BatchError::TooLarge)?;
        let check = |name, expected, got| {
            if expected == got {
                Ok(())
            } else {
                Err(BatchError::Length {
                    name,
                    expected,
                    got,
                })
            }
        };
        check("log_probs", total, self.log_probs.len())?;
        check("old_log_probs", total, self.old_log_probs.len())?;
        match self.advantages {
            Advantages::PerToken(advantages) => check("advantages", total, advantages.len())?,
            Advantages::PerSequence(advantages) => {
                check("advantages", self.sequences, advantages.len())?;
            }
        }
        if let Some(mask) = self.mask {
            check("mask", total, mask.0.len())?;
        }
        let needed = [
            (
                "rollout_log_probs",
                self.rollout_log_probs,
                objective.uses_rollout(),
            ),
            ("weights", self.weights, objective.uses_given_weights()),
            (
                "ref_log_probs",
                self.ref_log_probs,
                objective.penalty.is_some(),
            ),
        ];
        for (name, slice, _) in needed.into_iter().filter(|(_, _, needed)| *needed) {
            let slice = slice.ok_or(BatchError::Missing { name })?;
            check(name, total, slice.len())?;
        }
        if let Some(length) = output {
            check("output", total, length)?;
        }
        Ok(total)
    }
}

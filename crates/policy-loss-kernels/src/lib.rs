//! Fused kernels of the policy loss: forward and gradient in one pass.
//!
//! The kernels know neither a configuration nor a tensor library. They take an
//! [`Objective`], made of numbers and plain enums, and memory; what they compute is
//!
//! ```text
//! ratio      = exp(clamp(log_probs - base, -20, 20))      of the token, or of its sequence
//! surrogate  = min(ratio * A, clamp(ratio, 1 - low, 1 + high) * A)
//!              or clamp(ratio, low, high) * A * log_probs, the factor a constant
//! token_loss = -surrogate * weight
//! loss       = a mean or the sum of token_loss
//! ```
//!
//! together with the gradient with respect to `log_probs` and the sums that every metric
//! is made of ([`Summary`]).
//!
//! # Features
//!
//! - `cpu`: [`cpu`](mod@cpu), slices in host memory, vectorised and threaded.
//! - `cube`: kernels for every device that CubeCL has a runtime for.
#![cfg_attr(not(feature = "cpu"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cube")]
pub mod cube;
mod objective;

pub use objective::{
    Clip, LOG_RATIO_BOUND, LogProbWeight, LogProbWeights, Objective, RatioBase, RatioLevel,
    Reduction, Summary, Weight,
};

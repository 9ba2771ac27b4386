//! Fused kernels of the policy loss: forward and gradient in one pass.
//!
//! The kernels know neither a configuration nor a tensor library. They take an
//! [`Objective`], made of numbers and plain enums, and memory; what they compute is
//!
//! ```text
//! ratio      = exp(clamp(log_probs - base, -20, 20))      of the token, or of its sequence
//! surrogate  = min(ratio * A, clamp(ratio, 1 - low, 1 + high) * A)    or another Surrogate
//! token_loss = -surrogate * weight  +  coefficient * kl(log_probs, ref_log_probs)    Penalty
//! loss       = a mean or a sum of token_loss                          Reduction
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

mod correction;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cube")]
pub mod cube;
mod objective;
mod penalty;
mod summary;

pub use correction::{
    Correction, FilterEstimator, FilterLevel, Filters, Weight, WeightLevel, WeightMode,
};
pub use objective::{
    Clip, Distance, Gamma, LEAST_LOG_RATIO, LOG_RATIO_BOUND, Objective, Range, RatioBase,
    RatioLevel, Reduction, Surrogate, Weighed,
};
pub use penalty::{Estimator, Penalty, PenaltyGradient};
pub use summary::Summary;

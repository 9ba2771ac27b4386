//! What a policy loss is, and the fused kernels that compute it: forward and gradient in one pass.
//!
//! An [`Objective`] is a value. Its formulas are written once and compiled for the vector units of a
//! processor and for every device that CubeCL has a runtime for; neither knows a tensor library:
//!
//! ```text
//! ratio      = exp(clamp(log_probs - base, -20, 20))      of the token, or of its sequence
//! surrogate  = min(ratio * A, clamp(ratio, 1 - low, 1 + high) * A)    or another Surrogate
//! token_loss = -surrogate * weight  +  coefficient * kl  -  coefficient * entropy
//! loss       = a mean or a sum of token_loss                          Reduction
//! ```
//!
//! Together with the gradients with respect to `log_probs` and `entropies` they yield one row of
//! [`Sums`], which rows of other batches can be added to, and which all [metrics](MetricValues) are
//! formulas of.
//!
//! # Features
//!
//! - `cpu`: [`cpu`](mod@cpu), slices in host memory, vectorised and threaded.
//! - `cube`: kernels for every device that CubeCL has a runtime for.
// Without a machine to compile for, the formulas are not used.
#![cfg_attr(
    not(all(feature = "cpu", feature = "cube")),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        rustdoc::broken_intra_doc_links
    )
)]

mod accumulators;
mod blueprint;
mod columns;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cube")]
pub mod cube;
mod formula;
mod kind;
mod numbers;
pub mod objective;
mod sums;

pub use blueprint::Blueprint;
pub use columns::Columns;
pub use kind::Kind;
pub use objective::Objective;
pub use sums::{MetricValues, Sum, Sums};

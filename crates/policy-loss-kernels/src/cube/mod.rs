//! The policy loss as kernels, for every device that CubeCL has a runtime for.
//!
//! One visit of the inputs gives the loss, all sums and the gradients; a second kernel, of a single
//! cube, adds up what the cubes of the first hand over. Nothing is read back.
//!
//! There is one kernel for all objectives, made of the crate's formulas and specialised when it is
//! compiled: what an objective does not ask for is not in its kernel. Sums are added up in an order
//! that the shape alone determines, without atomics: results are the same bits in every run.
//!
//! Arithmetic is f64 if `log_probs` is f64, else f32.
//!
//! ```ignore
//! let outputs = cube::forward(&client, &objective, &batch, None, true);
//! // Later, when the gradient of the loss is known:
//! let gradient = cube::backward(&client, outputs.gradient, &outputs.factor, &upstream);
//! ```

mod backward;
mod batch;
mod columns;
mod geometry;
pub(crate) mod lanes;
mod launch;
pub mod log_probs;
mod partials;
mod pieces;
mod visit;
pub(crate) mod words;

pub use batch::{Batch, Buffer, Outputs};
pub use launch::{arithmetic, backward, forward};

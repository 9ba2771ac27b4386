//! The policy loss as kernels, for every device that CubeCL has a runtime for.
//!
//! One visit of the inputs gives the loss, all metrics and the gradient; a second kernel, of a
//! single cube, adds up what the cubes of the first hand over. Nothing is read back.
//!
//! There is one kernel for all objectives. It is composed of a function for each part of an
//! objective and specialised when it is compiled: what an objective does not ask for is not in
//! its kernel. Sums are added up in an order that the shape alone determines, without atomics:
//! results are the same bits in every run.
//!
//! Inputs may be of any float types that the device has, in any mixture. Arithmetic is f64 if
//! `log_probs` is f64, else f32; the gradient has the type of `log_probs`.
//!
//! ```ignore
//! let outputs = cube::forward(&client, &objective, batch, true);
//! // Later, when the gradient of the loss is known:
//! let gradient = cube::backward(&client, outputs.gradient, outputs.factor, upstream);
//! ```

mod backward;
mod batch;
mod blueprint;
mod by_rows;
mod by_tokens;
mod columns;
mod correction;
mod finish;
mod gaps;
mod gather;
mod geometry;
mod kinds;
mod lanes;
mod launch;
pub mod log_probs;
mod metric;
mod of_sequence;
mod parts;
mod penalty;
mod sums;
mod surrogates;
mod token;
mod totals;
mod trust_region;
mod visit;

pub use batch::{Advantages, Batch, Buffer, Outputs};
pub use launch::{arithmetic, backward, forward};
pub use metric::{Metric, metrics};

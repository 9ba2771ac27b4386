//! One suite for every backend, mode and implementation of the policy loss.
//!
//! `tests/matrix.rs` runs it; an oracle of plain `f64` loops and the reference's own values say
//! what is right.

pub mod advantages;
pub mod busy;
pub mod case;
mod combinations;
pub mod compare;
pub mod configs;
mod corrections;
mod coverage;
pub mod framework_golden;
pub mod framework_rollout;
pub mod golden;
pub mod log_probs;
mod matrix;
mod once;
pub mod oracle;
mod probe;
pub mod rollout;
pub mod row;
mod runner;
pub mod suite;
pub mod value_loss;

pub use coverage::{IMPLEMENTATIONS, implementations};
pub use once::run_once;
pub use probe::{Probe, REQUIRE};
pub use runner::{Mode, Outcome, Runner, run, values};

/// The code of the README is compiled and run like all documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

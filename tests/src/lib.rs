//! One suite for every backend, mode and implementation of the policy loss.
//!
//! `tests/matrix.rs` runs it; an oracle of plain `f64` loops and the values that others compute say
//! what is right.

pub mod advantages;
pub mod busy;
pub mod case;
pub mod compare;
pub mod configs;
pub mod fuzz;
pub mod golden;
pub mod log_probs;
mod matrix;
mod probe;
pub mod row;
mod runner;
pub mod selection;
pub mod suite;
pub mod value_loss;

pub use probe::{Probe, REQUIRE};
pub use runner::{
    IMPLEMENTATIONS, Mode, Outcome, Runner, implementations, run, run_once, run_with_each, values,
};

/// The code of the README is compiled and run like all documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// That of the page on objectives, too.
#[cfg(doctest)]
#[doc = include_str!("../../docs/OBJECTIVES.md")]
pub struct Objectives;

/// And that of the page on advantages.
#[cfg(doctest)]
#[doc = include_str!("../../docs/ADVANTAGES.md")]
pub struct AdvantagesPage;

//! The parts of the suite of the value loss.

pub mod golden;
pub mod gradients;
pub mod laws;

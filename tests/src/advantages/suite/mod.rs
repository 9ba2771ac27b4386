//! The parts of the suite of advantages.

pub mod by_hand;
pub mod errors;
pub mod features;
pub mod golden;
pub mod kl_reward;
pub mod laws;
pub mod teacher;

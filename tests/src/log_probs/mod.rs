//! Log-probs of logits and of hidden states, on every backend.
//!
//! `tests/log_probs.rs` runs the [`suite`]; an [`oracle`] of plain `f64` loops and a real
//! language-model head say what is right.

pub mod case;
pub mod oracle;
pub mod suite;

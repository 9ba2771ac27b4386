//! The value loss: oracle, cases and suite.

pub mod case;
pub mod oracle;
pub mod suite;

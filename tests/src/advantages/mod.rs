//! Advantage estimators and the KL in the reward: oracle, cases and suite.

pub mod case;
pub mod oracle;
pub mod suite;

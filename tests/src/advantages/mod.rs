//! Advantage estimators and the KL in the reward: oracle, golden values and suite.

pub mod case;
pub mod golden;
pub mod oracle;
pub mod suite;
pub mod suite_errors;
pub mod suite_golden;
pub mod suite_groups;
pub mod suite_kl;
pub mod suite_whitening;

//! What others compute, in files: the library has to compute the same, on every backend and in
//! every mode.
//!
//! The files lie in `tests/data`, or, whole, in the directory that [`DIRECTORY`] names. They have
//! the same names there, so that anybody can run cases of their own through the whole matrix:
//!
//! ```text
//! POLICY_LOSS_GOLDEN=DIR cargo test golden
//! ```
//!
//! Every test that reads a file has `golden` in its name. What is missing or damaged is a failure.

pub mod features;
pub mod frameworks;
pub mod openrlhf;
pub mod peers;
pub mod real_rollout;
pub mod sums;
pub mod verl_rollout;

use std::path::PathBuf;

use policy_loss::{GlobalTotals, KlEstimator, KlGradient, PolicyLossConfig, Reduction, Surrogate};
use serde::de::DeserializeOwned;

use crate::case::Case;

/// The environment variable that names another directory.
pub const DIRECTORY: &str = "POLICY_LOSS_GOLDEN";

/// Where the files are read from.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    /// Whether it is not the directory of this package, so that nothing is known of its content.
    is_foreign: bool,
}

impl Directory {
    /// That of this package, or the one that the environment names.
    #[must_use]
    pub fn of_environment() -> Self {
        match std::env::var_os(DIRECTORY) {
            Some(path) => Self::foreign(path),
            None => Self::own(),
        }
    }

    /// That of this package.
    #[must_use]
    pub fn own() -> Self {
        Self {
            path: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data")),
            is_foreign: false,
        }
    }

    /// Any other.
    #[must_use]
    pub fn foreign(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            is_foreign: true,
        }
    }

    /// A file.
    ///
    /// # Panics
    ///
    /// It cannot be read.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path.join(name);
        std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{} cannot be read: {error}; the golden tests read it from the directory that \
                 {DIRECTORY} names, or from `tests/data`",
                path.display()
            )
        })
    }

    /// A file of JSON.
    ///
    /// # Panics
    ///
    /// It cannot be read, or holds something else.
    #[must_use]
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_slice(&self.bytes(name)).unwrap_or_else(|error| {
            let path = self.path.join(name);
            panic!("{} does not hold golden values: {error}", path.display())
        })
    }

    /// Fails unless a file of this package holds so many cases, and another one some.
    ///
    /// # Panics
    ///
    /// It does not.
    pub fn assert_count(&self, name: &str, found: usize, expected: usize) {
        let path = self.path.join(name);
        match self.is_foreign {
            true => assert!(found > 0, "{} holds no case", path.display()),
            false => assert_eq!(found, expected, "cases of {}", path.display()),
        }
    }
}

/// What differs from the default in the surrogate alone.
fn with_surrogate(surrogate: impl Into<Surrogate>) -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(surrogate)
}

/// The estimate of a name of verl's and others', with its gradient: a plus behind the name lets it be
/// that of the squared log-ratio.
fn estimator(name: &str) -> (KlEstimator, KlGradient) {
    let gradient = match name.ends_with('+') {
        true => KlGradient::StraightThrough,
        false => KlGradient::Estimator,
    };
    let estimator = match name.trim_end_matches('+') {
        "k1" => KlEstimator::K1,
        "k2" => KlEstimator::K2,
        "k3" => KlEstimator::K3,
        "abs" => KlEstimator::Abs,
        other => panic!("an estimate that is not known: {other:?}"),
    };
    (estimator, gradient)
}

/// The reduction of a name of verl's and others', with the length that it may divide by.
fn reduction(name: Option<&str>, length: impl FnOnce() -> usize) -> Reduction {
    match name {
        Some("token-mean") => Reduction::TokenMean,
        Some("token-sum") => Reduction::TokenSum,
        Some("seq-mean-token-mean") => Reduction::SequenceMean,
        Some("seq-mean-token-sum") => Reduction::SequenceSumMean,
        Some("seq-mean-token-sum-norm") => Reduction::FixedLength { length: length() },
        other => panic!("a reduction that is not known: {other:?}"),
    }
}

/// A reduction over sequences that divides by all of them, with a token or without.
fn over_rows(config: PolicyLossConfig, reduction: Reduction, case: &mut Case) -> PolicyLossConfig {
    case.totals = Some(GlobalTotals::new().with_sequences(case.sequences));
    config.with_reduction(reduction)
}

//! What can go wrong, with the exit code of each kind.

use std::process::ExitCode;

/// A failure with a message that a person can act on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Arguments that have no meaning together.
    #[error("{0}")]
    Usage(String),
    /// The batch, the objective or the totals are wrong; mending the input helps.
    #[error("{0}")]
    BadInput(String),
    /// The device cannot be used on this machine, or by this build of the program.
    #[error("{0}")]
    DeviceUnavailable(String),
    /// Anything else: the output cannot be written, or the device failed while it computed.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// The codes that `--help` lists; the command line parser has 2 as well.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::BadInput(_) => 3,
            Self::DeviceUnavailable(_) => 4,
        })
    }
}

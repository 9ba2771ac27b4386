//! The choice between the implementations of the loss.

use serde::{Deserialize, Serialize};

/// How a loss is computed; the results agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Implementation {
    /// Fused where the device has it for the objective, else composed. An error where the device has
    /// it and this build does not, because the feature of its backend is off.
    #[default]
    Auto,
    /// Plain tensor operations, on every backend.
    Composed,
    /// One pass over the inputs that yields loss, metrics and gradient.
    Fused,
}

impl std::fmt::Display for Implementation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Composed => "composed",
            Self::Fused => "fused",
        })
    }
}

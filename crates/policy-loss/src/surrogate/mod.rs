//! The surrogate objectives, one file each.

mod clip;

use burn::tensor::{Bool, Tensor};
pub use clip::Clip;
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// The surrogate objective of one token; its negative is the token loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Surrogate {
    /// The clipped surrogate of PPO.
    Clip(Clip),
}

impl Default for Surrogate {
    fn default() -> Self {
        Self::Clip(Clip::default())
    }
}

impl From<Clip> for Surrogate {
    fn from(clip: Clip) -> Self {
        Self::Clip(clip)
    }
}

/// The surrogate of each token, `[B, T]`, or `[B, 1]` where a whole sequence shares it.
pub(crate) struct Surrogated {
    /// The value, tracked.
    pub surrogate: Tensor<2>,
    /// Where the clipped branch was taken.
    pub clipped: Tensor<2, Bool>,
    /// Where the dual clip was taken; absent without one.
    pub dual_clipped: Option<Tensor<2, Bool>>,
}

impl Surrogate {
    pub(crate) fn of(&self, ratio: Tensor<2>, advantages: Tensor<2>) -> Surrogated {
        match self {
            Self::Clip(clip) => clip.of(ratio, advantages),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Clip(clip) => clip.validate(),
        }
    }
}

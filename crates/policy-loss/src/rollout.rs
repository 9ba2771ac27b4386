//! The correction for the mismatch between sampler and trainer.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::config::ordered;
use crate::valid::Valid;

/// The weight `w` of a token, which corrects for the mismatch between the policy that sampled
/// and the policy that the update started from. With `rho = exp(old - rollout)`, a constant:
///
/// ```text
/// truncate       clamp(rho, low, high)
/// mask           rho where low <= rho <= high, else 0
/// sequence_mask  rho for every token of a sequence whose
///                exp(mean of old - rollout over valid tokens) lies in [low, high], else 0
/// ```
///
/// A rejected weight is 0 whatever `rho` is. The three corrections are known as TIS, IcePop and
/// seq-mask-TIS.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RolloutCorrection {
    /// Truncated importance sampling (TIS).
    Truncate {
        /// Smallest weight. Finite and above 0.
        low: f64,
        /// Largest weight. Finite and not below `low`.
        high: f64,
    },
    /// Tokens outside the range are dropped (IcePop).
    Mask {
        /// Smallest weight that is kept. Finite and above 0.
        low: f64,
        /// Largest weight that is kept. Finite and not below `low`.
        high: f64,
    },
    /// Sequences outside the range are dropped (seq-mask-TIS).
    SequenceMask {
        /// Smallest geometric mean that is kept. Finite and above 0.
        low: f64,
        /// Largest geometric mean that is kept. Finite and not below `low`.
        high: f64,
    },
}

impl RolloutCorrection {
    fn bounds(&self) -> (f64, f64) {
        match *self {
            Self::Truncate { low, high }
            | Self::Mask { low, high }
            | Self::SequenceMask { low, high } => (low, high),
        }
    }

    /// The weights of a gap `old - rollout`, `[B, T]`, that is 0 at padding.
    pub(crate) fn weights(&self, gap: Tensor<2>, valid: &Valid) -> Weights {
        let rho = gap.clone().exp();
        let (low, high) = self.bounds();
        let outside = |x: Tensor<2>| {
            // Not `x < low or x > high`: a NaN lies in no range.
            let inside = x
                .clone()
                .greater_equal_elem(low)
                .bool_and(x.lower_equal_elem(high));
            inside.bool_not()
        };
        match self {
            Self::Truncate { .. } => Weights {
                weight: rho.clone().clamp(low, high),
                truncated: Some(outside(rho)),
                zeroed: None,
                gap,
            },
            Self::Mask { .. } => {
                let zeroed = outside(rho.clone());
                Weights {
                    weight: rho.mask_fill(zeroed.clone(), 0),
                    truncated: None,
                    zeroed: Some(zeroed),
                    gap,
                }
            }
            Self::SequenceMask { .. } => {
                let geometric_mean = valid.mean_per_sequence(gap.clone()).exp();
                let zeroed = outside(geometric_mean).expand(rho.dims());
                Weights {
                    weight: rho.mask_fill(zeroed.clone(), 0),
                    truncated: None,
                    zeroed: Some(zeroed),
                    gap,
                }
            }
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        ordered(
            "rollout_correction.low",
            "rollout_correction.high",
            self.bounds(),
        )
    }
}

/// The rollout correction of each token, `[B, T]`.
pub(crate) struct Weights {
    /// `w`.
    pub weight: Tensor<2>,
    /// `old - rollout`, 0 at padding.
    pub gap: Tensor<2>,
    /// Where the weight was cut to a bound, for corrections that do so.
    pub truncated: Option<Tensor<2, Bool>>,
    /// Where the weight was set to 0, for corrections that do so.
    pub zeroed: Option<Tensor<2, Bool>>,
}

//! The weight of a rollout correction.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use super::validate_bounds;
use crate::ratio::LOG_RATIO_LIMIT;
use crate::valid::Valid;
use crate::{Bounds, ConfigError, sum};

/// The weight of a token in a [`RolloutCorrection`](super::RolloutCorrection). With the gap
/// `g = old_log_probs - rollout_log_probs`:
///
/// ```text
/// token      rho = exp(g)                                       of the token
/// sequence   rho = exp(clamp(sum of g, -20, 20))                 of its sequence
/// geometric  rho = exp(clamp(mean of g, -20, 20))                of its sequence
///
/// truncate   w = clamp(rho, low, high)
/// mask       w = rho where low <= rho <= high, else 0
/// raw        w = rho
/// ```
///
/// The product over a sequence is the exact correction, with a variance that grows with the
/// length; the token's own is biased, with little variance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutWeight {
    /// What the ratio is taken over.
    #[serde(default)]
    pub level: WeightLevel,
    /// What becomes of ratios that are small or large.
    pub mode: WeightMode,
}

/// What the ratio of a [`RolloutWeight`] is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLevel {
    /// Each token its own.
    #[default]
    Token,
    /// The product of a sequence's ratios.
    Sequence,
    /// The geometric mean of a sequence's ratios.
    Geometric,
}

/// What becomes of ratios that are small or large; see [`RolloutWeight`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WeightMode {
    /// They are moved to the bound.
    Truncate(Bounds),
    /// They become 0.
    Mask(Bounds),
    /// Nothing.
    Raw(Unbounded),
}

/// No bounds at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unbounded {}

type Marks = Option<Tensor<2, Bool>>;

impl RolloutWeight {
    /// Ratios of tokens, moved into `bounds`.
    pub const fn truncate(bounds: Bounds) -> Self {
        Self::new(WeightMode::Truncate(bounds))
    }

    /// Ratios of tokens, 0 outside of `bounds`.
    pub const fn mask(bounds: Bounds) -> Self {
        Self::new(WeightMode::Mask(bounds))
    }

    /// Ratios of tokens as they are.
    pub const fn raw() -> Self {
        Self::new(WeightMode::Raw(Unbounded {}))
    }

    const fn new(mode: WeightMode) -> Self {
        Self {
            level: WeightLevel::Token,
            mode,
        }
    }

    /// The same of another level.
    pub const fn of_level(mut self, level: WeightLevel) -> Self {
        self.level = level;
        self
    }

    /// The weight `[B, T]`, where it was cut to a bound, and where it has to become 0.
    pub(super) fn of(&self, gap: Tensor<2>, valid: &Valid) -> (Tensor<2>, Marks, Marks) {
        let shape = gap.dims();
        let limited = |x: Tensor<2>| x.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp();
        let rho = match self.level {
            WeightLevel::Token => gap.exp(),
            WeightLevel::Sequence => limited(valid.sum_per_sequence(gap)),
            WeightLevel::Geometric => limited(valid.mean_per_sequence(gap)),
        };
        let rho = rho.expand(shape);
        let outside = |bounds: Bounds| bounds.contain(rho.clone()).bool_not();
        match self.mode {
            WeightMode::Truncate(bounds) => {
                // Not a NaN, which stays one.
                let truncated = outside(bounds).bool_and(rho.clone().equal(rho.clone()));
                (bounds.clamp(rho), Some(truncated), None)
            }
            WeightMode::Mask(bounds) => {
                let masked = outside(bounds);
                // Also before a mean is taken: a rejected weight may be infinite.
                (rho.mask_fill(masked.clone(), 0), None, Some(masked))
            }
            WeightMode::Raw(_) => (rho, None, None),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match &self.mode {
            WeightMode::Truncate(bounds) | WeightMode::Mask(bounds) => validate_bounds(
                bounds,
                "rollout_correction.weight.mode.low",
                "rollout_correction.weight.mode.high",
            ),
            WeightMode::Raw(_) => Ok(()),
        }
    }
}

impl WeightLevel {
    /// Divided by the mean, over tokens or over sequences; unchanged where every weight is 0.
    pub(super) fn normalized(self, weight: Tensor<2>, valid: &Valid) -> Tensor<2> {
        let shape = weight.dims();
        let selected = valid.select(weight.clone());
        let mean = match self {
            Self::Token => valid.mean(selected),
            Self::Sequence | Self::Geometric => {
                sum::total(valid.mean_per_sequence(selected)) / valid.sequences.clone().clamp_min(1)
            }
        };
        let nothing = mean.clone().equal_elem(0);
        let mean = mean.mask_fill(nothing, 1).reshape([1, 1]);
        weight / mean.expand(shape)
    }
}

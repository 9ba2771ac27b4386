//! A range that one side may leave open.

use burn::tensor::{Bool, Tensor};
use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::config::positive;

/// A closed range `[low, high]` of positive numbers; a side that is left out is open.
///
/// ```
/// use policy_loss::Bounds;
///
/// let from_half_to_five = Bounds::new(0.5, 5.0);
/// let at_most_two = Bounds::at_most(2.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Smallest accepted value. Finite and above 0, or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Largest accepted value. Finite and not below `low`, or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Bounds {
    /// From `low` to `high`, both included.
    pub const fn new(low: f64, high: f64) -> Self {
        Self {
            low: Some(low),
            high: Some(high),
        }
    }

    /// Up to `high`.
    pub const fn at_most(high: f64) -> Self {
        Self {
            low: None,
            high: Some(high),
        }
    }

    /// From `low` on.
    pub const fn at_least(low: f64) -> Self {
        Self {
            low: Some(low),
            high: None,
        }
    }

    /// In the kernels' terms: an infinity is no bound, and what is bounded is never negative.
    pub(crate) fn range(&self) -> kernels::Range {
        kernels::Range {
            low: self.low.unwrap_or(0.0),
            high: self.high.unwrap_or(f64::INFINITY),
        }
    }

    /// `x` moved into the range. A NaN stays one.
    pub(crate) fn clamp(&self, x: Tensor<2>) -> Tensor<2> {
        match (self.low, self.high) {
            (Some(low), Some(high)) => x.clamp(low, high),
            (Some(low), None) => x.clamp_min(low),
            (None, Some(high)) => x.clamp_max(high),
            (None, None) => x,
        }
    }

    /// Where `x` lies in the range. A NaN lies in none.
    pub(crate) fn contain(&self, x: Tensor<2>) -> Tensor<2, Bool> {
        match (self.low, self.high) {
            (Some(low), Some(high)) => {
                let above = x.clone().greater_equal_elem(low);
                above.bool_and(x.lower_equal_elem(high))
            }
            (Some(low), None) => x.greater_equal_elem(low),
            (None, Some(high)) => x.lower_equal_elem(high),
            (None, None) => x.clone().equal(x),
        }
    }

    /// Checks both sides; the fields are named as in the configuration.
    pub(crate) fn validate(
        &self,
        low_field: &'static str,
        high_field: &'static str,
    ) -> Result<(), ConfigError> {
        if let Some(low) = self.low {
            positive(low_field, low)?;
        }
        if let Some(high) = self.high {
            positive(high_field, high)?;
        }
        match (self.low, self.high) {
            (Some(low), Some(high)) if low > high => Err(ConfigError::OutOfRange {
                field: low_field,
                value: format!("{low}, above `{high_field}` = {high}"),
                accepted: "low <= high",
            }),
            (None, None) => Err(ConfigError::Missing {
                field: high_field,
                needed_by: "a range",
                accepted: "`low`, `high` or both, finite and above 0",
            }),
            _ => Ok(()),
        }
    }
}

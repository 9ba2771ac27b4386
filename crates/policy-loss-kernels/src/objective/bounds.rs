//! A range that one side may leave open.

use serde::{Deserialize, Serialize};

use super::check::{ConfigError, finite, if_given, positive};

/// A closed range `[low, high]` of positive numbers, or, where it says so, of any; a side that is left out is open.
///
/// ```
/// use policy_loss_kernels::objective::Bounds;
///
/// let from_half_to_five = Bounds::new(0.5, 5.0);
/// let at_most_two = Bounds::at_most(2.0);
/// assert_eq!(at_most_two.low_or_zero(), 0.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Smallest accepted value. Finite and above 0 (of a difference: of either sign), or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Largest accepted value. Finite and not below `low`, or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Bounds {
    /// From `low` to `high`, both included.
    #[must_use]
    pub const fn new(low: f64, high: f64) -> Self {
        Self {
            low: Some(low),
            high: Some(high),
        }
    }

    /// Up to `high`.
    #[must_use]
    pub const fn at_most(high: f64) -> Self {
        Self {
            low: None,
            high: Some(high),
        }
    }

    /// From `low` on.
    #[must_use]
    pub const fn at_least(low: f64) -> Self {
        Self {
            low: Some(low),
            high: None,
        }
    }

    /// The lower bound of a weight or a ratio; without one 0, since neither is ever negative.
    #[must_use]
    pub const fn low_or_zero(&self) -> f64 {
        match self.low {
            Some(low) => low,
            None => 0.0,
        }
    }

    /// The upper bound; without one infinity, which bounds nothing.
    #[must_use]
    pub const fn high_or_infinity(&self) -> f64 {
        match self.high {
            Some(high) => high,
            None => f64::INFINITY,
        }
    }

    /// Checks both sides.
    ///
    /// # Errors
    ///
    /// A bound that is not finite and above 0, `low` above `high`, or no bound at all. The errors
    /// call the sides as `fields` does.
    pub fn validate(&self, fields: [&'static str; 2]) -> Result<(), ConfigError> {
        let accepted = "`low`, `high` or both, finite and above 0";
        self.validate_sides(fields, positive, accepted)
    }

    /// Checks both sides of a range of numbers of either sign.
    ///
    /// # Errors
    ///
    /// A bound that is not finite, `low` above `high`, or no bound at all.
    pub fn validate_of_either_sign(&self, fields: [&'static str; 2]) -> Result<(), ConfigError> {
        self.validate_sides(fields, finite, "`low`, `high` or both, finite")
    }

    fn validate_sides(
        &self,
        [low_field, high_field]: [&'static str; 2],
        check: fn(&'static str, f64) -> Result<(), ConfigError>,
        accepted: &'static str,
    ) -> Result<(), ConfigError> {
        if_given(self.low, |low| check(low_field, *low))?;
        if_given(self.high, |high| check(high_field, *high))?;
        match (self.low, self.high) {
            (None, None) => Err(ConfigError::Missing {
                field: high_field,
                needed_by: "a range",
                accepted,
            }),
            (Some(low), Some(high)) if low > high => Err(ConfigError::OutOfRange {
                field: low_field,
                value: format!("{low}, above `{high_field}` = {high}"),
                accepted: "low <= high",
            }),
            _ => Ok(()),
        }
    }
}

//! Checks of numbers, and what they find.

/// A configuration that has no meaning, found when it is built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value lies outside the range of its field.
    #[error("`{field}` is {value}; accepted: {accepted}")]
    OutOfRange {
        /// Path of the field, as in the serialized configuration.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// The values that would be accepted.
        accepted: &'static str,
    },
    /// A field is absent that another one needs.
    #[error("`{field}` is missing, but {needed_by} needs it; accepted: {accepted}")]
    Missing {
        /// The field that is absent.
        field: &'static str,
        /// What needs it.
        needed_by: &'static str,
        /// The values that would be accepted.
        accepted: &'static str,
    },
    /// Two settings that have no meaning together.
    #[error("`{first}` together with `{second}` has no meaning: {reason}")]
    Combination {
        /// One of the two settings, with its value.
        first: &'static str,
        /// The other one, with its value.
        second: &'static str,
        /// Why, and what to write instead.
        reason: &'static str,
    },
    /// A name that is not in the list of known ones.
    #[error("`{field}` is {value:?}; accepted: {accepted}")]
    UnknownName {
        /// The field that holds the name.
        field: &'static str,
        /// The name that was given.
        value: String,
        /// Every known name.
        accepted: String,
    },
}

/// A bound: finite and above 0.
pub fn positive(field: &'static str, value: f64) -> Result<(), ConfigError> {
    let holds = value.is_finite() && value > 0.0;
    require(holds, field, value, "a finite number above 0")
}

/// Any number but NaN and the infinities.
pub fn finite(field: &'static str, value: f64) -> Result<(), ConfigError> {
    require(value.is_finite(), field, value, "a finite number")
}

/// An optional bound above what is neutral: finite and above 1, or none.
pub fn above_one(field: &'static str, value: Option<f64>) -> Result<(), ConfigError> {
    let Some(value) = value else {
        return Ok(());
    };
    let holds = value.is_finite() && value > 1.0;
    require(holds, field, value, "a finite number above 1, or none")
}

/// A coefficient: finite, 0 or above.
pub fn not_negative(field: &'static str, value: f64) -> Result<(), ConfigError> {
    let holds = value.is_finite() && value >= 0.0;
    require(holds, field, value, "a finite number, 0 or above")
}

/// A share: above 0, and 1 at most.
pub fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    let holds = value > 0.0 && value <= 1.0;
    require(holds, field, value, "a number above 0, 1 at most")
}

/// From 0 to 1, both included.
pub fn unit(field: &'static str, value: f64) -> Result<(), ConfigError> {
    // Not `value < 0.0 || value > 1.0`: a NaN lies in no range.
    let holds = (0.0..=1.0).contains(&value);
    require(holds, field, value, "a number from 0 to 1")
}

/// Refuses `value` unless `holds`.
pub fn require(
    holds: bool,
    field: &'static str,
    value: f64,
    accepted: &'static str,
) -> Result<(), ConfigError> {
    match holds {
        true => Ok(()),
        false => Err(ConfigError::OutOfRange {
            field,
            value: value.to_string(),
            accepted,
        }),
    }
}

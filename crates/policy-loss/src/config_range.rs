//! Ranges of configuration fields that more than one part shares.

use crate::ConfigError;

/// From 0 to 1, both included.
pub(crate) fn unit(field: &'static str, value: f64) -> Result<(), ConfigError> {
    // Not `value < 0.0 || value > 1.0`: a NaN lies in no range.
    check(
        (0.0..=1.0).contains(&value),
        field,
        value,
        "a number from 0 to 1",
    )
}

/// Finite and not below 0.
pub(crate) fn not_negative(field: &'static str, value: f64) -> Result<(), ConfigError> {
    let accepted = "a finite number not below 0";
    check(value.is_finite() && value >= 0.0, field, value, accepted)
}

fn check(
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

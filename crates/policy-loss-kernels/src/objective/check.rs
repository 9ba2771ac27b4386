//! Checks of numbers, and what they find.

use super::ratio::LOG_RATIO_LIMIT;

/// Declares a part of an objective, each of its numbers once: sentence, type, default, and the check
/// that it has to pass, if any. What `new` is documented with stands last, where all numbers are given.
macro_rules! part {
    (
        $(#[$doc:meta])*
        $Part:ident at $path:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr $(, $check:ident)?;)*
        }
        $(#[$new:meta])+
        new
    ) => {
        $crate::objective::check::part! {
            $(#[$doc])*
            $Part at $path {
                $($(#[$field_doc])* $field: $type = $default $(, $check)?;)*
            }
        }

        impl $Part {
            $(#[$new])+
            #[must_use]
            pub const fn new($($field: $type),*) -> Self {
                Self { $($field),* }
            }
        }
    };
    (
        $(#[$doc:meta])*
        $Part:ident at $path:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr $(, $check:ident)?;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $Part {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $Part {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $Part {
            /// Checks each number by itself.
            pub(super) fn check_numbers(&self) -> Result<(), $crate::objective::ConfigError> {
                $($($crate::objective::check::$check(
                    concat!($path, ".", stringify!($field)),
                    self.$field,
                )?;)?)*
                Ok(())
            }
        }
    };
}
pub(crate) use part;

/// Declares a choice, each variant once, with the name that JSON carries: an enum with the list of all
/// of them, in this order.
macro_rules! listed {
    (
        $(#[$doc:meta])*
        $Choice:ident { $($(#[$variant_doc:meta])* $name:ident: $Variant:ident,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $Choice {
            $($(#[$variant_doc])* $Variant,)*
        }

        impl $Choice {
            /// All of them, in the order in which they are listed.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$Variant),*];

            /// As it is written in JSON.
            const fn name(self) -> &'static str {
                match self { $(Self::$Variant => stringify!($name),)* }
            }
        }
    };
}
pub(crate) use listed;

/// The paths of both sides of a range, for errors.
macro_rules! sides {
    ($path:literal) => {
        [concat!($path, ".low"), concat!($path, ".high")]
    };
}
pub(crate) use sides;

/// Checks what is there.
pub fn if_given<T>(
    part: Option<T>,
    check: impl FnOnce(&T) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    part.as_ref().map_or(Ok(()), check)
}

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

/// A bound of log-ratios: above 0, and no further than they are clamped.
pub fn log_ratio_bound(field: &'static str, value: f64) -> Result<(), ConfigError> {
    let accepted = "a number above 0, at most 20, where every log-ratio is clamped";
    require(
        value > 0.0 && value <= LOG_RATIO_LIMIT,
        field,
        value,
        accepted,
    )
}

/// From 0 to 1, both included.
pub fn unit(field: &'static str, value: f64) -> Result<(), ConfigError> {
    // Not `value < 0.0 || value > 1.0`: a NaN lies in no range.
    let holds = (0.0..=1.0).contains(&value);
    require(holds, field, value, "a number from 0 to 1")
}

/// Refuses `value` unless `holds`, and what would be 0 or infinite in f32, in which devices compute.
pub fn require(
    holds: bool,
    field: &'static str,
    value: f64,
    accepted: &'static str,
) -> Result<(), ConfigError> {
    let in_f32 = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
    let is_in_f32 = value == 0.0 || value.is_infinite() || in_f32.contains(&value.abs());
    if holds && is_in_f32 {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value: match is_in_f32 {
            true => value.to_string(),
            false => format!("{value:e}"),
        },
        accepted: match holds {
            true => "a number that f32 holds: from 1.2e-38 to 3.4e38 in size",
            false => accepted,
        },
    })
}

//! What is wrong with a value.

use std::fmt::Display;

use serde::de::{Error, Expected, Unexpected};

use super::tree::{Path, Segment};

/// The field that names a variant, in every part of a configuration that is tagged.
pub const TAG: &str = "type";

/// What a tagged part is written as.
pub const TAGGED: &str = "an object with a `type`";

/// What is wrong, and where.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// From the root to the value.
    pub path: Path,
    /// What is wrong there.
    pub kind: Kind,
}

/// What is wrong with a value.
#[derive(Debug, PartialEq)]
pub enum Kind {
    /// It is of another type, out of the range of its type, or an unknown name.
    Unfit { accepted: String },
    /// A field that there is not.
    UnknownField { field: String, accepted: String },
    /// A field that has to be there.
    Missing { field: &'static str },
    /// Whatever the library says.
    Other(String),
}

impl Fault {
    /// A value in the place of which `accepted` would be right.
    pub fn unfit(accepted: impl Into<String>) -> Self {
        Self::from(Kind::Unfit {
            accepted: accepted.into(),
        })
    }

    /// The same, seen from one level above.
    pub fn below(mut self, segment: Segment) -> Self {
        self.path.prepend(segment);
        self
    }
}

impl From<Kind> for Fault {
    fn from(kind: Kind) -> Self {
        Self {
            path: Path::default(),
            kind,
        }
    }
}

impl std::error::Error for Fault {}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.path, self.kind)
    }
}

impl Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::from(Kind::Other(message.to_string()))
    }

    fn invalid_type(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::unfit(in_words(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::unfit(in_words(&expected.to_string()))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::unfit(in_words(&expected.to_string()))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::unfit(quoted(expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::from(Kind::UnknownField {
            field: field.to_owned(),
            accepted: fields(expected),
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::from(Kind::Missing { field })
    }
}

/// What serde calls by the names of Rust.
fn in_words(expected: &str) -> String {
    match expected {
        "f64" | "f32" => "a number".into(),
        "u64" | "usize" | "u32" => "an integer, 0 or above".into(),
        "i64" | "isize" | "i32" => "an integer".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        tagged if tagged.starts_with("internally tagged enum") => TAGGED.into(),
        other => other.into(),
    }
}

/// Whether there is more to say about what is accepted: a buffer takes anything, and names can be
/// listed.
pub fn says_little(accepted: &str) -> bool {
    accepted == TAGGED || ["any value", "string or map", "variant identifier"].contains(&accepted)
}

/// Names as JSON has them.
pub fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

/// Names of fields.
pub fn fields(names: &[&str]) -> String {
    match names {
        [] => "no field at all".to_owned(),
        names => {
            let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            quoted.join(", ")
        }
    }
}

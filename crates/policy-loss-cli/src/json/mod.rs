//! Reads configurations from JSON, strictly, with errors that name the field by its path, its value
//! and what would be accepted.
//!
//! serde reads a struct also from an array, field by field, and a variant also from
//! `{"name": null}`. Nobody means that, so it is refused here: [`deserializer`] takes a JSON value
//! for a struct, a list or a variant only where it is written as one.

mod deserializer;
mod fault;
mod tree;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use deserializer::Json;
use fault::{Fault, Kind};
use tree::{Path, Segment};

/// Reads `text`; the error is one line, without a word about where the text comes from.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let root = tree::parse(text)?;
    take::<T>(&root).map_err(|fault| explain::<T>(&root, fault))
}

fn take<T: DeserializeOwned>(root: &Value) -> Result<T, Fault> {
    T::deserialize(Json::new(root))
}

fn explain<T: DeserializeOwned>(root: &Value, mut fault: Fault) -> String {
    find_field::<T>(root, &mut fault);
    let place = &fault.path;
    match &fault.kind {
        Kind::Unfit { accepted } => {
            let accepted = match fault::says_little(accepted) {
                true => what_is_accepted::<T>(root, place),
                false => Ok(accepted.clone()),
            };
            match accepted {
                Ok(accepted) => {
                    let value = shown(place.of(root));
                    format!("`{place}` is {value}; accepted: {accepted}")
                }
                // There should be nothing at all, or something else is missing.
                Err(other) => other,
            }
        }
        Kind::UnknownField { field, accepted } => {
            let within = match place.is_root() {
                true => String::new(),
                false => format!(" in `{place}`"),
            };
            format!("unknown field `{field}`{within}; accepted: {accepted}")
        }
        Kind::Missing { field } => {
            let field = place.join(Segment::Key((*field).to_owned()));
            match what_is_accepted::<T>(root, &field) {
                Ok(accepted) => format!("`{field}` is missing; accepted: {accepted}"),
                Err(_) => format!("`{field}` is missing"),
            }
        }
        Kind::Other(what) => match place.is_root() {
            true => what.clone(),
            false => format!("`{place}`: {what}"),
        },
    }
}

/// serde keeps the fields beside a tag in a buffer, and has forgotten where they stand when it reads
/// them. The one that is meant is the one about which there is the same to say when it stands there
/// alone, and not to say when there is only the tag.
fn find_field<T: DeserializeOwned>(root: &Value, fault: &mut Fault) {
    let (Kind::Unfit { .. }, Some(Value::Object(object))) = (&fault.kind, fault.path.of(root))
    else {
        return;
    };
    let is_said_with = |field: &str| {
        let mut alone = object.clone();
        alone.retain(|other, _| other == field || other == fault::TAG);
        let changed = fault.path.put(root, Value::Object(alone));
        take::<T>(&changed).is_err_and(|other| other == *fault)
    };
    if !object.contains_key(fault::TAG) || is_said_with(fault::TAG) {
        return;
    }
    if let Some(key) = object.keys().find(|key| is_said_with(key)) {
        fault.path = fault.path.join(Segment::Key(key.clone()));
    }
}

/// What is accepted at a place, or what is wrong there whatever the value.
fn what_is_accepted<T: DeserializeOwned>(root: &Value, place: &Path) -> Result<String, String> {
    // No variant has an empty name: whoever expects a name will list them.
    let changed = place.put(root, json!(""));
    let Err(mut fault) = take::<T>(&changed) else {
        return Ok("a string".to_owned());
    };
    find_field::<T>(&changed, &mut fault);
    match fault.kind {
        Kind::Unfit { accepted } if fault.path == *place && accepted == fault::TAGGED => {
            let tag = place.join(Segment::Key(fault::TAG.to_owned()));
            let names = what_is_accepted::<T>(&place.put(root, json!({})), &tag)?;
            Ok(format!("{accepted}: {names}"))
        }
        Kind::Unfit { accepted } if fault.path == *place => Ok(accepted),
        _ => Err(explain::<T>(&changed, fault)),
    }
}

/// A value on one line, cut where it is long.
fn shown(value: Option<&Value>) -> String {
    const LENGTH: usize = 60;
    let text = value.map(Value::to_string).unwrap_or_default();
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

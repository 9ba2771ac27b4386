//! Reads configurations from JSON; errors name the field by its path, its value and what is
//! accepted there: what serde says when it finds a value there that fits nothing.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::{Error, deserialize};

use crate::batch_file::nearest;

/// Reads `text`; the error is one line, without a word about where the text comes from.
pub fn read<T: DeserializeOwned + Serialize>(text: &str) -> Result<T, String> {
    let root: Value = parse(text)?;
    let config: T = deserialize(&root).map_err(|error| explain::<T>(&root, error))?;
    // A tree holds a name once; only the text shows that it was given twice.
    parse::<T>(text)
        .map_err(|what| what.replace("expected value", "a name that is given twice"))?;
    let kept = serde_json::to_value(&config).map_err(|error| error.to_string())?;
    match other_form("", &root, &kept) {
        Some(path) => Err(unfit::<T>(&root, &path)),
        None => Ok(config),
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = deserialize(&mut json).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        let mut what = error.to_string();
        if what.starts_with("number out of range") {
            let line = text.lines().nth(error.line().saturating_sub(1));
            let read = line.and_then(|line| line.get(..error.column()));
            let number = read.and_then(|read| read.rsplit([' ', '\t', ':', ',', '[']).next());
            let number = number.unwrap_or_default();
            what = format!("{number} is a {what}; accepted: up to 1.8e308");
        }
        // Where a name was to come, the path ends in `?`.
        match path.trim_end_matches(['.', '?']) {
            "" => what,
            path => format!("`{path}`: {what}"),
        }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// The first place at which what was `given` has another form than what is `kept` of it: serde
/// takes a struct also from a list of its fields, and a name also from `{"name": null}`.
fn other_form(path: &str, given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, given)| {
            other_form(&format!("{path}.{name}"), given, kept.get(name)?)
        }),
        (Value::Array(given), Value::Array(kept)) => {
            let mut pairs = given.iter().zip(kept).enumerate();
            pairs.find_map(|(index, (given, kept))| {
                other_form(&format!("{path}[{index}]"), given, kept)
            })
        }
        (Value::Object(_) | Value::Array(_), _) => Some(path.trim_start_matches('.').to_owned()),
        _ => None,
    }
}

fn explain<T: DeserializeOwned>(root: &Value, error: Error<serde_json::Error>) -> String {
    let (path, what) = (error.path().to_string(), error.into_inner().to_string());
    if let Some(field) = what.strip_prefix("missing field `") {
        let path = format!("{path}.{}", field.trim_end_matches('`'));
        return format!("`{path}` is missing; {}", accepted::<T>(root, &path));
    }
    match what.rsplit_once(", expected ") {
        None => format!("`{path}`: {what}"),
        Some((found, names)) if found.starts_with("unknown field") => {
            let field = path.rsplit('.').next().unwrap_or_default();
            let hint = nearest(field, &split(names)).map(|name| format!("; is it `{name}`?"));
            let (names, hint) = (split(names).join("`, `"), hint.unwrap_or_default());
            format!("unknown field `{path}`; accepted: `{names}`{hint}")
        }
        // A name with a value too many or too few: what is accepted is said of the name.
        Some((found, expected)) if expected == "unit" || found.ends_with("unit variant") => {
            unfit::<T>(root, path.rsplit_once('.').map_or("", |(parent, _)| parent))
        }
        Some(_) => unfit::<T>(root, &path),
    }
}

fn unfit<T: DeserializeOwned>(root: &Value, path: &str) -> String {
    let value = root.pointer(&pointer(path)).map(Value::to_string);
    let mut value = value.unwrap_or_default();
    if let Some((end, _)) = value.char_indices().nth(60) {
        value.replace_range(end.., "...");
    }
    format!("`{path}` is {value}; {}", accepted::<T>(root, path))
}

/// What is accepted at a place, of which everything before it is right.
fn accepted<T: DeserializeOwned>(root: &Value, path: &str) -> String {
    // What is said to be expected when there is this value.
    let expected = |value: Value| {
        let (mut changed, pointer) = (root.clone(), pointer(path));
        let (parent, name) = pointer.rsplit_once('/')?;
        if let Value::Object(object) = changed.pointer_mut(parent)? {
            object.insert(name.to_owned(), Value::Null);
        }
        *changed.pointer_mut(&pointer)? = value;
        let what = deserialize::<_, T>(&changed)
            .err()?
            .into_inner()
            .to_string();
        Some(what.rsplit_once(", expected ")?.1.to_owned())
    };
    let form = |name: &&str| match expected(json!(name)) {
        Some(expected) if expected.ends_with(" variant") => format!("{{\"{name}\": {{...}}}}"),
        _ => format!("\"{name}\""),
    };
    let accepted = match expected(json!("")).as_deref().unwrap_or("a string") {
        "f64" => "a number".to_owned(),
        "u64" | "usize" => "an integer, 0 or above".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        fields if fields.starts_with("struct ") => {
            let fields = expected(json!({ "": 0 })).unwrap_or_default();
            format!("an object of `{}`", split(&fields).join("`, `"))
        }
        names if names.contains('`') => {
            split(names).iter().map(form).collect::<Vec<_>>().join(", ")
        }
        other => other.to_owned(),
    };
    format!("accepted: {accepted}")
}

/// `a.b[0]` as `/a/b/0`.
fn pointer(path: &str) -> String {
    format!("/{}", path.replace(['.', '['], "/").replace(']', ""))
}

/// The names in one of serde's lists.
fn split(names: &str) -> Vec<&str> {
    names.split('`').skip(1).step_by(2).collect()
}

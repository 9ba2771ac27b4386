//! What trainers compute themselves, feature by feature, in float64: state of August 2026.
//!
//! A case says whose code computed it, with which parameters, from what, and what came out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Directory;

/// The name of the file, one case a line.
pub const FILE: &str = "objectives_2026_11.json";

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Feature {
    pub feature: String,
    pub kind: String,
    pub source: String,
    pub name: String,
    params: BTreeMap<String, Value>,
    inputs: BTreeMap<String, Value>,
    expected: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct File {
    cases: Vec<Feature>,
}

/// Every case of the file.
///
/// # Panics
///
/// The file is missing or damaged.
#[must_use]
pub fn cases(directory: &Directory) -> Vec<Feature> {
    let file: File = directory.json(FILE);
    file.cases
}

/// Each of these panics where the case does not hold what is asked for.
#[allow(clippy::missing_panics_doc)]
impl Feature {
    /// A parameter; null where it is absent.
    #[must_use]
    pub fn param(&self, name: &str) -> &Value {
        self.params.get(name).unwrap_or(&Value::Null)
    }

    /// Whether there is such a parameter, if only null.
    #[must_use]
    pub fn has_param(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    /// A number among the parameters.
    #[must_use]
    pub fn number(&self, name: &str) -> f64 {
        let value = self.param(name).as_f64();
        value.unwrap_or_else(|| panic!("{}: no number {name:?}", self.name))
    }

    /// A parameter that is true or false.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        let value = self.param(name).as_bool();
        value.unwrap_or_else(|| panic!("{}: no flag {name:?}", self.name))
    }

    /// Whether there is such an input.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// The numbers of an input, row by row.
    #[must_use]
    pub fn input(&self, name: &str) -> Vec<f64> {
        self.numbers(&self.inputs, name)
    }

    /// The numbers of a result, row by row.
    #[must_use]
    pub fn expected(&self, name: &str) -> Vec<f64> {
        self.numbers(&self.expected, name)
    }

    /// `[B, T]` of an input.
    #[must_use]
    pub fn shape(&self, name: &str) -> [usize; 2] {
        let rows = self.inputs.get(name).and_then(Value::as_array);
        let rows = rows.unwrap_or_else(|| panic!("{}: no input {name:?}", self.name));
        let columns = rows.first().and_then(Value::as_array).map_or(1, Vec::len);
        [rows.len(), columns]
    }

    /// The action mask; absent: every token is valid.
    #[must_use]
    pub fn mask(&self) -> Option<Vec<bool>> {
        let mask = self.has("action_mask").then(|| self.input("action_mask"))?;
        Some(mask.into_iter().map(|valid| valid == 1.0).collect())
    }

    fn numbers(&self, of: &BTreeMap<String, Value>, name: &str) -> Vec<f64> {
        let value = of.get(name);
        let value = value.unwrap_or_else(|| panic!("{}: no {name:?}", self.name));
        let mut numbers = Vec::new();
        flatten(value, &mut numbers);
        numbers
    }
}

fn flatten(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        Value::String(name) => into.push(name.parse().expect("the name of a number")),
        value => into.push(value.as_f64().expect("a number")),
    }
}

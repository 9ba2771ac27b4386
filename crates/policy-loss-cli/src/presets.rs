//! `policy-loss presets`: the named objectives, as they would be written in a configuration file.

use policy_loss::{PolicyLossConfig, Preset};
use serde::Serialize;

use crate::args::ListArguments;
use crate::failure::Failure;
use crate::objective::as_json;
use crate::output;
use crate::report::{flush_left, plain};

#[derive(Serialize)]
struct Presets {
    presets: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    /// The token loss and its reduction.
    formula: &'static str,
    /// The paper, or the framework.
    source: &'static str,
    /// What `--config` takes.
    config: PolicyLossConfig,
}

/// Lists every preset.
pub fn run(arguments: &ListArguments) -> Result<(), Failure> {
    let presets = Presets {
        presets: Preset::ALL.into_iter().map(describe).collect(),
    };
    match arguments.json {
        true => output::json(&presets),
        false => output::result(&table(&presets)),
    }
}

fn describe(preset: Preset) -> Entry {
    Entry {
        name: preset.name(),
        formula: preset.summary(),
        source: preset.source(),
        config: preset.config(),
    }
}

fn table(presets: &Presets) -> String {
    let mut table = plain();
    for entry in &presets.presets {
        table.add_row([entry.name, &format!("{} ({})", entry.formula, entry.source)]);
        table.add_row(["", &as_json(&entry.config)]);
    }
    flush_left(table)
}

//! `policy-loss presets`: the named objectives, as they would be written in a configuration file.

use policy_loss::{PolicyLossConfig, Preset};
use serde::Serialize;

use crate::args::ListArguments;
use crate::failure::Failure;
use crate::objective::json;
use crate::output;
use crate::report::{flush_left, plain};

#[derive(Serialize)]
struct Presets {
    presets: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    description: &'static str,
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
    let description = match preset {
        Preset::Ppo => "PPO: clip 0.2 / 0.2, token mean (arXiv 1707.06347)",
        Preset::DualClipPpo => "PPO with a dual clip of 3 (arXiv 1912.09729)",
        Preset::Grpo => "GRPO: PPO with a sequence mean (arXiv 2402.03300)",
        Preset::Dapo => "DAPO: clip-higher, 0.2 / 0.28, token mean (arXiv 2503.14476)",
        Preset::Gspo => "GSPO: one ratio per sequence, sequence mean (arXiv 2507.18071)",
        // The library may have presets that this program has no words for yet.
        _ => "",
    };
    Entry {
        name: preset.name(),
        description,
        config: preset.config(),
    }
}

fn table(presets: &Presets) -> String {
    let mut table = plain();
    for entry in &presets.presets {
        table.add_row([entry.name, entry.description]);
        table.add_row(["", &json(&entry.config)]);
    }
    flush_left(table)
}

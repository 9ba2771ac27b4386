//! The objective that the command line asks for.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use policy_loss::{OpenRlhfPolicyLoss, PolicyLoss, PolicyLossConfig, Preset};
use serde::de::DeserializeOwned;

use crate::args::ObjectiveArguments;
use crate::failure::Failure;

/// An objective that was checked.
pub struct Objective {
    /// What computes it.
    pub loss: PolicyLoss,
    /// Where it was asked for.
    pub origin: Origin,
}

/// Where an objective was asked for; it is named in front of what is wrong with the objective.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// The arguments of OpenRLHF on the command line.
    OpenRlhf,
    /// This file.
    Config(String),
    /// A name.
    Preset(Preset),
    /// Nowhere.
    Default(Preset),
}

impl Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OpenRlhf => f.write_str("--openrlhf"),
            Self::Config(path) => write!(f, "--config {path}"),
            Self::Preset(preset) => write!(f, "--preset {preset}"),
            Self::Default(preset) => write!(f, "{preset} (default)"),
        }
    }
}

impl Origin {
    /// A failure that concerns the objective.
    pub fn bad(&self, what: impl Display) -> Failure {
        Failure::BadInput(format!("{self}: {what}"))
    }
}

impl Objective {
    /// Reads and checks the objective; the command line holds one at most.
    pub fn read(arguments: &ObjectiveArguments) -> Result<Self, Failure> {
        let (config, origin) = match arguments {
            ObjectiveArguments {
                openrlhf: Some(text),
                ..
            } => (from_openrlhf(text)?, Origin::OpenRlhf),
            ObjectiveArguments {
                config: Some(path), ..
            } => from_file(path)?,
            ObjectiveArguments {
                preset: Some(preset),
                ..
            } => (preset.config(), Origin::Preset(*preset)),
            _ => (Preset::Ppo.config(), Origin::Default(Preset::Ppo)),
        };
        let loss = config.init().map_err(|error| origin.bad(error))?;
        Ok(Self { loss, origin })
    }

    /// Reads and checks several objectives: presets first, then files.
    pub fn read_all(presets: &[Preset], configs: &[PathBuf]) -> Result<Vec<Self>, Failure> {
        let presets = presets
            .iter()
            .map(|preset| Ok((preset.config(), Origin::Preset(*preset))));
        let configs = configs.iter().map(|path| from_file(path));
        presets
            .chain(configs)
            .map(|read| {
                let (config, origin) = read?;
                let loss = config.init().map_err(|error| origin.bad(error))?;
                Ok(Self { loss, origin })
            })
            .collect()
    }

    /// The configuration on one line, in the form that `--config` takes.
    pub fn json(&self) -> String {
        json(self.loss.config())
    }
}

/// A configuration on one line, in the form that `--config` takes.
pub fn json(config: &PolicyLossConfig) -> String {
    serde_json::to_string(config).unwrap_or_else(|_| format!("{config:?}"))
}

fn from_openrlhf(text: &str) -> Result<PolicyLossConfig, Failure> {
    let origin = Origin::OpenRlhf;
    if !is_object(text) {
        return Err(origin.bad(format!(
            "expected JSON text, such as '{{\"clip_eps_high\": 0.28}}', and got {text:?}; \
             to read a file, write --openrlhf \"$(cat FILE)\""
        )));
    }
    let arguments: OpenRlhfPolicyLoss = parse(text, &origin)?;
    PolicyLossConfig::try_from(arguments).map_err(|error| origin.bad(error))
}

fn from_file(path: &Path) -> Result<(PolicyLossConfig, Origin), Failure> {
    let origin = Origin::Config(path.display().to_string());
    let text = fs::read_to_string(path).map_err(|error| origin.bad(error))?;
    if !is_object(&text) {
        return Err(origin
            .bad("expected a JSON object, such as `policy-loss presets` shows for every preset"));
    }
    Ok((parse(&text, &origin)?, origin))
}

/// A struct can also be read from an array, field by field; nobody means that.
fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

fn parse<T: DeserializeOwned>(text: &str, origin: &Origin) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| origin.bad(error))
}

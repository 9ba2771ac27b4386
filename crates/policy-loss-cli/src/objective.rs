//! The objective that the command line asks for.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use policy_loss::{OpenRlhfPolicyLoss, PolicyLoss, PolicyLossConfig, Preset};

use crate::args::ObjectiveArguments;
use crate::failure::Failure;
use crate::json;
use crate::requested::Requested;

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
    /// A name that stands at the head of a column; of a long path it is the end.
    pub fn short(&self) -> String {
        const LENGTH: usize = 24;
        let path = match self {
            Self::OpenRlhf => return "openrlhf".to_owned(),
            Self::Preset(preset) | Self::Default(preset) => return preset.to_string(),
            Self::Config(path) => path,
        };
        match path.char_indices().nth_back(LENGTH - 1) {
            Some((start @ 1.., _)) => format!("...{}", &path[start..]),
            _ => path.clone(),
        }
    }

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

    /// Reads and checks several objectives.
    pub fn read_all(requested: &[Requested]) -> Result<Vec<Self>, Failure> {
        let read = |requested: &Requested| {
            let (config, origin) = match requested {
                Requested::Preset(preset) => (preset.config(), Origin::Preset(*preset)),
                Requested::Config(path) => from_file(path)?,
            };
            let loss = config.init().map_err(|error| origin.bad(error))?;
            Ok(Self { loss, origin })
        };
        requested.iter().map(read).collect()
    }

    /// The configuration on one line, in the form that `--config` takes.
    pub fn json(&self) -> String {
        as_json(self.loss.config())
    }
}

/// A configuration on one line, in the form that `--config` takes.
pub fn as_json(config: &PolicyLossConfig) -> String {
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
    let arguments: OpenRlhfPolicyLoss = json::read(text).map_err(|error| origin.bad(error))?;
    PolicyLossConfig::try_from(arguments).map_err(|error| origin.bad(error))
}

fn from_file(path: &Path) -> Result<(PolicyLossConfig, Origin), Failure> {
    let origin = Origin::Config(path.display().to_string());
    let bytes = fs::read(path).map_err(|error| origin.bad(error))?;
    let text = utf8(&bytes).map_err(|what| origin.bad(what))?;
    if !is_object(text) {
        return Err(origin
            .bad("expected a JSON object, such as `policy-loss presets` shows for every preset"));
    }
    let config = json::read(text).map_err(|error| origin.bad(error))?;
    Ok((config, origin))
}

/// Text without the mark that editors on Windows put in front of it.
fn utf8(bytes: &[u8]) -> Result<&str, &'static str> {
    match bytes {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Err("is UTF-16; expected JSON in UTF-8"),
        [0xEF, 0xBB, 0xBF, text @ ..] | text => {
            str::from_utf8(text).map_err(|_| "is no text; expected JSON in UTF-8")
        }
    }
}

/// Whatever else is given, a file name or a batch above all, deserves a hint of its own.
fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

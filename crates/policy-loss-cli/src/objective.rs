//! An objective, read and checked.

use std::fs;
use std::path::Path;

use policy_loss::{Implementation, OpenRlhfPolicyLoss, PolicyLoss, PolicyLossConfig};

use crate::json;
use crate::output::Failure;
use crate::requested::Requested;

/// An objective that was checked.
pub struct Objective {
    /// What computes it.
    pub loss: PolicyLoss,
    /// How it was asked for.
    pub requested: Requested,
}

impl Objective {
    /// Reads and checks an objective.
    pub fn read(requested: Requested, implementation: Implementation) -> Result<Self, Failure> {
        let bad = |what: String| requested.bad(what);
        let config = match &requested {
            Requested::OpenRlhf(text) => from_openrlhf(text).map_err(bad)?,
            Requested::Config(path) => from_file(path).map_err(bad)?,
            Requested::Preset(preset) => preset.config(),
            Requested::Default => Requested::DEFAULT.config(),
        };
        let config = config.with_implementation(implementation);
        let loss = config.init().map_err(|error| requested.bad(error))?;
        Ok(Self { loss, requested })
    }

    /// The same objective, computed in this way.
    pub fn with_implementation(
        &self,
        implementation: Implementation,
    ) -> Result<PolicyLoss, Failure> {
        let config = self.loss.config().with_implementation(implementation);
        config.init().map_err(|error| self.requested.bad(error))
    }

    /// The configuration on one line, in the form that `--config` takes.
    pub fn json(&self) -> String {
        as_json(self.loss.config())
    }
}

/// A short name for each objective; of several with the same name, all but the first are numbered.
pub fn short_names(objectives: &[Objective]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for objective in objectives {
        let name = objective.requested.short();
        let mut numbered = name.clone();
        for number in 2.. {
            if !names.contains(&numbered) {
                break;
            }
            numbered = format!("{name} ({number})");
        }
        names.push(numbered);
    }
    names
}

/// A configuration on one line, in the form that `--config` takes.
pub fn as_json(config: &PolicyLossConfig) -> String {
    serde_json::to_string(config).unwrap_or_else(|_| format!("{config:?}"))
}

/// The configuration that the text of `--openrlhf` asks for.
pub fn from_openrlhf(text: &str) -> Result<PolicyLossConfig, String> {
    if !is_object(text) {
        return Err(format!(
            "expected JSON text, such as '{{\"clip_eps_high\": 0.28}}', and got {text:?}; \
             to read a file, write --openrlhf \"$(cat FILE)\""
        ));
    }
    let arguments: OpenRlhfPolicyLoss = json::read(text)?;
    PolicyLossConfig::try_from(arguments).map_err(|error| error.to_string())
}

fn from_file(path: &Path) -> Result<PolicyLossConfig, String> {
    from_bytes(&fs::read(path).map_err(|error| error.to_string())?)
}

/// The configuration that the bytes of a `--config` file hold.
pub fn from_bytes(bytes: &[u8]) -> Result<PolicyLossConfig, String> {
    let text = utf8(bytes)?;
    if !is_object(text) {
        return Err(
            "expected a JSON object, such as `policy-loss presets` shows for every preset".into(),
        );
    }
    json::read(text)
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

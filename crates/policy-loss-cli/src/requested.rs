//! The objectives that the command line asks for, in its order.

use std::fmt::Display;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use policy_loss::Preset;

use crate::args::preset;
use crate::output::Failure;

/// An objective that was asked for; it is named in front of what is wrong with it.
#[derive(Debug, Clone)]
pub enum Requested {
    /// In the arguments of OpenRLHF, as JSON text.
    OpenRlhf(String),
    /// As a JSON file.
    Config(PathBuf),
    /// By name.
    Preset(Preset),
    /// Not at all.
    Default,
}

impl Requested {
    /// What stands for an objective that nobody asked for.
    pub const DEFAULT: Preset = Preset::Ppo;

    /// A name that stands at the head of a column; of a long path it is the end.
    pub fn short(&self) -> String {
        const LENGTH: usize = 24;
        let path = match self {
            Self::OpenRlhf(_) => return "openrlhf".to_owned(),
            Self::Preset(preset) => return preset.to_string(),
            Self::Default => return Self::DEFAULT.to_string(),
            Self::Config(path) => path.display().to_string(),
        };
        match path.char_indices().nth_back(LENGTH - 1) {
            Some((start @ 1.., _)) => format!("...{}", &path[start..]),
            _ => path,
        }
    }

    /// Whether nobody asked for it.
    pub fn is_default(&self) -> bool {
        matches!(self, Self::Default)
    }

    /// A failure that concerns the objective.
    pub fn bad(&self, what: impl Display) -> Failure {
        Failure::BadInput(format!("{self}: {what}"))
    }
}

impl Display for Requested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OpenRlhf(_) => f.write_str("--openrlhf"),
            Self::Config(path) => write!(f, "--config {}", path.display()),
            Self::Preset(preset) => write!(f, "--preset {preset}"),
            Self::Default => write!(f, "{} (default)", Self::DEFAULT),
        }
    }
}

/// Objectives in the order of the command line.
///
/// The parser keeps a list for each argument; where each value stood, it tells on request.
#[derive(Debug, Clone)]
pub struct Objectives(pub Vec<Requested>);

#[derive(Debug, Args)]
struct Lists {
    /// An objective by name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = preset())]
    preset: Vec<Preset>,

    /// An objective as a JSON file; may be repeated
    #[arg(long, value_name = "FILE.json")]
    config: Vec<PathBuf>,
}

impl FromArgMatches for Objectives {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let lists = Lists::from_arg_matches(matches)?;
        let places = |id| matches.indices_of(id).into_iter().flatten();
        let presets = places("preset").zip(lists.preset.into_iter().map(Requested::Preset));
        let configs = places("config").zip(lists.config.into_iter().map(Requested::Config));
        let mut requested: Vec<_> = presets.chain(configs).collect();
        requested.sort_by_key(|(place, _)| *place);
        let requested = requested.into_iter().map(|(_, requested)| requested);
        Ok(Self(requested.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Objectives {
    fn augment_args(command: Command) -> Command {
        Lists::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Lists::augment_args_for_update(command)
    }
}

//! Objectives in the order of the command line.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use policy_loss::Preset;

use crate::args::preset;

/// An objective that was asked for.
#[derive(Debug, Clone)]
pub enum Requested {
    /// By name.
    Preset(Preset),
    /// As a file.
    Config(PathBuf),
}

/// Objectives in the order of the command line, one at least.
///
/// The parser keeps a list for each argument; where each value stood, it tells on request.
#[derive(Debug, Clone)]
pub struct Objectives(pub Vec<Requested>);

#[derive(Debug, Args)]
struct Lists {
    /// An objective by name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = preset(), required_unless_present = "config")]
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

//! Everything that is said: results to standard output, notes and failures to standard error.

use std::fmt::Display;
use std::fs;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use policy_loss::device::BackendUnavailable;
use serde::Serialize;

/// A failure with a message that a person can act on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Arguments that have no meaning together.
    #[error("{0}")]
    Usage(String),
    /// The batch, the objective or the totals are wrong; mending the input helps.
    #[error("{0}")]
    BadInput(String),
    /// The device cannot be used on this machine, or by this build of the program.
    #[error("{0}")]
    DeviceUnavailable(#[from] BackendUnavailable),
    /// Anything else: the output cannot be written, or the device failed while it computed.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// That `who`, a backend or its device, did not finish.
    pub fn computing(who: impl Display, error: impl Display) -> Self {
        Self::Other(format!("{who} failed while it computed: {error}"))
    }

    /// The codes that `--help` lists; the command line parser has 2 as well.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::BadInput(_) => 3,
            Self::DeviceUnavailable(_) => 4,
        })
    }
}

/// Prints a result, as one JSON object or as a table for people.
pub fn result<R: Serialize>(
    as_json: bool,
    report: &R,
    table: impl FnOnce(&R) -> String,
) -> Result<(), Failure> {
    let text = match as_json {
        true => serde_json::to_string_pretty(report)
            .map_err(|error| Failure::Other(format!("cannot write JSON: {error}")))?,
        false => table(report),
    };
    let mut stdout = stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // A reader that has seen enough (`policy-loss ... | head -1`) closes the pipe.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Other(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Says something that the user should know, and that is no failure.
pub fn note(text: impl Display) {
    to_stderr("note", &text);
}

/// Says that there are pictures, to a person.
pub fn pictures(as_json: bool) {
    if !as_json {
        note(
            "to look at this batch: policy-loss report, with the batch, the objective as --preset or \
             --config, and --out FILE.html",
        );
    }
}

/// Says that something is likely to go wrong.
pub fn warning(text: impl Display) {
    to_stderr("warning", &text);
}

/// Says why the program failed.
pub fn error(failure: &Failure) {
    to_stderr("error", failure);
}

fn to_stderr(kind: &str, text: &dyn Display) {
    // `eprintln!` panics when standard error is closed, and there is no one left to tell.
    let _ = writeln!(stderr().lock(), "{kind}: {}", printable(&text.to_string()));
}

/// Refuses to write a result over an input of the program.
pub fn refuse_overwriting(flag: &str, out: &Path, what: &str, input: &Path) -> Result<(), Failure> {
    match is_same_file(out, input) {
        true => Err(Failure::BadInput(format!(
            "{flag} {} would overwrite {what}; name another file",
            out.display()
        ))),
        false => Ok(()),
    }
}

/// Whether two paths lead to one file, by way of links too.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        identity(one).is_some_and(|one| identity(other) == Some(one))
    }
    #[cfg(not(unix))]
    {
        let place = |path: &Path| path.canonicalize().ok();
        place(one).is_some_and(|one| place(other) == Some(one))
    }
}

/// One line, in which nothing is left that a terminal would obey: names in files can hold anything.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        // What is invisible, or turns the direction of writing, is no control character.
        let is_hidden = matches!(
            character,
            '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        );
        match character.is_control() || is_hidden {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

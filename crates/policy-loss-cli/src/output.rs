//! Everything that is printed: results to standard output, notes and errors to standard error.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use serde::Serialize;

use crate::failure::Failure;

/// Prints a result.
///
/// A reader that has seen enough (`policy-loss ... | head -1`) closes the pipe; that is no failure.
pub fn result(text: &str) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Other(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Prints a result as one JSON object.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => result(&text),
        Err(error) => Err(Failure::Other(format!("cannot write JSON: {error}"))),
    }
}

/// Says something that the user should know, and that is no failure.
pub fn note(text: impl Display) {
    to_stderr("note", &text);
}

/// Says why the program failed.
pub fn error(failure: &Failure) {
    to_stderr("error", failure);
}

fn to_stderr(kind: &str, text: &dyn Display) {
    // `eprintln!` panics when standard error is closed, and there is no one left to tell.
    let _ = writeln!(stderr().lock(), "{kind}: {}", printable(&text.to_string()));
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

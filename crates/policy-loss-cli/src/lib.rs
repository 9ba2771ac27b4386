//! The `policy-loss` program: evaluate a batch that was dumped from any trainer, with the library
//! [`policy_loss`], and compare.
//!
//! The subcommands are in `eval`, `compare`, `pictures`, `bench` and `listings`. Everything that can
//! be wrong with the input is an `output::Failure`, one line that says what to do about it. It is a
//! library only for its tests: do not build on it.

mod args;
mod backends;
mod batch_file;
mod bench;
mod beside;
mod compare;
mod eval;
#[doc(hidden)]
pub mod fuzz;
mod gradient;
mod json;
mod listings;
mod mask;
mod objective;
mod output;
mod pictures;
mod report;
mod requested;
mod steps;
mod tensors;
mod warned;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

/// The program, with the arguments of the process.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Report(arguments) => pictures::run(&arguments),
        Command::Devices(arguments) => listings::devices(&arguments),
        Command::Presets(arguments) => listings::presets(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::error(&failure);
            failure.exit_code()
        }
    }
}

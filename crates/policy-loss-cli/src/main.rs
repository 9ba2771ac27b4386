//! The `policy-loss` program: evaluate a batch that was dumped from any trainer, with the library
//! [`policy_loss`], and compare.
//!
//! One subcommand is one file ([`eval`], [`compare`],
//! [`devices`], [`presets`], [`mod@bench`]). Everything that can be wrong
//! with the input is a [`failure::Failure`], one line that says what to do about it.

mod args;
mod backends;
mod batch_file;
mod bench;
mod compare;
mod devices;
mod eval;
mod failure;
mod gradient;
mod json;
mod mask;
mod memory;
mod objective;
mod output;
mod presets;
mod report;
mod requested;
mod tensors;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Presets(arguments) => presets::run(&arguments),
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

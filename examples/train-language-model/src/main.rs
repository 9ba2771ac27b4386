//! A real language model learns by reinforcement learning.
//!
//! ```text
//! python3 scripts/fetch_smollm2.py target/smollm2
//! cargo run --release -p train-language-model -- check --model target/smollm2 \
//!     --rollout tests/data/rollout_smollm2.safetensors
//! ```
//!
//! `config`, `weights` and `tokens` read a model, `model` is the policy, `sampler` lets it answer.

mod batch;
mod check;
mod cli;
mod config;
mod error;
mod expression;
mod model;
mod sampler;
mod task;
#[cfg(test)]
mod tests;
mod tokens;
mod weights;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Arguments, Command};

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.command {
        Command::Check {
            model,
            rollout,
            device,
        } => check::check(&model, &rollout, &device.device()?),
    }
}

//! A small transformer learns, by reinforcement learning alone, to reverse the digits of a prompt.
//!
//! ```text
//! cargo run --release -p train-policy
//! cargo run --release -p train-policy -- --preset gspo --seed 7
//! ```
//!
//! Read it in this order: `task` (what is asked, and the reward), `model` (the policy), `sampler`
//! and `rollout` (where the data comes from), `train` (where the policy loss is).

mod cli;
mod model;
mod plot;
mod report;
mod rollout;
mod sampler;
mod task;
mod train;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use policy_loss::{RolloutCorrection, presets};

use crate::cli::Arguments;
use crate::report::Report;
use crate::train::Trainer;

/// The sampler's weights are rounded, so its log-probs are not quite those of the trainer. The
/// weight that makes up for it is held within this range (truncated importance sampling).
const CORRECTION: RolloutCorrection = presets::tis(0.5, 2.0);

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let preset = arguments.preset;
    let config = preset.config().with_rollout_correction(CORRECTION);
    let device = arguments.device.device()?;
    // A plot that cannot be written is found before the training, not after it.
    plot::prepare(&arguments.plot)?;
    let mut trainer = Trainer::new(&device, &config, arguments.learning_rate, arguments.seed)?;

    let start = Instant::now();
    let report = Report::new(arguments.iterations);
    let mut history = Vec::new();
    for _ in 0..arguments.iterations {
        let iteration = trainer.iterate()?;
        report.iteration(&iteration);
        history.push(iteration);
    }
    let seconds = start.elapsed().as_secs_f64();

    let title = format!("Reversing digits with {preset}, seed {}", arguments.seed);
    plot::draw(&arguments.plot, &title, &history)?;
    println!("learning curves: {}", arguments.plot.display());
    let reward = |iteration: Option<&train::Iteration>| iteration.map_or(0.0, |i| i.reward);
    println!(
        "mean reward {:.3} -> {:.3} in {} iterations, {seconds:.1} s",
        reward(history.first()),
        reward(history.last()),
        history.len()
    );
    Ok(())
}

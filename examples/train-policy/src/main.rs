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
mod progress;
mod rollout;
mod sampler;
mod task;
mod train;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use policy_loss::{Observation, RolloutCorrection, Warnings, presets};
use policy_loss_report::{Curves, Report};

use crate::cli::Arguments;
use crate::progress::Progress;
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
    // A report that cannot be written is found before the training, not after it.
    write(&arguments.report, "")?;
    let mut trainer = Trainer::new(&device, &config, arguments.learning_rate, arguments.seed)?;

    let start = Instant::now();
    let progress = Progress::new(arguments.iterations);
    let title = format!("Reversing digits with {preset}, seed {}", arguments.seed);
    let mut report = Report::new(title);
    let mut warnings = Warnings::new(&config.objective);
    let mut curves = Curves::new();
    let mut rewards = Vec::new();
    for number in 1..=arguments.iterations {
        let iteration = trainer.iterate()?;
        let new = warnings.observe(&Observation::new(iteration.metrics));
        progress.iteration(&iteration, &new);
        report = report.with_warnings(&format!("iteration {number}"), &new);
        let first = [("reward", iteration.reward), ("loss", iteration.loss)];
        let metrics = iteration.metrics.named().into_iter();
        let metrics = metrics.filter_map(|(name, value)| Some((name, value?)));
        curves.push(number.to_string(), first.into_iter().chain(metrics));
        rewards.push(iteration.reward);
    }
    let seconds = start.elapsed().as_secs_f64();

    write(&arguments.report, &report.with_curves(curves).to_html())?;
    println!("learning curves: {}", arguments.report.display());
    let reward = |reward: Option<&f64>| reward.copied().unwrap_or(0.0);
    println!(
        "mean reward {:.3} -> {:.3} in {} iterations, {seconds:.1} s",
        reward(rewards.first()),
        reward(rewards.last()),
        rewards.len()
    );
    Ok(())
}

fn write(path: &Path, page: &str) -> Result<(), Box<dyn Error>> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| std::fs::write(path, page))
        .map_err(|error| format!("cannot write the report to {}: {error}", path.display()).into())
}

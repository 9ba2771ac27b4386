//! A small transformer learns, by reinforcement learning alone, to reverse the digits of a prompt.
//!
//! ```text
//! cargo run --release -p train-policy
//! cargo run --release -p train-policy -- --preset gspo --seed 7
//! ```
//!
//! Read it in this order: `task` (what is asked, and the reward), `model` (the policy), `sampler`
//! and `rollout` (where the data comes from), `train` (where the policy loss is).

/// As `println!`, but where nobody reads on, as behind `head`, the run goes on.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

mod cli;
mod model;
mod progress;
mod rollout;
mod sampler;
mod task;
mod train;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use policy_loss::{
    KlBase, Observation, PolicyLossConfig, Preset, Reduction, RolloutCorrection, Warnings, presets,
};
use policy_loss_report::{Curves, Report};

use crate::cli::Arguments;
use crate::progress::Progress;
use crate::task::ANSWER_LENGTH;
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
    let config = objective(preset)?;
    let device = arguments.device.device()?;
    // A report that cannot be written is found before the training, not after it; an older one stays.
    write(&arguments.report, None)?;
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

    write(
        &arguments.report,
        Some(&report.with_curves(curves).to_html()),
    )?;
    say!("learning curves: {}", arguments.report.display());
    let reward = |reward: Option<&f64>| reward.copied().unwrap_or(0.0);
    say!(
        "mean reward {:.3} -> {:.3} in {} iterations, {seconds:.1} s",
        reward(rewards.first()),
        reward(rewards.last()),
        rewards.len()
    );
    Ok(())
}

/// The objective of a preset, for answers to this task.
fn objective(preset: Preset) -> Result<PolicyLossConfig, String> {
    let mut config = preset.config();
    let penalty = config.objective.kl_penalty;
    if penalty.is_some_and(|penalty| penalty.against == KlBase::Reference) {
        return Err(format!(
            "--preset {preset}: its KL penalty is against a reference policy, and a policy that \
             learns from nothing has none; the example train-language-model has one"
        ));
    }
    if !config.objective.corrects_mismatch() {
        config = config.with_rollout_correction(CORRECTION);
    }
    // Answers are as long as the task allows, whatever the preset was written for.
    if let Reduction::FixedLength { .. } = config.objective.reduction {
        let length = ANSWER_LENGTH;
        config = config.with_reduction(Reduction::FixedLength { length });
    }
    Ok(config)
}

/// Writes the report, or finds out whether it can be written.
fn write(path: &Path, page: Option<&str>) -> Result<(), Box<dyn Error>> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = folder.and_then(|()| match page {
        Some(page) => std::fs::write(path, page),
        None => File::options()
            .append(true)
            .create(true)
            .open(path)
            .map(drop),
    });
    written
        .map_err(|error| format!("cannot write the report to {}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_trained_with_or_refused_by_name() {
        let mut refused = Vec::new();
        for preset in Preset::ALL {
            match objective(preset) {
                Ok(config) => drop(config.init().expect("a preset has a meaning")),
                Err(message) => {
                    assert!(
                        message.contains(&format!("--preset {preset}:")),
                        "{message}"
                    );
                    refused.push(preset);
                }
            }
        }
        assert_eq!(refused, [Preset::VerlGrpo]);
    }

    #[test]
    fn a_preset_keeps_its_own_correction() {
        let of = |preset: Preset| objective(preset).map(|config| config.objective);
        let own = Preset::DecoupledPpo.config().objective;
        assert_eq!(of(Preset::DecoupledPpo), Ok(own));
        let length = Reduction::FixedLength {
            length: ANSWER_LENGTH,
        };
        assert_eq!(of(Preset::DrGrpo).map(|own| own.reduction), Ok(length));
    }
}

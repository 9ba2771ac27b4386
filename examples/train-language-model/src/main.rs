//! A real language model learns by reinforcement learning.
//!
//! ```text
//! python3 scripts/fetch_smollm2.py target/smollm2
//! cargo run --release -p train-language-model -- train --model target/smollm2
//! cargo run --release -p train-language-model -- check --model target/smollm2 \
//!     --rollout tests/data/rollout_smollm2.safetensors
//! ```
//!
//! Read it in this order: `task` (what is asked, and the reward), `model` (the policy), `sampler`
//! (where the data comes from), `train` (where the policy loss is). `config`, `weights`, `tokens` and
//! `template` read a model, `adapters` and `checkpoint` write what it learned.

/// As `println!`, but where nobody reads on, as behind `head`, the run goes on.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

mod adapters;
mod batch;
mod bench;
mod bench_learning;
mod check;
mod checkpoint;
mod cli;
mod config;
mod error;
mod expression;
mod model;
mod report;
mod sampler;
mod settings;
mod task;
mod template;
#[cfg(test)]
mod tests;
mod tokens;
mod train;
mod weights;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use peak_alloc::PeakAlloc;
use serde_json::json;

use crate::cli::{Arguments, Command, Target, Train};
use crate::report::{HeldOut, Log};
use crate::train::Trainer;

/// Counts what is allocated in host memory.
#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

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
        Command::Train(arguments) => train(*arguments),
        Command::Check {
            target: Target { model, device },
            adapters,
            rollout,
        } => check::check(&model, adapters.as_deref(), &rollout, &device.device()?),
        Command::Bench {
            target: Target { model, device },
            tokens,
            sequences,
        } => bench::bench(
            &model,
            tokens as usize,
            sequences as usize,
            &device.device()?,
        ),
        Command::BenchLearning {
            target: Target { model, device },
            workload,
        } => bench_learning::bench(&model, &workload, &device.device()?),
    }
}

fn train(arguments: Train) -> Result<(), Box<dyn Error>> {
    let Train {
        target: Target { model, device },
        out,
        settings,
        ..
    } = arguments;
    let device = device.device()?;
    std::fs::create_dir_all(&out).map_err(|error| format!("--out {}: {error}", out.display()))?;
    let newest = checkpoint::newest(&out)?;
    let mut trainer = match (newest, arguments.resume) {
        (Some(newest), true) => checkpoint::resume(&model, &newest, settings, &device)?,
        (None, true) => {
            return Err(format!("--resume: there is no checkpoint in {}", out.display()).into());
        }
        (Some(newest), false) => {
            return Err(format!(
                "{} is there already; --resume goes on from it, another --out begins anew",
                newest.display()
            )
            .into());
        }
        (None, false) => Trainer::new(&model, None, settings, &device)?,
    };
    if trainer.step > arguments.steps {
        return Err(format!(
            "--steps {}: the checkpoint has made {} steps; accepted: as many or more",
            arguments.steps, trainer.step
        )
        .into());
    }
    let mut log = Log::new(&out, trainer.step, arguments.steps, arguments.json)?;
    let start = Instant::now();
    // A run that goes on has measured it when it began.
    if trainer.step == 0
        && let Some(before) = trainer.evaluate()?
    {
        log.evaluation("before", &before);
        trainer.held_out_before = Some(before.reward);
    }
    while trainer.step < arguments.steps {
        log.step(&trainer.step()?)?;
        if trainer.step.is_multiple_of(arguments.save_every) {
            log.sync()?;
            checkpoint::save(&trainer, &model, &out)?;
        }
    }
    // Before the evaluation: what was learned must not depend on it.
    log.sync()?;
    let saved = checkpoint::save(&trainer, &model, &out)?;
    let after = trainer.evaluate()?;
    if let Some(after) = &after {
        log.evaluation("after", after);
    }
    let held_out = trainer
        .held_out_before
        .zip(after)
        .map(|(before, after)| HeldOut {
            questions: trainer.settings.evaluate,
            before,
            after: after.reward,
        });
    let page = log.finish(&trainer.settings, &model, held_out.as_ref())?;
    let seconds = start.elapsed().as_secs_f64();
    let memory = PEAK.peak_usage_as_gb();
    if arguments.json {
        let line = json!({
            "saved": saved.display().to_string(),
            "curves": page.display().to_string(),
            "held_out": held_out,
            "seconds": seconds,
            "memory_gib": memory,
        });
        say!("{line}");
    } else {
        if let Some((name, value)) = held_out.as_ref().map(HeldOut::named) {
            say!("{name}: {value}");
        }
        say!("what was learned: {}", saved.display());
        say!("curves: {}", page.display());
        say!("{seconds:.1} s, at most {memory:.2} GiB of memory");
    }
    Ok(())
}

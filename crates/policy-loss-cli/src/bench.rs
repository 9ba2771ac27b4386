//! `policy-loss bench`: the fused loss, the composed loss and a plain copy of what they read,
//! interleaved in one run on the user's own device.

mod copy;
mod inputs;
mod log_probs;

use std::num::NonZeroUsize;
use std::time::Instant;

use burn::tensor::Device;
use policy_loss::{Implementation, PolicyLoss};
use serde::Serialize;

use crate::args::{BenchArguments, ObjectiveArguments, Subject};
use crate::backends::Backend;
use crate::failure::Failure;
use crate::memory::peak_extra_bytes;
use crate::objective::Objective;
use crate::output;
use crate::report::{flush_left, plain};
use copy::Copy;
use inputs::Inputs;

/// Rounds that are not timed: they compile kernels, fill pools and wake threads.
const WARM_UP: usize = 3;

/// What was measured; times are for forward and backward together.
#[derive(Debug, Serialize)]
struct Report {
    device: &'static str,
    /// The name of a preset, or that of a file.
    objective: String,
    batch: usize,
    tokens: usize,
    rounds: usize,
    /// Absent where the device has no fused implementation.
    fused_ns_per_token: Option<f64>,
    fused_spread_ns_per_token: Option<f64>,
    /// Step after step, with nothing in between: warm caches, and memory that the allocator keeps.
    fused_repeated_ns_per_token: Option<f64>,
    composed_ns_per_token: f64,
    composed_spread_ns_per_token: f64,
    /// Copying the inputs: the floor.
    copy_ns_per_token: f64,
    copy_spread_ns_per_token: f64,
    /// Of the implementation that `auto` chooses.
    peak_extra_bytes: Option<u64>,
    composed_peak_extra_bytes: Option<u64>,
}

/// Measures and prints the report.
pub fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    refuse_unread(arguments)?;
    let device = arguments
        .device
        .device()
        .map_err(|unavailable| Failure::DeviceUnavailable(unavailable.to_string()))?;
    if arguments.what == Subject::LogProbs {
        return log_probs::run(arguments, &device);
    }
    let report = measure(arguments, &device)?;
    match arguments.json {
        true => output::json(&report),
        false => output::result(&report.table()),
    }
}

/// A number for the wrong subject would be measured by nobody.
fn refuse_unread(arguments: &BenchArguments) -> Result<(), Failure> {
    let (what, other) = match arguments.what {
        Subject::Loss => ("loss", "log-probs"),
        Subject::LogProbs => ("log-probs", "loss"),
    };
    let of_the_loss = [
        ("--batch", arguments.batch.is_some()),
        ("--objective", arguments.objective.is_some()),
        ("--config", arguments.config.is_some()),
    ];
    let of_log_probs = [
        ("--hidden", arguments.hidden.is_some()),
        ("--vocab", arguments.vocab.is_some()),
        ("--memory-budget", arguments.memory_budget.is_some()),
    ];
    let unread: &[_] = match arguments.what {
        Subject::Loss => &of_log_probs,
        Subject::LogProbs => &of_the_loss,
    };
    match unread.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::Usage(format!(
            "{flag} has no effect on --what {what}; leave it out, or write --what {other}"
        ))),
        None => Ok(()),
    }
}

fn measure(arguments: &BenchArguments, device: &Device) -> Result<Report, Failure> {
    let (batch, rounds) = (
        arguments.batch.map_or(256, NonZeroUsize::get),
        arguments.rounds.map_or(21, NonZeroUsize::get),
    );
    let tokens = arguments.tokens.map_or(4096, NonZeroUsize::get);
    let count = batch
        .checked_mul(tokens)
        .filter(|n| *n <= i32::MAX as usize);
    let Some(count) = count else {
        return Err(Failure::BadInput(format!(
            "--batch {batch} times --tokens {tokens} is too large; accepted: up to 2^31 - 1 tokens"
        )));
    };
    let on_host = matches!(arguments.device, Backend::Flex | Backend::Ndarray);
    let objective = Objective::read(&ObjectiveArguments {
        openrlhf: None,
        config: arguments.config.clone(),
        preset: arguments.objective,
    })?;
    let inputs = Inputs::new(batch, tokens, device);
    let mut copy = Copy::new(count, on_host);
    let composed = loss(&objective, Implementation::Composed)?;
    let fused =
        Some(loss(&objective, Implementation::Fused)?).filter(|fused| inputs.is_accepted_by(fused));

    let mut times = Times::default();
    for round in 0..WARM_UP + rounds {
        let timed = round >= WARM_UP;
        let note = |list: &mut Vec<f64>, nanoseconds: f64| {
            if timed {
                list.push(nanoseconds / count as f64);
            }
        };
        if let Some(fused) = &fused {
            note(&mut times.fused, time(device, || inputs.step(fused))?);
        }
        note(
            &mut times.composed,
            time(device, || inputs.step(&composed))?,
        );
        note(&mut times.copy, time(device, || Ok(copy.run(&inputs)))?);
    }
    if let Some(fused) = &fused {
        for round in 0..WARM_UP + rounds {
            let nanoseconds = time(device, || inputs.step(fused))?;
            if round >= WARM_UP {
                times.repeated.push(nanoseconds / count as f64);
            }
        }
    }
    let peak = |loss: &PolicyLoss| {
        peak_extra_bytes(device, on_host, || {
            let kept = inputs.step(loss)?;
            sync(device)?;
            drop(kept);
            Ok(())
        })
    };
    let fused_times = fused.as_ref().map(|_| Quartiles::of(&mut times.fused));
    let repeated_times = fused.as_ref().map(|_| Quartiles::of(&mut times.repeated));
    let composed_times = Quartiles::of(&mut times.composed);
    let copy_times = Quartiles::of(&mut times.copy);
    Ok(Report {
        device: arguments.device.name(),
        objective: objective.origin.short(),
        batch,
        tokens,
        rounds,
        fused_ns_per_token: fused_times.map(|t| t.median),
        fused_spread_ns_per_token: fused_times.map(|t| t.spread),
        fused_repeated_ns_per_token: repeated_times.map(|t| t.median),
        composed_ns_per_token: composed_times.median,
        composed_spread_ns_per_token: composed_times.spread,
        copy_ns_per_token: copy_times.median,
        copy_spread_ns_per_token: copy_times.spread,
        peak_extra_bytes: peak(fused.as_ref().unwrap_or(&composed))?,
        composed_peak_extra_bytes: peak(&composed)?,
    })
}

#[derive(Default)]
struct Times {
    fused: Vec<f64>,
    repeated: Vec<f64>,
    composed: Vec<f64>,
    copy: Vec<f64>,
}

#[derive(Clone, Copy)]
struct Quartiles {
    median: f64,
    /// Between the first and the third quartile.
    spread: f64,
}

impl Quartiles {
    fn of(times: &mut [f64]) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Self {
            median: at(0.5),
            spread: at(0.75) - at(0.25),
        }
    }
}

fn loss(objective: &Objective, implementation: Implementation) -> Result<PolicyLoss, Failure> {
    let config = *objective.loss.config();
    config
        .with_implementation(implementation)
        .init()
        .map_err(|error| objective.origin.bad(error))
}

/// What `work` returns lives until the device is done: a lazy backend computes nothing for a
/// tensor that nobody holds.
fn time<T>(device: &Device, work: impl FnOnce() -> Result<T, Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    let kept = work()?;
    sync(device)?;
    let nanoseconds = start.elapsed().as_nanos() as f64;
    drop(kept);
    Ok(nanoseconds)
}

fn sync(device: &Device) -> Result<(), Failure> {
    device
        .sync()
        .map_err(|error| Failure::Other(format!("the device failed while it computed: {error}")))
}

impl Report {
    fn table(&self) -> String {
        let mut table = plain();
        table.add_row(["device".into(), self.device.to_owned()]);
        table.add_row(["objective".into(), self.objective.clone()]);
        table.add_row([
            "batch".into(),
            format!("{} x {}, {} rounds", self.batch, self.tokens, self.rounds),
        ]);
        let mut row = |name: &str, median: f64, spread: f64, bytes: Option<u64>| {
            let floors = median / self.copy_ns_per_token;
            let memory = bytes.map_or(String::new(), |bytes| {
                format!(", {:.1} MiB at the peak", bytes as f64 / f64::from(1 << 20))
            });
            table.add_row([
                name.into(),
                format!(
                    "{median:.3} ns per token (spread {spread:.3}), {floors:.2} copies{memory}"
                ),
            ]);
        };
        if let Some((median, spread)) = self.fused_ns_per_token.zip(self.fused_spread_ns_per_token)
        {
            row("fused", median, spread, self.peak_extra_bytes);
        }
        row(
            "composed",
            self.composed_ns_per_token,
            self.composed_spread_ns_per_token,
            self.composed_peak_extra_bytes,
        );
        row(
            "copy",
            self.copy_ns_per_token,
            self.copy_spread_ns_per_token,
            None,
        );
        if let Some(median) = self.fused_repeated_ns_per_token {
            let floors = median / self.copy_ns_per_token;
            table.add_row([
                "repeated".into(),
                format!("{median:.3} ns per token, {floors:.2} copies"),
            ]);
        }
        flush_left(table)
    }
}

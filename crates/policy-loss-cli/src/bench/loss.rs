//! `policy-loss bench --what loss`: the fused loss, the composed loss and a plain copy of what they
//! read.

use std::num::NonZeroUsize;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use policy_loss::{Implementation, PolicyBatch, PolicyLoss, PolicyLossOutput};
use rayon::prelude::*;
use serde::Serialize;

use super::{Machine, Quartiles, at_the_peak};
use crate::args::{BenchArguments, ObjectiveArguments};
use crate::objective::Objective;
use crate::output::{self, Failure};
use crate::report::{flush_left, plain};

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
pub fn run(arguments: &BenchArguments, machine: &Machine) -> Result<(), Failure> {
    let report = measure(arguments, machine)?;
    output::result(arguments.json, &report, Report::table)
}

fn measure(arguments: &BenchArguments, machine: &Machine) -> Result<Report, Failure> {
    let batch = arguments.batch.map_or(256, NonZeroUsize::get);
    let tokens = arguments.tokens.map_or(4096, NonZeroUsize::get);
    let rounds = arguments.rounds.map_or(21, |rounds| rounds.get() as usize);
    let count = batch
        .checked_mul(tokens)
        .filter(|n| *n <= i32::MAX as usize);
    let Some(count) = count else {
        return Err(Failure::BadInput(format!(
            "--batch {batch} times --tokens {tokens} is too large; accepted: up to 2^31 - 1 tokens"
        )));
    };
    let requested = ObjectiveArguments {
        openrlhf: None,
        config: arguments.config.clone(),
        preset: arguments.objective,
    };
    let objective = Objective::read(requested.requested(), Implementation::Auto)?;
    let inputs = Inputs::new(batch, tokens, &machine.device);
    let mut copy = Copy::new(count, machine.on_host);
    let composed = objective.with_implementation(Implementation::Composed)?;
    let fused = Some(objective.with_implementation(Implementation::Fused)?)
        .filter(|fused| inputs.is_accepted_by(fused));

    let mut times = Times::default();
    for round in 0..WARM_UP + rounds {
        let note = |list: &mut Vec<f64>, nanoseconds: f64| {
            if round >= WARM_UP {
                list.push(nanoseconds / count as f64);
            }
        };
        if let Some(fused) = &fused {
            note(&mut times.fused, machine.time(|| inputs.step(fused))?);
        }
        note(
            &mut times.composed,
            machine.time(|| inputs.step(&composed))?,
        );
        note(&mut times.copy, machine.time(|| Ok(copy.run(&inputs)))?);
    }
    if let Some(fused) = &fused {
        for round in 0..WARM_UP + rounds {
            let nanoseconds = machine.time(|| inputs.step(fused))?;
            if round >= WARM_UP {
                times.repeated.push(nanoseconds / count as f64);
            }
        }
    }
    let peak = |loss: &PolicyLoss| machine.peak_extra_bytes(|| inputs.step(loss));
    let of_fused = |times: Vec<f64>| fused.as_ref().map(|_| Quartiles::of(times));
    let (fused_times, repeated_times) = (of_fused(times.fused), of_fused(times.repeated));
    let composed_times = Quartiles::of(times.composed);
    let copy_times = Quartiles::of(times.copy);
    Ok(Report {
        device: arguments.device.name(),
        objective: objective.requested.short(),
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
            let memory = at_the_peak(bytes);
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

/// The inputs of the loss, made once, like those of a real step: ratios around 1, some of them
/// clipped, and padding.
struct Inputs {
    log_probs: Tensor<2>,
    old_log_probs: Tensor<2>,
    advantages: Tensor<2>,
    action_mask: Tensor<2, Bool>,
    entropies: Tensor<2>,
    /// Eight sequences answer a prompt.
    prompt_ids: Vec<i64>,
}

impl Inputs {
    /// The same numbers for the same shape, on any device.
    fn new(batch: usize, tokens: usize, device: &Device) -> Self {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let count = batch * tokens;
        let log_probs: Vec<f32> = (0..count).map(|_| -3.0 * random.unit()).collect();
        let mut around = |center: f32, width: f32| center + width * (random.unit() - 0.5);
        let old_log_probs: Vec<f32> = log_probs.iter().map(|x| around(*x, 0.8)).collect();
        let advantages: Vec<f32> = (0..count).map(|_| around(0.0, 4.0)).collect();
        // Sequences end anywhere in the second half.
        let valid =
            (0..count).map(|i| i % tokens < tokens - (i / tokens * 7) % (tokens / 2).max(1));
        let valid: Vec<bool> = valid.collect();

        let entropies = (0..count).map(|_| random.unit()).collect();

        let tracked = device.clone().autodiff();
        let floats = |values, device: &Device| {
            Tensor::<2>::from_data(TensorData::new(values, [batch, tokens]), device)
        };
        Self {
            log_probs: floats(log_probs, &tracked),
            old_log_probs: floats(old_log_probs, device),
            advantages: floats(advantages, device),
            action_mask: Tensor::from_data(TensorData::new(valid, [batch, tokens]), device),
            entropies: floats(entropies, &tracked),
            prompt_ids: (0..batch as i64).map(|sequence| sequence / 8).collect(),
        }
    }

    /// Whether the device has what the loss asks for.
    fn is_accepted_by(&self, loss: &PolicyLoss) -> bool {
        loss.forward(self.batch(self.log_probs.clone())).is_ok()
    }

    /// One forward and backward pass, with everything that comes out of it.
    fn step(&self, loss: &PolicyLoss) -> Result<(PolicyLossOutput, Option<Tensor<2>>), Failure> {
        let log_probs = self.log_probs.clone().detach().require_grad();
        let output = loss
            .forward(self.batch(log_probs.clone()))
            .map_err(|error| Failure::BadInput(error.to_string()))?;
        let mut gradients = output.loss.backward();
        Ok((output, log_probs.grad_remove(&mut gradients)))
    }

    /// The three float inputs.
    fn floats(&self) -> [Tensor<2>; 3] {
        [&self.log_probs, &self.old_log_probs, &self.advantages]
            .map(|tensor| tensor.clone().without_autodiff())
    }

    /// The mask.
    fn mask(&self) -> Tensor<2, Bool> {
        self.action_mask.clone()
    }

    fn batch(&self, log_probs: Tensor<2>) -> PolicyBatch {
        PolicyBatch::new(
            log_probs,
            self.old_log_probs.clone(),
            self.advantages.clone(),
        )
        .with_action_mask(self.action_mask.clone())
        // For the objectives that read them.
        .with_rollout_log_probs(self.old_log_probs.clone())
        .with_ref_log_probs(self.old_log_probs.clone())
        .with_entropies(self.entropies.clone().detach().require_grad())
        .with_prompt_ids(self.prompt_ids.clone())
    }
}

/// xorshift64: enough for inputs, the same everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Bytes of a token in host memory: three floats, and one byte of mask.
const HOST_BYTES: usize = 3 * 4 + 1;
/// What one thread copies at a time.
const CHUNK: usize = 1 << 18;

/// The floor: a copy of the inputs' bytes.
enum Copy {
    /// On the host, by all threads, into memory that is already there. That is stricter than what
    /// the loss is asked for, which has to hand out new memory for its gradient.
    Host { source: Vec<u8>, target: Vec<u8> },
    /// On another device, one element-wise operation for each input.
    Device,
}

impl Copy {
    /// A copy for a batch of `count` tokens.
    fn new(count: usize, on_host: bool) -> Self {
        match on_host {
            true => Self::Host {
                source: vec![1; count * HOST_BYTES],
                target: vec![0; count * HOST_BYTES],
            },
            false => Self::Device,
        }
    }

    /// Copies once, and returns what a device has made.
    fn run(&mut self, inputs: &Inputs) -> Option<([Tensor<2>; 3], Tensor<2, Bool>)> {
        match self {
            Self::Host { source, target } => {
                target
                    .par_chunks_mut(CHUNK)
                    .zip(source.par_chunks(CHUNK))
                    .for_each(|(target, source)| target.copy_from_slice(source));
                None
            }
            Self::Device => Some((
                inputs.floats().map(|tensor| tensor.add_scalar(1)),
                inputs.mask().bool_not(),
            )),
        }
    }
}

//! How long a model takes to learn from a step's answers, without the update of its weights.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use clap::Args;
use policy_loss::{GlobalTotals, LogProbsConfig, PolicyBatch, PolicyLossConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::PEAK;
use crate::batch::{Sequence, TokenBatch};
use crate::model::Llama;
use crate::settings::positive;
use crate::weights;

/// The first step chooses kernels and grows pools of memory; it is not counted.
const WARM_UPS: usize = 1;

/// What is learned from.
#[derive(Args)]
pub struct Workload {
    /// Sequences in a step.
    #[arg(long, default_value_t = 64, value_parser = positive)]
    pub sequences: usize,
    /// Tokens of each sequence, the first of which is its prompt.
    #[arg(long, default_value_t = 256, value_parser = positive)]
    pub tokens: usize,
    /// Sequences in a forward and backward pass.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub microbatch: usize,
    /// Steps that are measured, after one that is not; the median counts.
    #[arg(long, default_value_t = 3, value_parser = positive)]
    pub rounds: usize,
}

/// Prints, as a line of JSON, how long the model in `directory` takes for the gradient of all its
/// weights by GRPO's loss on sequences of random tokens, and how much memory.
///
/// # Errors
///
/// The model cannot be read, or has a shorter context, or the device fails.
pub fn bench(directory: &Path, workload: &Workload, device: &Device) -> Result<(), Box<dyn Error>> {
    let model = weights::load(directory, device)?.train();
    let context = model.config().max_position_embeddings;
    if !(2..=context).contains(&workload.tokens) {
        return Err(format!(
            "--tokens {}: accepted: 2, a prompt and an answer, to {context}, the model's context",
            workload.tokens
        )
        .into());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let vocabulary = model.config().vocab_size as u32;
    let mut token = || rng.next_u32() % vocabulary;
    let sequences: Vec<Vec<u32>> = (0..workload.sequences)
        .map(|_| (0..workload.tokens).map(|_| token()).collect())
        .collect();
    let mut seconds = Vec::with_capacity(workload.rounds);
    for round in 0..WARM_UPS + workload.rounds {
        device.sync()?;
        let start = Instant::now();
        let gradients = gradients(&model, &sequences, workload.microbatch, device)?;
        device.sync()?;
        if round >= WARM_UPS {
            seconds.push(start.elapsed().as_secs_f64());
        }
        drop(gradients);
    }
    seconds.sort_by(f64::total_cmp);
    let half = seconds.len() / 2;
    let median = (seconds[half] + seconds[(seconds.len() - 1) / 2]) / 2.0;
    let tokens = (workload.sequences * workload.tokens) as f64;
    // Where the device has memory of its own, it says so.
    let memory = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    let memory = memory.unwrap_or(PEAK.peak_usage() as u64);
    let line = json!({
        "seconds": median,
        "tokens_per_second": tokens / median,
        "peak_bytes": memory,
    });
    say!("{line}");
    Ok(())
}

/// The gradient of all weights, made of the parts that fit into memory.
fn gradients(
    model: &Llama,
    sequences: &[Vec<u32>],
    microbatch: usize,
    device: &Device,
) -> Result<GradientsParams, Box<dyn Error>> {
    let device = device.clone().autodiff();
    let loss = PolicyLossConfig::grpo().init()?;
    let log_probs = LogProbsConfig::new().init()?;
    let answer_tokens = sequences.iter().map(|tokens| tokens.len() - 1).sum();
    let totals = GlobalTotals::new()
        .with_tokens(answer_tokens)
        .with_sequences(sequences.len());
    let mut all = GradientsAccumulator::new();
    for (index, part) in sequences.chunks(microbatch).enumerate() {
        let pairs: Vec<_> = part
            .iter()
            .map(|tokens| Sequence {
                prompt: &tokens[..1],
                answer: &tokens[1..],
            })
            .collect();
        let tokens = TokenBatch::new(&pairs, &device);
        let (hidden, answers) = tokens.answers(model);
        // As good as bad, one after the other: every token has a gradient.
        let advantages: Vec<f32> = (0..part.len())
            .map(|row| [1.0, -1.0][(index * microbatch + row) % 2])
            .collect();
        let advantages = Tensor::<1>::from_floats(&advantages[..], &device);
        let batch = PolicyBatch::on_policy_without_log_probs(advantages)
            .with_action_mask(tokens.action_mask.clone())
            .with_totals(totals);
        let output = loss.forward_linear(&log_probs, hidden, &model.head(), answers, batch)?;
        let gradients = GradientsParams::from_grads(output.loss.backward(), model);
        all.accumulate(model, gradients);
    }
    Ok(all.grads())
}

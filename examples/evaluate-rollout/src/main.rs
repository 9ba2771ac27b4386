//! The policy loss of a real rollout, under several objectives.
//!
//! The batch holds 64 answers that a small language model gave to 16 prompts, with the log-probs
//! of the sampler (quantised weights), of the policy that the update started from, and of the
//! policy three optimiser steps later.
//!
//! ```text
//! cargo run --release -p evaluate-rollout [FILE.safetensors]
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use policy_loss::presets::{icepop, seq_mask_tis, tis};
use policy_loss::{MetricValues, PolicyBatch, PolicyLossConfig, action_mask};
use safetensors::{Dtype, SafeTensors};

const ROLLOUT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/data/rollout_smollm2.safetensors"
);

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| ROLLOUT.into());
    let device = policy_loss_flex::device()?.autodiff();
    let rollout = Rollout::read(path.as_ref(), &device)?;

    // Unlike `println!`, this does not panic where nobody reads on, as behind `head`.
    let mut table = std::io::stdout();
    let _ = writeln!(
        table,
        "{:22} {:>10} {:>10} {:>10} {:>10} {:>13}",
        "objective", "loss", "clip_ratio", "ppo_kl", "rollout_kl", "gradient norm"
    );
    for (name, config) in objectives() {
        let row = rollout.evaluate(&config)?;
        let rollout_kl = match row.metrics.rollout_kl {
            Some(rollout_kl) => format!("{rollout_kl:.6}"),
            None => "-".into(),
        };
        let _ = writeln!(
            table,
            "{name:22} {:10.6} {:10.6} {:10.6} {rollout_kl:>10} {:13.6}",
            row.loss, row.metrics.clip_ratio, row.metrics.ppo_kl, row.gradient_norm
        );
    }
    Ok(())
}

/// Presets, and PPO with each correction for the mismatch between sampler and trainer.
fn objectives() -> [(&'static str, PolicyLossConfig); 8] {
    let corrected = |correction| PolicyLossConfig::ppo().with_rollout_correction(correction);
    let (low, high) = (0.5, 5.0);
    [
        ("ppo", PolicyLossConfig::ppo()),
        ("dual_clip_ppo", PolicyLossConfig::dual_clip_ppo()),
        ("grpo", PolicyLossConfig::grpo()),
        ("dapo", PolicyLossConfig::dapo()),
        ("gspo", PolicyLossConfig::gspo()),
        ("ppo + tis", corrected(tis(low, high))),
        ("ppo + icepop", corrected(icepop(low, high))),
        // The geometric mean of a whole sequence strays far less than a single token.
        ("ppo + seq_mask_tis", corrected(seq_mask_tis(0.98, 1.02))),
    ]
}

/// One line of the table.
struct Row {
    loss: f64,
    metrics: MetricValues,
    gradient_norm: f64,
}

/// The tensors of a rollout file, `[B, T]`.
struct Rollout {
    log_probs: Tensor<2>,
    old_log_probs: Tensor<2>,
    rollout_log_probs: Tensor<2>,
    advantages: Tensor<2>,
    action_mask: Tensor<2, Bool>,
}

impl Rollout {
    fn read(path: &Path, device: &Device) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let float = |name| Ok::<_, Box<dyn Error>>(Tensor::from_data(data(&file, name)?, device));
        Ok(Self {
            log_probs: float("log_probs")?,
            old_log_probs: float("old_log_probs")?,
            rollout_log_probs: float("rollout_log_probs")?,
            advantages: float("advantages")?,
            // Trainers hold the mask as floats; it is checked while it becomes a mask of bools.
            action_mask: action_mask(data(&file, "action_mask")?, device)?,
        })
    }

    fn evaluate(&self, config: &PolicyLossConfig) -> Result<Row, Box<dyn Error>> {
        let log_probs = self.log_probs.clone().require_grad();
        let batch = PolicyBatch::new(
            log_probs.clone(),
            self.old_log_probs.clone(),
            self.advantages.clone(),
        )
        .with_action_mask(self.action_mask.clone())
        .with_rollout_log_probs(self.rollout_log_probs.clone());
        let output = config.init()?.forward(batch)?;

        let gradients = output.loss.backward();
        let gradient = log_probs
            .grad(&gradients)
            .ok_or("the loss has no gradient")?;
        let values = output.read()?;
        Ok(Row {
            loss: values.loss,
            metrics: values.metrics,
            gradient_norm: gradient.square().sum().sqrt().into_scalar::<f64>(),
        })
    }
}

/// The values of one tensor of the file, which has to be a matrix of f32.
fn data(file: &SafeTensors<'_>, name: &str) -> Result<TensorData, Box<dyn Error>> {
    let tensor = file.tensor(name)?;
    if tensor.dtype() != Dtype::F32 || tensor.shape().len() != 2 {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(format!("`{name}` is {dtype:?} {shape:?}; expected F32 [B, T]").into());
    }
    let (bytes, shape) = (tensor.data().to_vec(), tensor.shape());
    Ok(TensorData::try_from_bytes_vec(bytes, shape, DType::F32)?)
}

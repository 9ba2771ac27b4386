//! The command line.

use std::error::Error;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use policy_loss::Preset;

/// A small transformer learns to reverse digits, by reinforcement learning alone.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// Where to train.
    #[arg(long, value_enum, default_value_t)]
    pub device: Backend,
    /// The objective by its name, such as ppo, grpo, dapo, gspo or cispo.
    #[arg(long, default_value_t = Preset::Grpo)]
    pub preset: Preset,
    /// Rollouts to sample and to learn from.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: u64,
    /// Step size of Adam.
    #[arg(long, default_value_t = 1e-3, value_parser = learning_rate)]
    pub learning_rate: f64,
    /// The same seed gives the same training.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to write the learning curves, a page that a browser opens.
    #[arg(long, value_name = "FILE", default_value = "target/train-policy.html")]
    pub report: PathBuf,
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("accepted: a finite number above 0".into()),
    }
}

/// The backends that an adapter crate exists for.
#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Backend {
    /// Pure Rust on the CPU; always there.
    #[default]
    Flex,
    /// Burn's older CPU backend; needs the feature `ndarray`.
    Ndarray,
    /// Graphics cards; needs the feature `wgpu`.
    Wgpu,
}

impl Backend {
    /// The device of this backend.
    ///
    /// # Errors
    ///
    /// The program was compiled without the backend, or the machine has no hardware for it.
    pub fn device(self) -> Result<Device, Box<dyn Error>> {
        match self {
            Self::Flex => Ok(policy_loss_flex::device()?),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => Ok(policy_loss_ndarray::device()?),
            #[cfg(not(feature = "ndarray"))]
            Self::Ndarray => Err(not_compiled_in("ndarray")),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(policy_loss_wgpu::device()?),
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu => Err(not_compiled_in("wgpu")),
        }
    }
}

#[cfg(not(all(feature = "ndarray", feature = "wgpu")))]
fn not_compiled_in(feature: &str) -> Box<dyn Error> {
    format!(
        "the backend `{feature}` is not compiled in; \
         run `cargo run --release -p train-policy --features {feature} -- --device {feature}`"
    )
    .into()
}

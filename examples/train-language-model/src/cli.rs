//! The command line.

use std::error::Error;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench_learning::Workload;
use crate::settings::Settings;

/// A language model learns by reinforcement learning.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a model.
    Train(Box<Train>),
    /// Compare a model with log-probs that another implementation computed.
    Check {
        #[command(flatten)]
        target: Target,
        /// Adapters that this program has saved.
        #[arg(long, value_name = "DIR")]
        adapters: Option<PathBuf>,
        /// A rollout with `tokens`, `action_mask`, `ref_log_probs` and `group_id`, and the prompts
        /// of the groups in its metadata.
        #[arg(long, value_name = "FILE.safetensors")]
        rollout: PathBuf,
    },
    /// Measure how fast a model is sampled from, with the cache of keys and values and without, and
    /// beside the speed at which the memory can be read.
    Bench {
        #[command(flatten)]
        target: Target,
        /// Tokens of each sequence.
        #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
        tokens: u32,
        /// Sequences in a batch.
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
        sequences: u32,
    },
    /// Measure the gradient of all weights by GRPO's loss on random tokens: seconds, tokens a second
    /// and peak memory, as a line of JSON.
    BenchLearning {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        workload: Workload,
    },
}

/// A model, and the backend that computes it.
#[derive(Args)]
pub struct Target {
    /// The model, as Hugging Face lays it out.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: Backend,
}

#[derive(Args)]
pub struct Train {
    #[command(flatten)]
    pub target: Target,
    /// Where to write what was learned, the curves and the checkpoints.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "target/train-language-model"
    )]
    pub out: PathBuf,
    /// Go on from the newest checkpoint in --out.
    #[arg(long)]
    pub resume: bool,
    /// Steps in all, those before an interruption included.
    #[arg(long, default_value_t = 20)]
    pub steps: u64,
    /// Write a checkpoint every so many steps, and after the last one.
    #[arg(long, value_name = "STEPS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub save_every: u64,
    /// Write lines of JSON, instead of a table for people.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: Settings,
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
    /// NVIDIA GPUs; needs the feature `cuda`.
    Cuda,
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
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(policy_loss_cuda::device()?),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda => Err(not_compiled_in("cuda")),
        }
    }
}

#[cfg(not(all(feature = "ndarray", feature = "wgpu", feature = "cuda")))]
fn not_compiled_in(feature: &str) -> Box<dyn Error> {
    format!(
        "the backend `{feature}` is not compiled in; \
         run `cargo run --release -p train-language-model --features {feature} -- ...`"
    )
    .into()
}

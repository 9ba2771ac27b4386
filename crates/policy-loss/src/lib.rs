//! The policy loss of reinforcement learning from feedback, for [Burn](burn), on every backend:
//! PPO, GRPO, DAPO and GSPO, with dual clip, rollout correction, and exact reductions under data
//! parallelism and gradient accumulation.
//!
//! An objective is a value, [`PolicyLossConfig`], composed of independent parts:
//!
//! ```text
//! ratio              r = exp(log_probs - base), per token or per sequence    Ratio
//! surrogate          min(r A, clamp(r, 1 - low, 1 + high) A)                 Surrogate
//! rollout correction w, from exp(old_log_probs - rollout_log_probs)          RolloutCorrection
//! reduction          the mean of token_loss = -surrogate * w                 Reduction
//! ```
//!
//! [`PolicyLossConfig::init`] checks it and gives a [`PolicyLoss`], a Burn module, whose
//! [`forward`](PolicyLoss::forward) takes a [`PolicyBatch`] and returns a [`PolicyLossOutput`]: the
//! loss, tracked, and its metrics, detached. Nothing is read back from the device until you ask.
//! Named algorithms are [presets](Preset), and [`OpenRlhfPolicyLoss`] holds OpenRLHF's arguments.
//!
//! # From hidden states
//!
//! With a vocabulary of 150,000, 16,000 tokens make 10 GB of logits. [`TokenLogProbs`] takes logits
//! ([`forward`](TokenLogProbs::forward)), or hidden states and a [`LinearHead`]
//! ([`forward_linear`](TokenLogProbs::forward_linear)), and then holds the logits of one chunk of
//! tokens at a time, within a memory budget. [`PolicyLoss::forward_linear`] goes from hidden states to
//! the loss, with three matrix products where the objective is a sum over tokens:
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! # use burn::tensor::{Device, Distribution, Int, Tensor};
//! use policy_loss::{LinearHead, LogProbsConfig, PolicyBatch, PolicyLossConfig};
//!
//! # let device = Device::flex().autodiff();
//! # let hidden = Tensor::<3>::random([1, 2, 8], Distribution::Default, &device).require_grad();
//! # let weight = Tensor::<2>::random([8, 100], Distribution::Default, &device).require_grad();
//! # let tokens = Tensor::<2, Int>::from_ints([[3, 99]], &device);
//! # let old_log_probs = Tensor::<2>::full([1, 2], -4.6, &device);
//! # let advantages = Tensor::<1>::from_floats([1.0], &device);
//! let loss = PolicyLossConfig::new().init()?;
//! let log_probs = LogProbsConfig::new().with_temperature(0.7).init()?;
//! let head = LinearHead::new(weight); // `[H, V]`, or `LinearHead::tied` for `[V, H]`
//! let batch = PolicyBatch::without_log_probs(old_log_probs, advantages);
//! let output = loss.forward_linear(&log_probs, hidden, &head, tokens, batch)?;
//! let gradients = output.loss.backward();
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//!
//! - A value at a masked position, whatever it is (NaN, an infinity, 1e30), changes no bit of the
//!   loss, of a metric, or of a gradient, and its own gradient is exactly 0.
//! - A non-finite value at a valid position is not hidden:
//!   [`non_finite`](PolicyLossMetrics::non_finite) counts it.
//! - Bad input is an error that names the field, the value and what would be accepted, before any
//!   device work. User input never panics.
//! - Sub-gradients are declared: a clipped token has gradient 0; at a tie the unclipped branch is
//!   taken; at `A = 0`, and beyond a log-ratio of ±20, the gradient is 0.
//!
//! # Features
//!
//! None is on by default; the adapter crates `policy-loss-flex`, `policy-loss-ndarray`,
//! `policy-loss-wgpu` and `policy-loss-cuda` each turn theirs on and find the hardware.
//!
//! | feature | Burn backend |
//! |---|---|
//! | `flex` | Flex, pure Rust on the CPU |
//! | `ndarray` | NdArray, on the CPU |
//! | `wgpu` | Vulkan, Metal, DX12, WebGPU |
//! | `cuda` | CUDA |
//! | `fusion` | Burn's fusion of tensor operations on the GPU backends |

#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
mod backends;
mod batch;
mod composed;
mod config;
pub mod device;
mod error;
#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
mod fused;
#[cfg(not(any(feature = "flex", feature = "ndarray", feature = "cube")))]
#[path = "not_fused.rs"]
mod fused;
mod log_probs;
mod loss;
mod mask;
mod metrics;
mod openrlhf;
#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
#[doc(hidden)]
pub mod ops;
mod output;
mod presets;
mod ratio;
mod reduction;
mod rollout;
mod surrogate;
mod valid;

pub use batch::{Advantages, GlobalTotals, PolicyBatch};
pub use config::PolicyLossConfig;
pub use error::{BatchError, ConfigError};
pub use log_probs::{Entropy, LinearHead, LogProbs, LogProbsConfig, TokenLogProbs};
pub use loss::PolicyLoss;
pub use mask::{action_mask, action_mask_from_tensor};
pub use openrlhf::OpenRlhfPolicyLoss;
pub use output::{
    Implementation, MetricValues, PolicyLossMetrics, PolicyLossOutput, PolicyLossValues,
};
pub use presets::Preset;
pub use ratio::{Behavior, Ratio, RatioLevel};
pub use reduction::Reduction;
pub use rollout::RolloutCorrection;
pub use surrogate::{Clip, Surrogate};

//! The policy loss of reinforcement learning from feedback, for [Burn](burn), on every backend:
//! PPO, GRPO, DAPO, GSPO, CISPO, GMPO, SAPO and the other objectives of the field, with rollout
//! correction, KL penalty, entropy bonus, and exact reductions under data parallelism and gradient
//! accumulation.
//!
//! An [`Objective`] is a value, composed of independent parts:
//!
//! ```text
//! ratio              r = exp(log_probs - base), of a token or of several     Ratio
//! surrogate          one of thirteen formulas, of r and the advantage        Surrogate
//! future weight      by the log-ratios of a token and of those that follow   FutureWeight
//! off-policy mask    drops sequences the policy has moved away from          OffPolicyMask
//! entropy mask       drops tokens of low entropy                             EntropyMask
//! rollout correction w, from exp(old_log_probs - rollout_log_probs)          RolloutCorrection
//! KL penalty         against a reference policy, or against the sampler      KlPenalty
//! entropy bonus      for entropy of the policy                               EntropyBonus
//! reduction          of token_loss = -surrogate * w + kl - entropy           Reduction
//! ```
//!
//! [`PolicyLossConfig`] holds it, and says how it is computed.
//! [`init`](PolicyLossConfig::init) checks it and gives a [`PolicyLoss`], a Burn module, whose
//! [`forward`](PolicyLoss::forward) takes a [`PolicyBatch`] and returns a [`PolicyLossOutput`]: the
//! loss, tracked, and its metrics, detached. Nothing is read back from the device until you ask:
//! [`PolicyLossMetrics::read`] brings all metrics back in one transfer. Those of micro-batches and of
//! shards [add up](PolicyLossMetrics::merge) exactly, as do their losses and gradients with
//! [`GlobalTotals`].
//!
//! Named algorithms are [presets], and [`OpenRlhfPolicyLoss`] holds OpenRLHF's arguments.
//!
//! Around it: [`AdvantageEstimator`] makes advantages from rewards, [`KlReward`] subtracts the KL to a
//! reference policy from the rewards, with the coefficient of a [`KlController`], and [`ValueLoss`] is
//! the loss of a critic. They give the same guarantees.
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
//! Where the head is divided among devices, [`TokenLogProbs::forward_linear_shard`] takes a shard of it,
//! and gives [`ShardPartials`] to be reduced over them. [`Distillation`] compares the distributions of a
//! student and a teacher, of logits, of hidden states, or of a top-k.
//!
//! # Guarantees
//!
//! - A value at a masked position, whatever it is (NaN, an infinity, 1e30), changes no bit of the
//!   loss, of a metric, or of a gradient, and its own gradient is exactly 0.
//! - A non-finite value at a valid position is not hidden:
//!   [`non_finite`](MetricValues::non_finite) counts it.
//! - Bad input is an error that names the field, the value and what would be accepted, before any
//!   device work. User input never panics.
//! - Sub-gradients are declared: a clipped token has gradient 0; at a tie the unclipped branch is
//!   taken; at `A = 0`, and beyond a log-ratio of ±20, the gradient is 0.
//!
//! # Features
//!
//! None is on by default; the adapter crates `policy-loss-flex`, `policy-loss-ndarray`,
//! `policy-loss-wgpu` and `policy-loss-cuda` each turn theirs on and find the hardware. On a device
//! whose feature is off, a loss is an error that says so, unless the implementation is
//! [`Composed`](Implementation::Composed).
//!
//! | feature | Burn backend |
//! |---|---|
//! | `flex` | Flex, pure Rust on the CPU |
//! | `ndarray` | NdArray, on the CPU |
//! | `wgpu` | Vulkan, Metal, DX12, WebGPU |
//! | `cuda` | CUDA |
//! | `fusion` | Burn's fusion of tensor operations on the GPU backends |

#[macro_use]
mod setters;

mod advantages;
mod alike;
mod backends;
mod batch;
mod checked;
mod composed;
mod config;
pub mod device;
mod diagnostics;
mod entropy_controller;
mod error;
mod fused;
mod implementation;
mod inspection;
mod kl_controller;
mod kl_reward;
mod log_probs;
mod loss;
mod mask;
mod numbers;
mod openrlhf;
#[doc(hidden)]
pub mod ops;
mod order;
mod output;
mod packed;
pub mod presets;
mod prompts;
mod teacher;
mod token_details;
mod totals;
mod valid;
mod value;
mod warnings;

pub use advantages::{
    AdvantageBatch, AdvantageEstimator, AdvantageEstimatorConfig, AdvantageOutput, AdvantagePreset,
    Among, Deviation, GeneralizedAdvantage, GroupBaseline, GroupRelative, MeanScale, ReturnToGo,
    Rewards, SingleScore, TokenBaseline, Whitening, WhiteningOver,
};
pub use batch::{Advantages, PolicyBatch};
pub use config::PolicyLossConfig;
pub use diagnostics::{RolloutDiagnosticValues, RolloutDiagnostics};
pub use entropy_controller::{EntropyController, EntropyControllerConfig};
pub use error::{BatchError, ConfigError};
pub use implementation::Implementation;
pub use inspection::{GradientMass, Histogram, Inspection, InspectionValues};
pub use kl_controller::{KlController, KlControllerConfig};
pub use kl_reward::{KlReward, KlRewardBatch, KlRewardOutput};
pub use log_probs::{
    Distillation, DistillationConfig, Entropy, HalfProducts, KeptTokens, LinearHead, LogProbs,
    LogProbsConfig, LogProbsTokens, ShardPartials, Tail, TeacherDivergence, TokenDistributions,
    TokenLogProbs, TopK, VocabularyShard,
};
pub use loss::PolicyLoss;
pub use mask::{action_mask, action_mask_from_tensor, within_second_moment};
pub use openrlhf::OpenRlhfPolicyLoss;
pub use output::{MetricValues, PolicyLossMetrics, PolicyLossOutput, PolicyLossValues, Sum, Sums};
// The vocabulary of objectives stands below kernels and library alike.
#[doc(inline)]
pub use policy_loss_kernels::objective::*;
pub use presets::Preset;
pub use teacher::{
    ReverseKlAdvantage, TeacherBatch, TeacherFactor, TeacherOutput, TeacherSignal,
    TeacherSignalConfig,
};
pub use token_details::TokenDetails;
pub use totals::GlobalTotals;
pub use value::{
    ValueBatch, ValueLoss, ValueLossConfig, ValueLossMetrics, ValueLossOutput, ValueLossValues,
    ValueMetricValues,
};
pub use warnings::{Observation, Warning, WarningKind, Warnings};

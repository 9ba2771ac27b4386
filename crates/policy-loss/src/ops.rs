//! The seam between the loss and the fused kernels of each backend.

// Burn marks NdArray as deprecated, and the macro below names it; of no backend it reads nothing.
#![allow(deprecated)]
#![cfg_attr(
    not(any(feature = "host", feature = "cube")),
    allow(dead_code, unused_variables)
)]

#[cfg(all(feature = "fusion", feature = "cube"))]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};
use policy_loss_kernels::{Columns, Objective};

/// The inputs of the fused loss. What the objective does not read is one element, `[1, 1]`.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct FusedInputs<B: Backend> {
    /// `[B, T]`, f32 or f64: half precision is widened before.
    pub log_probs: FloatTensor<B>,
    /// `[B, T]`.
    pub old_log_probs: FloatTensor<B>,
    /// `[B, T]`.
    pub rollout_log_probs: FloatTensor<B>,
    /// `[B, T]`, of the type of `log_probs`.
    pub ref_log_probs: FloatTensor<B>,
    /// `[B, T]`, of the type of `log_probs`.
    pub entropies: FloatTensor<B>,
    /// `[B, T]` or `[B, 1]`.
    pub advantages: FloatTensor<B>,
    /// `[B, T]`, of the type of `log_probs`: weights by what is behind the tokens.
    pub future_weights: FloatTensor<B>,
    /// `[B, T]`, of the type of `log_probs`: means over segments, whose exponentials are the ratios.
    pub segment_log_ratios: FloatTensor<B>,
    /// `[B, T]`, of the type of `log_probs`: 1 where a filter rejects the segment of a token, else 0.
    pub segment_rejections: FloatTensor<B>,
    /// `[1]`, of the type of `log_probs`: what rollout weights are divided by.
    pub weight_mean: FloatTensor<B>,
    /// `[1]`, of the type of `log_probs`: the least entropy of a token that is kept.
    pub entropy_threshold: FloatTensor<B>,
    /// `[B, 1]`, of the type of `log_probs`: what the tokens of each sequence count for.
    pub sequence_weights: FloatTensor<B>,
    /// `[B, T]`; `[1, 1]` where every token is valid.
    pub action_mask: BoolTensor<B>,
}

/// The inputs as the kernels take them.
pub(crate) struct FusedParts<B: Backend> {
    pub columns: Columns<FloatTensor<B>>,
    pub weight_mean: FloatTensor<B>,
    pub entropy_threshold: FloatTensor<B>,
    pub sequence_weights: FloatTensor<B>,
    pub action_mask: BoolTensor<B>,
}

impl<B: Backend> FusedInputs<B> {
    pub(crate) fn parts(self) -> FusedParts<B> {
        FusedParts {
            columns: Columns {
                log_probs: self.log_probs,
                old_log_probs: self.old_log_probs,
                rollout_log_probs: self.rollout_log_probs,
                ref_log_probs: self.ref_log_probs,
                entropies: self.entropies,
                advantages: self.advantages,
                future_weights: self.future_weights,
                segment_log_ratios: self.segment_log_ratios,
                segment_rejections: self.segment_rejections,
            },
            weight_mean: self.weight_mean,
            entropy_threshold: self.entropy_threshold,
            sequence_weights: self.sequence_weights,
            action_mask: self.action_mask,
        }
    }
}

/// What is computed of the inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusedTask {
    /// The objective, whose surrogate has a kernel.
    pub objective: Objective,
    /// Replaces the division by a local count where global totals are given.
    pub scale: Option<f64>,
    /// Whether there is an action mask.
    pub masked: bool,
    /// Whether the gradients are wanted.
    pub with_gradient: bool,
}

/// What the fused loss yields in one pass, of the type of `log_probs`.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct FusedOutputs<B: Backend> {
    /// `[1]`.
    pub loss: FloatTensor<B>,
    /// `[1, N]`, the row of [`Sums`](policy_loss_kernels::Sums).
    pub sums: FloatTensor<B>,
    /// `[B, T]`, the gradient of `log_probs` up to `factor`; `[1, 1]` where none is wanted.
    pub gradient: FloatTensor<B>,
    /// `[B, T]`, the same of `entropies`; `[1, 1]` where none is wanted or read.
    pub entropy_gradient: FloatTensor<B>,
    /// `[B, T]`, the same of `segment_log_ratios`; `[1, 1]` where none is wanted or read.
    pub segment_gradient: FloatTensor<B>,
    /// `[1]`, what the gradients still have to be multiplied by.
    pub factor: FloatTensor<B>,
}

/// The fused policy loss of a backend.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(all(feature = "fusion", feature = "cube")),
    Autodiff,
)]
pub trait PolicyLossOps: Backend {
    /// Loss, sums and gradients, in one pass over the inputs.
    #[fusion(meta = forward_metadata)]
    fn policy_loss_forward(
        #[extension_type] inputs: FusedInputs<Self>,
        task: FusedTask,
    ) -> FusedOutputs<Self>;

    /// `gradient * factor * upstream`.
    #[fusion(dtype = gradient, shape = gradient)]
    fn policy_loss_backward(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

#[cfg(all(feature = "fusion", feature = "cube"))]
fn forward_metadata(inputs: &FusedInputsMetadata, task: &FusedTask) -> FusedOutputsMetadata {
    let like = &inputs.log_probs;
    let number = || TensorSpec::new([1].into(), like.dtype);
    let gradient = |wanted: bool| match wanted && task.with_gradient {
        true => like.clone(),
        false => TensorSpec::new([1, 1].into(), like.dtype),
    };
    FusedOutputsMetadata {
        loss: number(),
        sums: TensorSpec::new([1, policy_loss_kernels::Sum::ALL.len()].into(), like.dtype),
        gradient: gradient(true),
        entropy_gradient: gradient(task.objective.entropy_bonus.is_some()),
        segment_gradient: gradient(task.objective.ratio.level == crate::RatioLevel::Segment),
        factor: number(),
    }
}

//! The seam between the loss and the fused kernels of each backend.

// Burn marks NdArray as deprecated, and the macro below names it.
#![allow(deprecated)]

#[cfg(all(feature = "fusion", feature = "cube"))]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};
use policy_loss_kernels::Objective;

use crate::groups::Groups;

/// The inputs of the fused loss. What the objective does not read is a stand-in.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct FusedInputs<B: Backend> {
    /// `[B, T]`, f32 or f64: half precision is widened before.
    pub log_probs: FloatTensor<B>,
    /// `[B, T]`.
    pub old_log_probs: FloatTensor<B>,
    /// `[B, T]`; `old_log_probs` where the objective does not read it.
    pub rollout_log_probs: FloatTensor<B>,
    /// `[B, T]`, of the type of `log_probs`: the weights of `Weight::Given`; else
    /// `old_log_probs`.
    pub weights: FloatTensor<B>,
    /// `[B, T]`; `old_log_probs` without a penalty.
    pub ref_log_probs: FloatTensor<B>,
    /// `[B, T]` or `[B, 1]`.
    pub advantages: FloatTensor<B>,
    /// `[B, T]`; `[1, 1]` where every token is valid.
    pub action_mask: BoolTensor<B>,
}

/// What the fused loss yields in one pass.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct FusedOutputs<B: Backend> {
    /// `[1]`.
    pub loss: FloatTensor<B>,
    /// Every metric, in the order of [`PolicyLossMetrics`](crate::PolicyLossMetrics).
    pub metrics: FloatTensor<B>,
    /// `[B, T]`, the gradient of `log_probs` up to `factor`; `[1, 1]` where none is wanted.
    pub gradient: FloatTensor<B>,
    /// `[1]`, what `gradient` still has to be multiplied by.
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
    /// Loss, metrics and gradient, in one pass over the inputs.
    #[fusion(meta = forward_metadata)]
    fn policy_loss_forward(
        #[extension_type] inputs: FusedInputs<Self>,
        objective: Objective,
        masked: bool,
        with_gradient: bool,
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
fn forward_metadata(
    inputs: &FusedInputsMetadata,
    objective: &Objective,
    _masked: &bool,
    with_gradient: &bool,
) -> FusedOutputsMetadata {
    let arithmetic = crate::composed::arithmetic(inputs.log_probs.dtype);
    let vector = |length: usize| TensorSpec::new([length].into(), arithmetic);
    FusedOutputsMetadata {
        loss: vector(1),
        metrics: vector(crate::output::metric_count(groups(objective))),
        gradient: match with_gradient {
            true => inputs.log_probs.clone(),
            false => TensorSpec::new([1, 1].into(), inputs.log_probs.dtype),
        },
        factor: vector(1),
    }
}

/// Which metrics the kernels yield for an objective.
pub(crate) fn groups(objective: &Objective) -> Groups {
    Groups {
        rollout_correction: objective.correction.is_some(),
        off_policy_mask: objective.off_policy.is_some(),
        kl_penalty: objective.penalty.is_some(),
        entropy_bonus: false,
    }
}

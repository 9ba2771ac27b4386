//! The fused implementation: one pass over the inputs, by the kernels of the device's backend.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Bool, Device, Tensor};
use policy_loss_kernels as kernels;

use crate::batch::CheckedBatch;
use crate::composed::arithmetic;
use crate::ops::{FusedInputs, PolicyLossOps, has_weight};
use crate::output::{PolicyLossMetrics, PolicyLossOutput};
use crate::{
    Behavior, Implementation, PolicyLossConfig, RatioLevel, Reduction, RolloutCorrection, Surrogate,
};

/// Whether the device's backend has fused kernels.
pub(crate) fn available(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// The loss with its metrics.
pub(crate) fn forward(config: &PolicyLossConfig, batch: CheckedBatch) -> PolicyLossOutput {
    let objective = objective(config, batch.scale);
    let device = batch.log_probs.device().without_autodiff();
    let masked = batch.action_mask.is_some();
    // Constants leave autodiff here, so that no context can clash with that of `log_probs`.
    let old_log_probs = batch.old_log_probs.without_autodiff();
    let rollout_log_probs = match batch.rollout_log_probs {
        Some(rollout_log_probs) => rollout_log_probs.without_autodiff(),
        None => old_log_probs.clone(),
    };
    let action_mask = match batch.action_mask {
        Some(action_mask) => action_mask.without_autodiff(),
        None => Tensor::<2, Bool>::from_data([[true]], &device),
    };
    // Half precision is widened first: the kernel's gradient is then f32, autodiff rounds it once, on
    // the way out, and loss scaling reaches it before that.
    let log_probs = batch.log_probs;
    let arithmetic = arithmetic(log_probs.dtype());
    let log_probs = match log_probs.dtype() == arithmetic {
        true => log_probs,
        false => log_probs.cast(arithmetic),
    };
    let with_gradient = log_probs.is_tracked();
    let outputs = Dispatch::policy_loss_forward(
        FusedInputs {
            log_probs: log_probs.into_dispatch(),
            old_log_probs: old_log_probs.into_dispatch(),
            rollout_log_probs: rollout_log_probs.into_dispatch(),
            advantages: batch.advantages.without_autodiff().into_dispatch(),
            action_mask: action_mask.into_dispatch(),
        },
        objective,
        masked,
        with_gradient,
    );
    let metrics = Tensor::<1>::from_dispatch(outputs.metrics).without_autodiff();
    PolicyLossOutput {
        loss: Tensor::from_dispatch(outputs.loss),
        metrics: PolicyLossMetrics::from_packed(metrics, has_weight(&objective)),
        implementation: Implementation::Fused,
    }
}

/// The configuration in the kernels' terms.
fn objective(config: &PolicyLossConfig, scale: Option<f64>) -> kernels::Objective {
    let Surrogate::Clip(clip) = config.surrogate;
    kernels::Objective {
        ratio_level: match config.ratio.level {
            RatioLevel::Token => kernels::RatioLevel::Token,
            RatioLevel::Sequence => kernels::RatioLevel::Sequence,
        },
        ratio_base: match config.ratio.against {
            Behavior::Old => kernels::RatioBase::Old,
            Behavior::Rollout => kernels::RatioBase::Rollout,
        },
        clip: kernels::Clip {
            low: clip.low,
            high: clip.high,
            dual: clip.dual_clip,
        },
        weight: match config.rollout_correction {
            None => kernels::Weight::None,
            Some(RolloutCorrection::Truncate { low, high }) => {
                kernels::Weight::Truncate { low, high }
            }
            Some(RolloutCorrection::Mask { low, high }) => kernels::Weight::Mask { low, high },
            Some(RolloutCorrection::SequenceMask { low, high }) => {
                kernels::Weight::SequenceMask { low, high }
            }
        },
        reduction: match config.reduction {
            Reduction::TokenMean => kernels::Reduction::TokenMean,
            Reduction::SequenceMean => kernels::Reduction::SequenceMean,
        },
        scale,
    }
}

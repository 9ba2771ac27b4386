//! The fused implementation: one pass over the inputs, by the kernels of the device's backend.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Bool, Device, Tensor};
use policy_loss_kernels as kernels;

use crate::checked::CheckedBatch;
use crate::composed::{self, arithmetic, valid_tokens};
use crate::ops::{FusedInputs, PolicyLossOps, groups};
use crate::output::{PolicyLossMetrics, PolicyLossOutput};
use crate::{
    Behavior, Implementation, KlPenalty, PolicyLossConfig, RatioLevel, Reduction, RolloutCorrection,
};

/// What the fused kernels of a device cover.
pub(crate) enum Support {
    /// The whole objective.
    Full,
    /// There are kernels, but none for this part of the configuration.
    AllBut(&'static str),
    /// There are no kernels.
    NoKernels,
}

/// What the fused kernels of a device cover of an objective.
pub(crate) fn support(config: &PolicyLossConfig, device: &Device) -> Support {
    if !available(device) {
        return Support::NoKernels;
    }
    match supports(config) {
        Ok(_) => Support::Full,
        Err(part) => Support::AllBut(part),
    }
}

/// Whether the device's backend has fused kernels.
fn available(device: &Device) -> bool {
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
    let Ok(objective) = supports(config) else {
        // Never chosen then; the results would be the same.
        return composed::forward(config, batch);
    };
    let objective = kernels::Objective {
        scale: batch.scale,
        ..objective
    };
    let device = batch.log_probs.device().without_autodiff();
    let given = config
        .rollout_correction
        .filter(|correction| correction.kernel().weight == kernels::Weight::Given)
        .map(|correction| given_weights(correction, &batch));
    let masked = batch.action_mask.is_some();
    // Constants leave autodiff here, so that no context can clash with that of `log_probs`.
    let old_log_probs = batch.old_log_probs.without_autodiff();
    let rollout_log_probs = match batch.rollout_log_probs {
        Some(rollout_log_probs) => rollout_log_probs.without_autodiff(),
        None => old_log_probs.clone(),
    };
    let weights = match &given {
        Some(given) => given.weights.clone(),
        None => old_log_probs.clone(),
    };
    let ref_log_probs = match batch.ref_log_probs {
        Some(ref_log_probs) => ref_log_probs.without_autodiff(),
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
            weights: weights.into_dispatch(),
            ref_log_probs: ref_log_probs.into_dispatch(),
            advantages: batch.advantages.without_autodiff().into_dispatch(),
            action_mask: action_mask.into_dispatch(),
        },
        objective,
        masked,
        with_gradient,
    );
    let metrics = Tensor::<1>::from_dispatch(outputs.metrics).without_autodiff();
    let metrics = PolicyLossMetrics::from_packed(metrics, groups(&objective));
    PolicyLossOutput {
        loss: Tensor::from_dispatch(outputs.loss),
        metrics: match given {
            Some(given) => metrics.with_weight_fractions(given.truncated, given.zeroed),
            None => metrics,
        },
        implementation: Implementation::Fused,
    }
}

/// The configuration in the kernels' terms, or the first part that no kernel has.
pub(crate) fn supports(config: &PolicyLossConfig) -> Result<kernels::Objective, &'static str> {
    if config.entropy_bonus.is_some() {
        return Err("entropy_bonus");
    }
    let surrogate = config.surrogate.kernel().ok_or("surrogate")?;
    Ok(kernels::Objective {
        ratio_level: match config.ratio.level {
            RatioLevel::Token => kernels::RatioLevel::Token,
            RatioLevel::Sequence => kernels::RatioLevel::Sequence,
            RatioLevel::SequenceToken => kernels::RatioLevel::SequenceToken,
            RatioLevel::SequenceSum => kernels::RatioLevel::SequenceSum,
        },
        ratio_base: match config.ratio.against {
            Behavior::Old => kernels::RatioBase::Old,
            Behavior::Rollout => kernels::RatioBase::Rollout,
        },
        surrogate,
        correction: config
            .rollout_correction
            .map(|correction| correction.kernel()),
        off_policy: config.off_policy_mask.map(|mask| mask.delta),
        penalty: config.kl_penalty.map(KlPenalty::kernel),
        reduction: match config.reduction {
            Reduction::TokenMean => kernels::Reduction::TokenMean,
            Reduction::SequenceMean => kernels::Reduction::SequenceMean,
            Reduction::SequenceSumMean => kernels::Reduction::SequenceSum { length: 1 },
            Reduction::FixedLength { length } => kernels::Reduction::SequenceSum { length },
            Reduction::TokenSum => kernels::Reduction::TokenSum,
        },
        scale: None,
    })
}

/// The weights of a normalized correction, `[B, T]`, and the fractions of tokens
/// whose weight was cut, and set to 0.
struct GivenWeights {
    weights: Tensor<2>,
    truncated: Tensor<1>,
    zeroed: Tensor<1>,
}

fn given_weights(correction: RolloutCorrection, batch: &CheckedBatch) -> GivenWeights {
    let dtype = arithmetic(batch.log_probs.dtype());
    let constant = |x: &Tensor<2>| x.clone().without_autodiff().cast(dtype);
    let valid = valid_tokens(&batch.log_probs, batch.action_mask.clone(), dtype);
    let old_log_probs = constant(&batch.old_log_probs);
    // A correction is refused without it.
    let rollout_log_probs = batch.rollout_log_probs.as_ref().map(constant);
    let gap = old_log_probs.clone() - rollout_log_probs.unwrap_or(old_log_probs);
    let weights = correction.weights(valid.select(gap), &valid);
    let fraction = |condition: Option<Tensor<2, Bool>>| match condition {
        Some(condition) => valid.fraction(condition),
        None => valid.total.zeros_like(),
    };
    GivenWeights {
        truncated: fraction(weights.truncated),
        zeroed: fraction(weights.zeroed),
        weights: weights.weight,
    }
}

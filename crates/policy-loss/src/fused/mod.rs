//! The fused implementation: one pass over the inputs, by the kernels of the device's backend.

mod entropy;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Bool, DType, Device, Tensor};
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
pub(crate) fn forward(config: &PolicyLossConfig, mut batch: CheckedBatch) -> PolicyLossOutput {
    let Ok(objective) = supports(config) else {
        // Never chosen then; the results would be the same.
        return composed::forward(config, batch);
    };
    let objective = kernels::Objective {
        scale: batch.scale,
        ..objective
    };
    let dtype = arithmetic(batch.log_probs.dtype());
    let entropy = config
        .entropy_bonus
        .zip(batch.entropies.take())
        .map(|(bonus, entropies)| entropy::entropy(bonus, entropies, &batch, &objective));
    let given = config
        .rollout_correction
        .filter(|_| objective.uses_given_weights())
        .map(|correction| given_weights(correction, &batch));
    // Constants leave autodiff here, so that no context can clash with that of `log_probs`. What
    // the objective does not read is a stand-in.
    let old_log_probs = batch.old_log_probs.without_autodiff();
    let or_old = |tensor: Option<Tensor<2>>| match tensor {
        Some(tensor) => tensor.without_autodiff(),
        None => old_log_probs.clone(),
    };
    let columns = Columns {
        log_probs: batch.log_probs,
        rollout_log_probs: or_old(batch.rollout_log_probs),
        weights: or_old(given.as_ref().map(|given| given.weights.clone())),
        ref_log_probs: or_old(batch.ref_log_probs),
        advantages: batch.advantages.without_autodiff(),
        action_mask: batch.action_mask,
        old_log_probs: old_log_probs.clone(),
    };
    let (mut loss, mut metrics) = launch(objective, columns, dtype);
    if let Some(given) = given {
        metrics = metrics.with_weight_fractions(given.truncated, given.zeroed);
    }
    if let Some(entropy) = entropy {
        loss = loss + entropy.loss;
        metrics = metrics.with_entropy(entropy.mean, entropy.non_finite);
    }
    PolicyLossOutput {
        loss,
        metrics,
        implementation: Implementation::Fused,
    }
}

/// The inputs of a launch: `log_probs` tracked, everything else outside autodiff.
pub(crate) struct Columns {
    pub log_probs: Tensor<2>,
    pub old_log_probs: Tensor<2>,
    pub rollout_log_probs: Tensor<2>,
    pub weights: Tensor<2>,
    pub ref_log_probs: Tensor<2>,
    pub advantages: Tensor<2>,
    pub action_mask: Option<Tensor<2, Bool>>,
}

/// One pass of the kernels, in the arithmetic of `dtype`.
pub(crate) fn launch(
    objective: kernels::Objective,
    columns: Columns,
    dtype: DType,
) -> (Tensor<1>, PolicyLossMetrics) {
    let masked = columns.action_mask.is_some();
    let action_mask = match columns.action_mask {
        Some(action_mask) => action_mask.without_autodiff(),
        None => Tensor::<2, Bool>::from_data([[true]], &columns.old_log_probs.device()),
    };
    // Half precision is widened first: the kernel's gradient is then f32, autodiff rounds it once, on
    // the way out, and loss scaling reaches it before that.
    let log_probs = match columns.log_probs.dtype() == dtype {
        true => columns.log_probs,
        false => columns.log_probs.cast(dtype),
    };
    let with_gradient = log_probs.is_tracked();
    let outputs = Dispatch::policy_loss_forward(
        FusedInputs {
            log_probs: log_probs.into_dispatch(),
            old_log_probs: columns.old_log_probs.into_dispatch(),
            rollout_log_probs: columns.rollout_log_probs.into_dispatch(),
            weights: columns.weights.into_dispatch(),
            ref_log_probs: columns.ref_log_probs.into_dispatch(),
            advantages: columns.advantages.into_dispatch(),
            action_mask: action_mask.into_dispatch(),
        },
        objective,
        masked,
        with_gradient,
    );
    let metrics = Tensor::<1>::from_dispatch(outputs.metrics).without_autodiff();
    (
        Tensor::from_dispatch(outputs.loss),
        PolicyLossMetrics::from_packed(metrics, groups(&objective)),
    )
}

/// The configuration in the kernels' terms, or the first part that no kernel has.
pub(crate) fn supports(config: &PolicyLossConfig) -> Result<kernels::Objective, &'static str> {
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

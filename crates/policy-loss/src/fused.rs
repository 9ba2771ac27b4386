//! The fused implementation: one pass over the inputs, by the kernels of the device's backend.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Bool, Device, Tensor};
use policy_loss_kernels as kernels;

use crate::checked::CheckedBatch;
use crate::composed::{self, arithmetic};
use crate::ops::{FusedInputs, PolicyLossOps, groups};
use crate::output::{PolicyLossMetrics, PolicyLossOutput};
use crate::{
    Behavior, Bounds, Filter, Implementation, PolicyLossConfig, RatioLevel, Reduction,
    RolloutCorrection, Surrogate, WeightLevel, WeightMode,
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
    match supports(config, device) {
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
    let Ok(objective) = supports(config, &batch.log_probs.device()) else {
        // Never chosen then; the results would be the same.
        return composed::forward(config, batch);
    };
    let objective = kernels::Objective {
        scale: batch.scale,
        ..objective
    };
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
        metrics: PolicyLossMetrics::from_packed(metrics, groups(&objective)),
        implementation: Implementation::Fused,
    }
}

/// The configuration in the kernels' terms, or the first part that those of the device do not
/// have.
pub(crate) fn supports(
    config: &PolicyLossConfig,
    device: &Device,
) -> Result<kernels::Objective, &'static str> {
    let objective = objective(config)?;
    let on_cpu = match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => false,
        _ => true,
    };
    match objective {
        _ if on_cpu => Ok(objective),
        kernels::Objective {
            log_prob_weights: Some(_),
            ..
        } => Err("surrogate"),
        kernels::Objective {
            reduction: kernels::Reduction::TokenMean | kernels::Reduction::SequenceMean,
            ..
        } => Ok(objective),
        _ => Err("reduction"),
    }
}

/// The configuration in the kernels' terms, or the first part that no kernel has.
fn objective(config: &PolicyLossConfig) -> Result<kernels::Objective, &'static str> {
    if config.off_policy_mask.is_some() {
        return Err("off_policy_mask");
    }
    if config.kl_penalty.is_some() {
        return Err("kl_penalty");
    }
    if config.entropy_bonus.is_some() {
        return Err("entropy_bonus");
    }
    Ok(kernels::Objective {
        ratio_level: match config.ratio.level {
            RatioLevel::Token => kernels::RatioLevel::Token,
            RatioLevel::Sequence => kernels::RatioLevel::Sequence,
            RatioLevel::SequenceToken => return Err("ratio.level = sequence_token"),
            RatioLevel::SequenceSum => return Err("ratio.level = sequence_sum"),
        },
        ratio_base: match config.ratio.against {
            Behavior::Old => kernels::RatioBase::Old,
            Behavior::Rollout => kernels::RatioBase::Rollout,
        },
        clip: match config.surrogate {
            Surrogate::Clip(clip) => kernels::Clip {
                low: clip.low,
                high: clip.high,
                dual: clip.lower_bound(),
            },
            // Not read where there are weights of log-probs.
            _ => kernels::Clip {
                low: 1.0,
                high: 1.0,
                dual: None,
            },
        },
        log_prob_weights: log_prob_weights(&config.surrogate)?,
        weight: match config.rollout_correction {
            None => kernels::Weight::None,
            Some(correction) => weight(correction)?,
        },
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

/// The constant weights of the policy gradients that kernels have; none for the clip.
fn log_prob_weights(
    surrogate: &Surrogate,
) -> Result<Option<kernels::LogProbWeights>, &'static str> {
    let weight = |low: Option<f64>, high: f64, counts: bool| kernels::LogProbWeight {
        low: low.unwrap_or(0.0),
        high,
        counts,
    };
    let one = weight(Some(1.0), 1.0, false);
    let both = |weight| kernels::LogProbWeights {
        positive: weight,
        negative: weight,
    };
    Ok(Some(match surrogate {
        Surrogate::Clip(_) => return Ok(None),
        Surrogate::Cispo(cispo) => both(weight(cispo.min, cispo.max, true)),
        Surrogate::TruncatedImportance(tis) => both(weight(tis.low, tis.high, true)),
        Surrogate::Reinforce(_) => both(one),
        Surrogate::Topr(_) => kernels::LogProbWeights {
            positive: one,
            negative: weight(None, 1.0, true),
        },
        _ => return Err("surrogate"),
    }))
}

/// The corrections that kernels have: a truncated or masked token weight, and a raw one with a
/// filter of the geometric mean.
fn weight(correction: RolloutCorrection) -> Result<kernels::Weight, &'static str> {
    const NOT_COVERED: &str = "rollout_correction";
    let ends = |bounds: Bounds| {
        (
            bounds.low.unwrap_or(0.0),
            bounds.high.unwrap_or(f64::INFINITY),
        )
    };
    let RolloutCorrection {
        weight: Some(weight),
        normalize: false,
        filters,
        veto: None,
    } = correction
    else {
        return Err(NOT_COVERED);
    };
    if weight.level != WeightLevel::Token {
        return Err(NOT_COVERED);
    }
    let mut filters = filters.iter();
    match (weight.mode, filters.next(), filters.next()) {
        (WeightMode::Truncate(bounds), None, None) => {
            let (low, high) = ends(bounds);
            Ok(kernels::Weight::Truncate { low, high })
        }
        (WeightMode::Mask(bounds), None, None) => {
            let (low, high) = ends(bounds);
            Ok(kernels::Weight::Mask { low, high })
        }
        (WeightMode::Raw(_), Some(filter), None)
            if *filter == Filter::sequence_mean_k1(filter.bounds) =>
        {
            let (low, high) = ends(filter.bounds);
            Ok(kernels::Weight::SequenceMask { low, high })
        }
        _ => Err(NOT_COVERED),
    }
}

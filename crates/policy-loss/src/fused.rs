//! The fused implementation: one pass over the inputs, by the kernels of the device's backend.

use burn::tensor::Device;

use crate::Objective;
use crate::device::describe;

/// What the fused kernels of a device cover of an objective.
pub(crate) enum Support {
    /// The whole of it.
    Full,
    /// All but this part of it.
    AllBut(&'static str),
    /// There are no kernels for the device's backend.
    NoKernels,
    /// There are kernels, and this library was built without them.
    FeatureMissing(&'static str),
}

/// What the fused kernels of a device cover of an objective.
pub(crate) fn support(objective: &Objective, device: &Device) -> Support {
    let Some(feature) = feature(device) else {
        return Support::NoKernels;
    };
    if !is_on(feature) {
        return Support::FeatureMissing(feature);
    }
    match objective.part_without_kernel() {
        Some(part) => Support::AllBut(part),
        None => Support::Full,
    }
}

/// The feature of this library that has kernels for the device's backend.
fn feature(device: &Device) -> Option<&'static str> {
    // Which backends Burn was built with is not known here, so that they are told by their names.
    let name = describe(device);
    let starts = |prefix: &str| name.starts_with(prefix);
    match () {
        () if starts("Flex") => Some("flex"),
        () if starts("NdArray") => Some("ndarray"),
        () if starts("Wgpu") || starts("Cube(Wgpu") => Some("wgpu"),
        () if starts("Cuda") || starts("Cube(Cuda") => Some("cuda"),
        () => None,
    }
}

fn is_on(feature: &str) -> bool {
    match feature {
        "flex" => cfg!(feature = "flex"),
        "ndarray" => cfg!(feature = "ndarray"),
        // The kernels of both are the same.
        _ => cfg!(feature = "cube"),
    }
}

#[cfg(feature = "fused")]
pub(crate) use with_kernels::forward;

#[cfg(feature = "fused")]
mod with_kernels {
    use burn::backend::Dispatch;
    use burn::tensor::{Bool, Tensor, TensorData};

    use crate::Objective;
    use crate::checked::CheckedBatch;
    use crate::composed;
    use crate::composed::rollout::weight_mean;
    use crate::composed::{LossAndSums, arithmetic, stand_in, valid_tokens};
    use crate::ops::{FusedInputs, FusedTask, PolicyLossOps};

    /// The loss with its sums.
    pub(crate) fn forward(objective: &Objective, batch: CheckedBatch) -> LossAndSums {
        let dtype = arithmetic(batch.log_probs.dtype());
        let weight_mean = normalizing_mean(objective, &batch);
        let entropy_threshold = entropy_threshold(objective, &batch);
        let sequence_weights = batch.prompts.as_ref().map(|prompts| {
            let device = batch.log_probs.device().without_autodiff();
            let valid = || valid_tokens(&batch.log_probs, batch.action_mask.clone(), dtype);
            prompts.weights(&device, dtype, || valid().per_sequence)
        });
        let masked = batch.action_mask.is_some();
        // Constants leave autodiff here, so that no context can clash with that of `log_probs`. What
        // the objective does not read is a stand-in.
        let old_log_probs = batch.old_log_probs.without_autodiff();
        let log_probs = in_type(batch.log_probs, dtype);
        let action_mask = match batch.action_mask {
            Some(action_mask) => action_mask.without_autodiff(),
            None => Tensor::<2, Bool>::from_data([[true]], &old_log_probs.device()),
        };
        let rollout_log_probs = match batch.rollout_log_probs {
            Some(rollout_log_probs) => rollout_log_probs.without_autodiff(),
            None => old_log_probs.clone(),
        };
        let ref_log_probs = match batch.ref_log_probs {
            Some(ref_log_probs) => in_type(ref_log_probs.without_autodiff(), dtype),
            None => old_log_probs.clone(),
        };
        let entropies = match batch.entropies {
            // An entropy mask alone gives them no gradient.
            Some(entropies) => match objective.entropy_bonus {
                Some(_) => in_type(entropies, dtype),
                None => in_type(entropies.without_autodiff(), dtype),
            },
            None => old_log_probs.clone(),
        };
        let task = FusedTask {
            objective: *objective,
            scale: batch.scale,
            masked,
            with_gradient: log_probs.is_tracked() || entropies.is_tracked(),
        };
        let outputs = Dispatch::policy_loss_forward(
            FusedInputs {
                log_probs: log_probs.into_dispatch(),
                old_log_probs: old_log_probs.clone().into_dispatch(),
                rollout_log_probs: rollout_log_probs.into_dispatch(),
                ref_log_probs: ref_log_probs.into_dispatch(),
                entropies: entropies.into_dispatch(),
                advantages: batch.advantages.without_autodiff().into_dispatch(),
                weight_mean: match weight_mean {
                    Some(weight_mean) => weight_mean.into_dispatch(),
                    None => old_log_probs.clone().into_dispatch(),
                },
                entropy_threshold: match entropy_threshold {
                    Some(entropy_threshold) => entropy_threshold.into_dispatch(),
                    None => old_log_probs.clone().into_dispatch(),
                },
                sequence_weights: match sequence_weights {
                    Some(sequence_weights) => sequence_weights.into_dispatch(),
                    None => old_log_probs.clone().into_dispatch(),
                },
                action_mask: action_mask.into_dispatch(),
            },
            task,
        );
        LossAndSums {
            loss: Tensor::from_dispatch(outputs.loss),
            sums: Tensor::<2>::from_dispatch(outputs.sums).without_autodiff(),
        }
    }

    /// The mean of the batch's weights, where they are divided by it: a statistic of all tokens, which
    /// is needed before the first of them is visited.
    fn normalizing_mean(objective: &Objective, batch: &CheckedBatch) -> Option<Tensor<1>> {
        let correction = objective.rollout_correction.filter(|it| it.normalize)?;
        let dtype = arithmetic(batch.log_probs.dtype());
        let constant = |x: &Tensor<2>| x.clone().without_autodiff().cast(dtype);
        let valid = valid_tokens(&batch.log_probs, batch.action_mask.clone(), dtype);
        let old_log_probs = constant(&batch.old_log_probs);
        let given = constant(batch.rollout_log_probs.as_ref()?);
        let gap = old_log_probs.clone() - stand_in(objective, given, &old_log_probs);
        Some(weight_mean(correction.weight?, valid.select(gap), &valid))
    }

    /// The least entropy of a token that the entropy mask keeps: a statistic of all tokens, too, unless
    /// it is given.
    fn entropy_threshold(objective: &Objective, batch: &CheckedBatch) -> Option<Tensor<1>> {
        let mask = objective.entropy_mask?;
        let dtype = arithmetic(batch.log_probs.dtype());
        let entropies = batch.entropies.clone()?.without_autodiff().cast(dtype);
        Some(match batch.entropy_threshold {
            Some(threshold) => {
                let data = TensorData::from([threshold]).convert_dtype(dtype);
                Tensor::from_data(data, (&entropies.device(), dtype))
            }
            None => {
                let valid = valid_tokens(&batch.log_probs, batch.action_mask.clone(), dtype);
                composed::entropy_threshold(mask, entropies, &valid)
            }
        })
    }

    /// Half precision is widened first: the kernel's gradient is then f32, autodiff rounds it once,
    /// on the way out, and loss scaling reaches it before that.
    fn in_type(x: Tensor<2>, dtype: burn::tensor::DType) -> Tensor<2> {
        match x.dtype() == dtype {
            true => x,
            false => x.cast(dtype),
        }
    }
}

/// No device has kernels in this build, so that this is never chosen.
#[cfg(not(feature = "fused"))]
pub(crate) use crate::composed::forward;

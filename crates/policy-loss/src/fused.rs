//! The fused implementation: one pass over the inputs, by the kernels of the device's backend.

use std::cell::OnceCell;

use burn::backend::Dispatch;
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};

use crate::checked::CheckedBatch;
use crate::composed::future_weight::future_weights;
use crate::composed::ratio::ratio;
use crate::composed::rollout::{Mismatch, is_filtered, weight_mean};
use crate::composed::{self, LossAndSums, arithmetic, stand_in, valid_tokens};
use crate::device::{describe, is_host};
use crate::ops::{FusedInputs, FusedTask, PolicyLossOps};
use crate::valid::Valid;
use crate::{Behavior, FilterLevel, Objective, RatioLevel};

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

/// What the fused kernels of a device cover of an objective, for a batch of `tokens` tokens, padding
/// included.
pub(crate) fn support(objective: &Objective, device: &Device, tokens: usize) -> Support {
    let Some(feature) = feature(device) else {
        return Support::NoKernels;
    };
    if !is_on(feature) {
        return Support::FeatureMissing(feature);
    }
    match objective.part_without_kernel() {
        Some(part) => Support::AllBut(part),
        // Those of a GPU count in 32 bits.
        None if !is_host(device) && i32::try_from(tokens).is_err() => {
            Support::AllBut("a batch of 2^31 tokens or more")
        }
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

/// The loss with its sums.
pub(crate) fn forward(objective: &Objective, batch: CheckedBatch) -> LossAndSums {
    let dtype = arithmetic(batch.log_probs.dtype());
    // Half precision is widened first: the kernel's gradient is then f32, autodiff rounds it once,
    // on the way out, and loss scaling reaches it before that.
    let log_probs = batch.log_probs.clone().cast(dtype);
    let of_many = OfManyTokens {
        objective,
        batch: &batch,
        log_probs: &log_probs,
        dtype,
        valid: OnceCell::new(),
    };
    let weight_mean = of_many.weight_mean();
    let entropy_threshold = of_many.entropy_threshold();
    let future_weights = of_many.future_weights();
    let segment_log_ratios = of_many.segment_log_ratios();
    let segment_rejections = of_many.segment_rejections();
    let sequence_weights = batch.prompts.as_ref().map(|prompts| {
        let device = batch.log_probs.device().without_autodiff();
        prompts.weights(&device, dtype, || of_many.valid().per_sequence.clone())
    });
    let masked = batch.action_mask.is_some();
    // Constants leave autodiff here, so that no context can clash with that of `log_probs`.
    let old_log_probs = batch.old_log_probs.without_autodiff();
    let action_mask = match batch.action_mask {
        Some(action_mask) => action_mask.without_autodiff(),
        None => Tensor::<2, Bool>::from_data([[true]], &old_log_probs.device()),
    };
    let unread = Tensor::<2>::empty([1, 1], (&old_log_probs.device(), dtype));
    let constant_in_type = |x: Tensor<2>| x.without_autodiff().cast(dtype);
    let rollout_log_probs = batch.rollout_log_probs.map(Tensor::without_autodiff);
    let ref_log_probs = batch.ref_log_probs.map(constant_in_type);
    let entropies = match batch.entropies {
        // An entropy mask alone gives them no gradient.
        Some(entropies) => match objective.entropy_bonus {
            Some(_) => entropies.cast(dtype),
            None => constant_in_type(entropies),
        },
        None => unread.clone(),
    };
    let task = FusedTask {
        objective: *objective,
        scale: batch.scale,
        masked,
        with_gradient: log_probs.is_tracked() || entropies.is_tracked(),
    };
    let or_unread = |x: Option<Tensor<2>>| x.unwrap_or_else(|| unread.clone());
    let number_or_unread = |x: Option<Tensor<1>>| match x {
        Some(number) => number.into_dispatch(),
        None => unread.clone().into_dispatch(),
    };
    let outputs = Dispatch::policy_loss_forward(
        FusedInputs {
            log_probs: log_probs.into_dispatch(),
            old_log_probs: old_log_probs.clone().into_dispatch(),
            rollout_log_probs: or_unread(rollout_log_probs).into_dispatch(),
            ref_log_probs: or_unread(ref_log_probs).into_dispatch(),
            entropies: entropies.into_dispatch(),
            advantages: batch.advantages.without_autodiff().into_dispatch(),
            future_weights: or_unread(future_weights).into_dispatch(),
            segment_log_ratios: or_unread(segment_log_ratios).into_dispatch(),
            segment_rejections: or_unread(segment_rejections).into_dispatch(),
            weight_mean: number_or_unread(weight_mean),
            entropy_threshold: number_or_unread(entropy_threshold),
            sequence_weights: or_unread(sequence_weights).into_dispatch(),
            action_mask: action_mask.into_dispatch(),
        },
        task,
    );
    LossAndSums {
        loss: Tensor::from_dispatch(outputs.loss),
        sums: Tensor::<2>::from_dispatch(outputs.sums).without_autodiff(),
    }
}

/// What a token's loss needs of other tokens than those of its sequence, or in an order: made of
/// tensor operations, before the kernels visit each token. What the objective does not have is
/// absent.
struct OfManyTokens<'a> {
    objective: &'a Objective,
    batch: &'a CheckedBatch,
    /// `[B, T]`, in the type of the arithmetic.
    log_probs: &'a Tensor<2>,
    dtype: DType,
    valid: OnceCell<Valid>,
}

impl OfManyTokens<'_> {
    fn valid(&self) -> &Valid {
        self.valid.get_or_init(|| {
            let mask = self.batch.action_mask.clone();
            let valid = valid_tokens(&self.batch.log_probs, mask, self.dtype);
            valid.with_segment_ids(self.batch.segment_ids.clone())
        })
    }

    fn constant(&self, x: &Tensor<2>) -> Tensor<2> {
        x.clone().without_autodiff().cast(self.dtype)
    }

    fn old_log_probs(&self) -> Tensor<2> {
        self.constant(&self.batch.old_log_probs)
    }

    /// `[B, T]`, with what stands in for missing ones.
    fn rollout_log_probs(&self) -> Option<Tensor<2>> {
        let given = self.constant(self.batch.rollout_log_probs.as_ref()?);
        Some(stand_in(self.objective, given, &self.old_log_probs()))
    }

    /// What the ratio is taken against, `[B, T]`.
    fn base(&self) -> Tensor<2> {
        match self.objective.ratio.against {
            Behavior::Old => self.old_log_probs(),
            Behavior::Rollout => self.rollout_log_probs().expect("the batch was checked"),
        }
    }

    /// The mean of the batch's weights, `[1]`, where they are divided by it.
    fn weight_mean(&self) -> Option<Tensor<1>> {
        let correction = self.objective.rollout_correction;
        let correction = correction.filter(|it| it.normalize)?;
        let gap = self.old_log_probs() - self.rollout_log_probs()?;
        let valid = self.valid();
        Some(weight_mean(correction.weight?, valid.select(gap), valid))
    }

    /// The least entropy of a token that the entropy mask keeps, `[1]`.
    fn entropy_threshold(&self) -> Option<Tensor<1>> {
        let mask = self.objective.entropy_mask?;
        let entropies = self.constant(self.batch.entropies.as_ref()?);
        Some(match self.batch.entropy_threshold {
            Some(threshold) => {
                let data = TensorData::from([threshold]).convert_dtype(self.dtype);
                Tensor::from_data(data, (&entropies.device(), self.dtype))
            }
            None => composed::entropy_threshold(mask, entropies, self.valid()),
        })
    }

    /// The future weight of each token, `[B, T]`.
    fn future_weights(&self) -> Option<Tensor<2>> {
        let config = self.objective.future_weight?;
        let valid = self.valid();
        let log_probs = self.log_probs.clone().without_autodiff();
        let log_ratio = valid.select(log_probs.clone() - self.base());
        let ratio = || {
            let log_probs = valid.select(log_probs);
            ratio(self.objective.ratio, log_ratio.clone(), &log_probs, valid)
        };
        let advantages = valid.select(self.constant(&self.batch.advantages));
        Some(future_weights(
            &config,
            log_ratio.clone(),
            ratio,
            &advantages,
        ))
    }

    /// The mean log-ratio of each token's segment, `[B, T]` and tracked, where it makes the ratio.
    fn segment_log_ratios(&self) -> Option<Tensor<2>> {
        if self.objective.ratio.level != RatioLevel::Segment {
            return None;
        }
        let valid = self.valid();
        let log_ratio = valid.select(self.log_probs.clone() - self.base());
        Some(valid.mean_per_segment(log_ratio))
    }

    /// 1 where a filter rejects the segment of a token, else 0, `[B, T]`.
    fn segment_rejections(&self) -> Option<Tensor<2>> {
        let correction = self.objective.rollout_correction;
        let correction = correction.filter(|it| it.filters.of_segments())?;
        let valid = self.valid();
        let mismatch = Mismatch {
            old_log_probs: valid.select(self.old_log_probs()),
            rollout_log_probs: valid.select(self.rollout_log_probs()?),
        };
        let filters = correction.filters.iter();
        filters
            .filter(|filter| filter.level == FilterLevel::SegmentMean)
            .map(|filter| is_filtered(filter, &mismatch, valid))
            .reduce(Tensor::bool_or)
            .map(|rejected| rejected.float().cast(self.dtype))
    }
}

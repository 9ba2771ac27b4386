//! The reference implementation: plain tensor operations that read like the formula and run on
//! every backend that Burn has.

pub(crate) mod future_weight;
pub(crate) mod kl;
pub(crate) mod ratio;
pub(crate) mod rollout;
pub(crate) mod sums;
mod surrogate;

use burn::tensor::{Bool, DType, Tensor};

use self::future_weight::future_weights;
use self::kl::penalized_divergence;
use self::ratio::ratio;
use self::rollout::{Mismatch, weights};
use self::sums::Observed;
use self::surrogate::{Formula, SurrogateOutput, Tokens};
use crate::checked::CheckedBatch;
use crate::order::in_order;
use crate::valid::Valid;
use crate::{Behavior, EntropyMask, KlBase, MissingRolloutLogProbs, Objective, OffPolicyMask};

/// A loss, `[1]` and tracked, with the row of sums that its metrics are made of, `[1, N]`.
pub(crate) struct LossAndSums {
    pub loss: Tensor<1>,
    pub sums: Tensor<2>,
}

/// The loss with its sums.
pub(crate) fn forward(objective: &Objective, batch: CheckedBatch) -> LossAndSums {
    let scale = batch.scale;
    let Numerator {
        value,
        prompts,
        valid,
        observed,
    } = numerator(objective, batch);
    let constant = value.clone().without_autodiff();
    LossAndSums {
        sums: observed.row(constant, prompts.clone(), &valid),
        loss: valid.divided(objective.reduction, value, prompts, scale),
    }
}

/// What the reduction divides, `[1]` and tracked, with what it is made of.
pub(crate) struct Numerator {
    pub value: Tensor<1>,
    /// The number of prompts, where the reduction is a mean over them.
    prompts: Option<Tensor<1>>,
    valid: Valid,
    observed: Observed,
}

/// The numerator of the reduction.
pub(crate) fn numerator(objective: &Objective, mut batch: CheckedBatch) -> Numerator {
    let prompts = batch.prompts.take();
    let (token_loss, valid, observed) = token_losses(objective, batch);
    let per_sequence = &valid.per_sequence;
    let weights = prompts.map(|prompts| {
        let (device, dtype) = (per_sequence.device(), per_sequence.dtype());
        prompts.weights(&device, dtype, || per_sequence.clone())
    });
    Numerator {
        value: valid.numerator(objective.reduction, token_loss, weights.as_ref()),
        prompts: weights.map(|weights| valid.prompts(&weights)),
        valid,
        observed,
    }
}

/// The token losses `[B, T]`, 0 at masked positions, and what the sums are made of.
pub(crate) fn token_losses(
    objective: &Objective,
    batch: CheckedBatch,
) -> (Tensor<2>, Valid, Observed) {
    let dtype = arithmetic(batch.log_probs.dtype());
    let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
    let shape = batch.log_probs.dims();

    let log_probs = batch.log_probs.cast(dtype);
    let valid = valid_tokens(&log_probs, batch.action_mask, dtype);
    let valid = valid.with_segment_ids(batch.segment_ids);
    let old_log_probs = constant(batch.old_log_probs);
    let given = batch.rollout_log_probs.map(constant);
    let missing = given.as_ref().map(|given| given.clone().is_nan());
    let rollout_log_probs = given.map(|given| stand_in(objective, given, &old_log_probs));
    let drops_missing = objective.missing_rollout_log_probs == MissingRolloutLogProbs::Drop;
    let dropped_missing = missing.clone().filter(|_| drops_missing);
    let advantages = valid.select(constant(batch.advantages));
    let kl_base = objective
        .kl_penalty
        .and_then(|penalty| match penalty.against {
            KlBase::Reference => batch.ref_log_probs.map(constant),
            KlBase::Rollout => rollout_log_probs.clone(),
        });

    let base = match objective.ratio.against {
        Behavior::Old => old_log_probs.clone(),
        Behavior::Rollout => rollout_log_probs.clone().expect("the batch was checked"),
    };
    let log_ratio = valid.select(log_probs.clone() - base.clone());
    let selected_log_probs = valid.select(log_probs.clone());
    let ratio = ratio(
        objective.ratio,
        log_ratio.clone(),
        &selected_log_probs,
        &valid,
    );
    let SurrogateOutput {
        mut surrogate,
        clipped,
        dual_clipped,
    } = objective.surrogate.of(&Tokens {
        log_probs: selected_log_probs,
        base_log_probs: valid.select(base),
        log_ratio: log_ratio.clone(),
        ratio: ratio.clone(),
        advantages: advantages.clone(),
        valid: &valid,
        second_moment_limit: batch.second_moment_limit,
    });

    let off_policy = objective
        .off_policy_mask
        .map(|mask| is_off_policy(mask, log_ratio.clone(), advantages.clone(), &valid));
    let entropies = batch.entropies.map(|entropies| entropies.cast(dtype));
    let low_entropy = objective.entropy_mask.zip(entropies.as_ref());
    let low_entropy = low_entropy.map(|(mask, entropies)| {
        let entropies = entropies.clone().without_autodiff();
        let threshold = match batch.entropy_threshold {
            Some(threshold) => valid.total.zeros_like() + threshold,
            None => entropy_threshold(mask, entropies.clone(), &valid),
        };
        let threshold = threshold.reshape([1, 1]).expand(shape);
        entropies.lower(threshold).bool_and(valid.tokens.clone())
    });
    let dropped = off_policy
        .iter()
        .chain(&low_entropy)
        .chain(&dropped_missing)
        .cloned()
        .reduce(Tensor::bool_or);
    if let Some(dropped) = &dropped {
        surrogate = surrogate.expand(shape).mask_fill(dropped.clone(), 0);
    }
    // A weight may be infinite where the surrogate was dropped.
    let kept = |weight: Tensor<2>| match &dropped {
        Some(dropped) => weight.mask_fill(dropped.clone(), 0),
        None => weight,
    };
    if let Some(config) = &objective.future_weight {
        let log_ratio = log_ratio.clone().without_autodiff();
        let constant_ratio = || ratio.clone().without_autodiff();
        let weight = future_weights(config, log_ratio, constant_ratio, &advantages);
        surrogate = surrogate * kept(weight);
    }
    let correction = objective.rollout_correction.zip(rollout_log_probs);
    let weights = correction.map(|(correction, rollout_log_probs)| {
        let mismatch = Mismatch {
            old_log_probs: valid.select(old_log_probs.clone()),
            rollout_log_probs: valid.select(rollout_log_probs),
        };
        weights(&correction, &mismatch, &advantages, &valid)
    });
    if let Some(weights) = &weights {
        surrogate = surrogate * kept(weights.weight.clone());
    }
    let mut token_loss = -surrogate.expand(shape);

    let (mut kl, mut kl_log_ratio, mut entropy) = (None, None, None);
    if let Some((penalty, base)) = objective.kl_penalty.zip(kl_base) {
        let mut q = valid.select(log_probs.clone() - base);
        if let (Some(dropped), KlBase::Rollout) = (&dropped_missing, penalty.against) {
            q = q.mask_fill(dropped.clone(), 0);
        }
        let divergence = penalized_divergence(penalty, q.clone(), &ratio);
        token_loss = token_loss + divergence.clone() * penalty.coefficient;
        kl = Some(divergence.without_autodiff());
        kl_log_ratio = Some(q.without_autodiff());
    }
    if let Some(entropies) = entropies {
        let entropies = valid.select(entropies);
        if let Some(bonus) = objective.entropy_bonus {
            let rewarded = match &low_entropy {
                Some(dropped) => entropies.clone().mask_fill(dropped.clone(), 0),
                None => entropies.clone(),
            };
            token_loss = token_loss - rewarded * bonus.coefficient;
        }
        entropy = Some(entropies.without_autodiff());
    }
    let token_loss = valid.select(token_loss);

    let log_ratio = log_ratio.without_autodiff();
    let (old_log_ratio, rollout_log_ratio) = match objective.ratio.against {
        Behavior::Old => (log_ratio, None),
        Behavior::Rollout => {
            let old_log_ratio = valid.select(log_probs.without_autodiff() - old_log_probs);
            (old_log_ratio, Some(log_ratio))
        }
    };
    let observed = Observed {
        old_log_ratio,
        rollout_log_ratio,
        ratio: ratio.without_autodiff(),
        advantages,
        clipped,
        dual_clipped,
        weights,
        off_policy,
        low_entropy,
        missing,
        kl,
        kl_log_ratio,
        entropy,
        entropy_bonus: objective.entropy_bonus.is_some(),
    };
    (token_loss, valid, observed)
}

/// `rollout_log_probs`, with the old ones where there are none and the objective has them stand in.
pub(crate) fn stand_in(
    objective: &Objective,
    rollout_log_probs: Tensor<2>,
    old_log_probs: &Tensor<2>,
) -> Tensor<2> {
    match objective.missing_rollout_log_probs {
        MissingRolloutLogProbs::Propagate => rollout_log_probs,
        MissingRolloutLogProbs::Drop | MissingRolloutLogProbs::UseOld => {
            let missing = rollout_log_probs.clone().is_nan();
            rollout_log_probs.mask_where(missing, old_log_probs.clone())
        }
    }
}

/// The least entropy of a token that the mask keeps, of all valid tokens, `[1]`.
pub(crate) fn entropy_threshold(
    mask: EntropyMask,
    entropies: Tensor<2>,
    valid: &Valid,
) -> Tensor<1> {
    // Largest first. Padding is behind, and so is a NaN, which is kept whatever the threshold is.
    let behind = valid.padding.clone().bool_or(entropies.clone().is_nan());
    let order = entropies.neg().mask_fill(behind, f32::MAX);
    // As `EntropyMask::threshold` counts: whole tokens are not lost to a rounding.
    let share = mask.share * (1.0 + 1e-6);
    let last = (valid.total.clone() - 1.0).clamp_min(0);
    let index = (last.clone() * share).floor().min_pair(last);
    in_order(order, index).neg()
}

/// Where the off-policy mask drops tokens, `[B, T]`; never at a NaN, which is counted instead.
fn is_off_policy(
    mask: OffPolicyMask,
    log_ratio: Tensor<2>,
    advantages: Tensor<2>,
    valid: &Valid,
) -> Tensor<2, Bool> {
    let shape = log_ratio.dims();
    let mean = valid.mean_per_sequence(log_ratio.without_autodiff());
    let far = mean.lower_elem(-mask.delta).expand(shape);
    advantages.lower_elem(0).expand(shape).bool_and(far)
}

/// The valid tokens of `log_probs`; without a mask every one.
pub(crate) fn valid_tokens(
    log_probs: &Tensor<2>,
    action_mask: Option<Tensor<2, Bool>>,
    dtype: DType,
) -> Valid {
    let all = || {
        let device = log_probs.device().without_autodiff();
        Tensor::ones(log_probs.dims(), &device)
    };
    Valid::new(action_mask.unwrap_or_else(all), dtype)
}

/// At least f32: in bf16 the loss itself would lose its digits.
pub(crate) fn arithmetic(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

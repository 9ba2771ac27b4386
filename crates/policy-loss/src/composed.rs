//! The reference implementation: plain tensor operations that read like the formula and run on
//! every backend that Burn has.

use burn::tensor::{Bool, DType, Tensor};

use crate::checked::CheckedBatch;
use crate::groups::Groups;
use crate::metrics::{self, Observed};
use crate::output::PolicyLossOutput;
use crate::surrogate::{Surrogated, Tokens};
use crate::valid::Valid;
use crate::{Behavior, Implementation, PolicyLossConfig};

/// The loss with its metrics.
pub(crate) fn forward(config: &PolicyLossConfig, batch: CheckedBatch) -> PolicyLossOutput {
    let scale = batch.scale;
    let (token_loss, valid, observed) = token_losses(config, batch);
    PolicyLossOutput {
        loss: config.reduction.reduce(token_loss, &valid, scale),
        metrics: metrics::observe(&valid, observed, Groups::of(config)),
        implementation: Implementation::Composed,
    }
}

/// The token losses `[B, T]`, 0 at masked positions, and what the metrics need.
pub(crate) fn token_losses(
    config: &PolicyLossConfig,
    batch: CheckedBatch,
) -> (Tensor<2>, Valid, Observed) {
    let dtype = arithmetic(batch.log_probs.dtype());
    let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
    let shape = batch.log_probs.dims();

    let log_probs = batch.log_probs.cast(dtype);
    let valid = valid_tokens(&log_probs, batch.action_mask, dtype);
    let old_log_probs = constant(batch.old_log_probs);
    let rollout_log_probs = batch.rollout_log_probs.map(constant);
    let advantages = valid.select(constant(batch.advantages));

    let base = match (config.ratio.against, &rollout_log_probs) {
        (Behavior::Rollout, Some(rollout_log_probs)) => rollout_log_probs.clone(),
        _ => old_log_probs.clone(),
    };
    let log_ratio = valid.select(log_probs.clone() - base.clone());
    let selected_log_probs = valid.select(log_probs.clone());
    let ratio = config
        .ratio
        .of(log_ratio.clone(), &selected_log_probs, &valid);
    let Surrogated {
        mut surrogate,
        clipped,
        dual_clipped,
    } = config.surrogate.of(&Tokens {
        log_probs: selected_log_probs,
        base_log_probs: valid.select(base),
        log_ratio: log_ratio.clone(),
        ratio: ratio.clone(),
        advantages: advantages.clone(),
        valid: &valid,
    });

    let off_policy = config
        .off_policy_mask
        .map(|mask| mask.of(log_ratio.clone(), advantages.clone(), &valid));
    if let Some(off_policy) = &off_policy {
        surrogate = surrogate.expand(shape).mask_fill(off_policy.clone(), 0);
    }
    let weights = match (config.rollout_correction, &rollout_log_probs) {
        (Some(correction), Some(rollout_log_probs)) => {
            let gap = valid.select(old_log_probs.clone() - rollout_log_probs.clone());
            Some(correction.weights(gap, &valid))
        }
        _ => None,
    };
    let weighted = match &weights {
        Some(weights) => {
            let weight = weights.weight.clone();
            // A weight may be infinite where the surrogate was dropped.
            surrogate
                * match &off_policy {
                    Some(off_policy) => weight.mask_fill(off_policy.clone(), 0),
                    None => weight,
                }
        }
        None => surrogate,
    };
    let mut token_loss = -weighted.expand(shape);

    let (kl, kl_log_ratio) = match (config.kl_penalty, batch.ref_log_probs) {
        (Some(penalty), Some(ref_log_probs)) => {
            let q = valid.select(log_probs.clone() - constant(ref_log_probs));
            let kl = penalty.of(q.clone(), &ratio);
            token_loss = token_loss + kl.clone() * penalty.coefficient;
            (Some(kl.without_autodiff()), Some(q.without_autodiff()))
        }
        _ => (None, None),
    };
    let entropy = match (config.entropy_bonus, batch.entropies) {
        (Some(bonus), Some(entropies)) => {
            let entropy = valid.select(entropies.cast(dtype));
            token_loss = token_loss - entropy.clone() * bonus.coefficient;
            Some(entropy.without_autodiff())
        }
        _ => None,
    };
    let token_loss = valid.select(token_loss);

    let log_ratio = log_ratio.without_autodiff();
    let (old_log_ratio, rollout_log_ratio) = match config.ratio.against {
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
        kl,
        kl_log_ratio,
        entropy,
    };
    (token_loss, valid, observed)
}

/// The valid tokens of `log_probs`; without a mask every one.
pub(crate) fn valid_tokens(
    log_probs: &Tensor<2>,
    action_mask: Option<Tensor<2, Bool>>,
    dtype: DType,
) -> Valid {
    let all = || {
        let device = log_probs.device().without_autodiff();
        Tensor::<2>::zeros(log_probs.dims(), &device).equal_elem(0)
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

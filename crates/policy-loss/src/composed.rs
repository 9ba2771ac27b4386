//! The reference implementation: plain tensor operations that read like the formula and run on
//! every backend that Burn has.

use burn::tensor::{DType, Tensor};

use crate::batch::CheckedBatch;
use crate::metrics::{self, Observed};
use crate::output::{Implementation, PolicyLossOutput};
use crate::surrogate::Surrogated;
use crate::valid::Valid;
use crate::{Behavior, PolicyLossConfig};

/// The loss with its metrics.
pub(crate) fn forward(config: &PolicyLossConfig, batch: CheckedBatch) -> PolicyLossOutput {
    let scale = batch.scale;
    let (token_loss, valid, observed) = token_losses(config, batch);
    PolicyLossOutput {
        loss: config.reduction.reduce(token_loss, &valid, scale),
        metrics: metrics::observe(&valid, observed),
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
    let [batch_size, tokens] = batch.log_probs.dims();

    let log_probs = batch.log_probs.cast(dtype);
    let valid = Valid::new(
        batch.action_mask.unwrap_or_else(|| {
            let device = log_probs.device().without_autodiff();
            Tensor::<2>::zeros([batch_size, tokens], &device).equal_elem(0)
        }),
        dtype,
    );
    let old_log_probs = constant(batch.old_log_probs);
    let rollout_log_probs = batch.rollout_log_probs.map(constant);
    let advantages = valid.select(constant(batch.advantages));

    let base = match (config.ratio.against, &rollout_log_probs) {
        (Behavior::Rollout, Some(rollout_log_probs)) => rollout_log_probs.clone(),
        _ => old_log_probs.clone(),
    };
    let log_ratio = valid.select(log_probs.clone() - base);
    let ratio = config.ratio.of(log_ratio.clone(), &valid);
    let Surrogated {
        surrogate,
        clipped,
        dual_clipped,
    } = config.surrogate.of(ratio.clone(), advantages.clone());

    let weights = match (config.rollout_correction, &rollout_log_probs) {
        (Some(correction), Some(rollout_log_probs)) => {
            let gap = valid.select(old_log_probs.clone() - rollout_log_probs.clone());
            Some(correction.weights(gap, &valid))
        }
        _ => None,
    };
    let weighted = match &weights {
        Some(weights) => surrogate * weights.weight.clone(),
        None => surrogate,
    };
    let token_loss = valid.select(-weighted.expand([batch_size, tokens]));

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
    };
    (token_loss, valid, observed)
}

/// At least f32: in bf16 the loss itself would lose its digits.
pub(crate) fn arithmetic(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

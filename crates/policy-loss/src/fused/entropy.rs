//! The entropy bonus by the same kernels: it is the loss of REINFORCE with the entropies in the
//! place of the log-probs, and its coefficient in that of the advantages.

use burn::tensor::Tensor;
use policy_loss_kernels as kernels;

use super::{Columns, launch};
use crate::EntropyBonus;
use crate::checked::CheckedBatch;
use crate::composed::arithmetic;

/// What the bonus adds to an objective.
pub(super) struct FusedEntropy {
    /// `[1]`, tracked.
    pub loss: Tensor<1>,
    /// The mean of the entropies, `[1]`.
    pub mean: Tensor<1>,
    /// The number of valid tokens at which anything that takes part is not finite, `[1]`.
    pub non_finite: Tensor<1>,
}

/// The bonus of a batch's `entropies`, reduced as the `objective` is.
pub(super) fn entropy(
    bonus: EntropyBonus,
    entropies: Tensor<2>,
    batch: &CheckedBatch,
    objective: &kernels::Objective,
) -> FusedEntropy {
    let shape @ [sequences, _] = batch.log_probs.dims();
    let dtype = arithmetic(batch.log_probs.dtype());
    let constant = |x: &Tensor<2>| x.clone().without_autodiff().cast(dtype);
    // Finite where every input is: read as what the ratio is taken against, which REINFORCE does
    // not have, it is counted and has no other effect.
    let inputs = [Some(&batch.old_log_probs), batch.rollout_log_probs.as_ref()]
        .into_iter()
        .chain([batch.ref_log_probs.as_ref()])
        .flatten()
        .fold(constant(&batch.log_probs), |sum, it| sum + constant(it));
    let inputs = inputs + constant(&batch.advantages).expand(shape);
    let device = inputs.device();
    let zeros = Tensor::<2>::zeros(shape, (&device, dtype));
    let objective = kernels::Objective {
        ratio_level: kernels::RatioLevel::Token,
        ratio_base: kernels::RatioBase::Rollout,
        surrogate: kernels::Surrogate::LogProbs {
            weighed: kernels::Weighed::None,
            range: kernels::Range {
                low: 0.0,
                high: f64::INFINITY,
            },
        },
        correction: None,
        off_policy: None,
        penalty: None,
        ..*objective
    };
    let (loss, metrics) = launch(
        objective,
        Columns {
            log_probs: entropies,
            weights: zeros.clone(),
            ref_log_probs: zeros.clone(),
            old_log_probs: zeros,
            rollout_log_probs: inputs,
            advantages: Tensor::full([sequences, 1], bonus.coefficient, (&device, dtype)),
            action_mask: batch.action_mask.clone(),
        },
        dtype,
    );
    FusedEntropy {
        loss,
        // That of `0 - entropies`.
        mean: metrics.ppo_kl().neg(),
        non_finite: metrics.non_finite(),
    }
}

//! The fused loss under autodiff: the forward pass yields the gradients, the backward pass scales
//! them.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend};

use crate::ops::{FusedInputs, FusedOutputs, FusedTask, PolicyLossOps};

#[derive(Debug)]
struct PolicyLossBackward;

/// What the backward pass needs: the gradients up to a factor, and the factor.
#[derive(Debug, Clone)]
struct SavedGradients<B: Backend> {
    log_probs: FloatTensor<B>,
    entropies: FloatTensor<B>,
    segment_log_ratios: FloatTensor<B>,
    factor: FloatTensor<B>,
}

impl<B: Backend + PolicyLossOps> Backward<B, 3> for PolicyLossBackward {
    type State = SavedGradients<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let SavedGradients {
            log_probs,
            entropies,
            segment_log_ratios,
            factor,
        } = ops.state;
        let upstream = grads.consume::<B>(&ops.node);
        let gradients = [log_probs, entropies, segment_log_ratios];
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                let (factor, upstream) = (factor.clone(), upstream.clone());
                let scaled = B::policy_loss_backward(gradient, factor, upstream);
                grads.register::<B>(parent.id, scaled);
            }
        }
    }
}

impl<B: Backend + PolicyLossOps, C: CheckpointStrategy> PolicyLossOps for Autodiff<B, C> {
    fn policy_loss_forward(inputs: FusedInputs<Self>, task: FusedTask) -> FusedOutputs<Self> {
        let (log_probs, log_probs_node) = inputs.log_probs.into_parts();
        let (entropies, entropies_node) = inputs.entropies.into_parts();
        let (segment_log_ratios, segments_node) = inputs.segment_log_ratios.into_parts();
        let inner = FusedInputs {
            log_probs,
            old_log_probs: inputs.old_log_probs.into_primitive(),
            rollout_log_probs: inputs.rollout_log_probs.into_primitive(),
            ref_log_probs: inputs.ref_log_probs.into_primitive(),
            entropies,
            advantages: inputs.advantages.into_primitive(),
            future_weights: inputs.future_weights.into_primitive(),
            segment_log_ratios,
            segment_rejections: inputs.segment_rejections.into_primitive(),
            weight_mean: inputs.weight_mean.into_primitive(),
            entropy_threshold: inputs.entropy_threshold.into_primitive(),
            sequence_weights: inputs.sequence_weights.into_primitive(),
            action_mask: inputs.action_mask,
        };
        // The loss is one value whatever the size of the batch: nothing here is worth recomputing.
        let prepared = PolicyLossBackward
            .prepare::<C>([log_probs_node, entropies_node, segments_node])
            .compute_bound()
            .stateful();
        let (loss, rest) = match prepared {
            OpsKind::Tracked(prepared) => {
                let task = FusedTask {
                    with_gradient: true,
                    ..task
                };
                let outputs = B::policy_loss_forward(inner, task);
                let saved = SavedGradients {
                    log_probs: outputs.gradient.clone(),
                    entropies: outputs.entropy_gradient.clone(),
                    segment_log_ratios: outputs.segment_gradient.clone(),
                    factor: outputs.factor.clone(),
                };
                (prepared.finish(saved, outputs.loss.clone()), outputs)
            }
            OpsKind::UnTracked(prepared) => {
                let task = FusedTask {
                    with_gradient: false,
                    ..task
                };
                let outputs = B::policy_loss_forward(inner, task);
                (prepared.finish(outputs.loss.clone()), outputs)
            }
        };
        FusedOutputs {
            loss,
            sums: Self::from_inner(rest.sums),
            gradient: Self::from_inner(rest.gradient),
            entropy_gradient: Self::from_inner(rest.entropy_gradient),
            segment_gradient: Self::from_inner(rest.segment_gradient),
            factor: Self::from_inner(rest.factor),
        }
    }

    fn policy_loss_backward(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::policy_loss_backward(
            gradient.into_primitive(),
            factor.into_primitive(),
            upstream.into_primitive(),
        ))
    }
}

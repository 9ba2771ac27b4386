//! The fused loss under autodiff: the forward pass yields the gradient, the backward pass scales
//! it.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend};
use policy_loss_kernels::Objective;

use crate::ops::{FusedInputs, FusedOutputs, PolicyLossOps};

#[derive(Debug)]
struct PolicyLossBackward;

/// What the backward pass needs: the gradient up to a factor, and the factor.
#[derive(Debug, Clone)]
struct SavedGradient<B: Backend> {
    gradient: FloatTensor<B>,
    factor: FloatTensor<B>,
}

impl<B: Backend + PolicyLossOps> Backward<B, 1> for PolicyLossBackward {
    type State = SavedGradient<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let SavedGradient { gradient, factor } = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |upstream| {
            B::policy_loss_backward(gradient, factor, upstream)
        });
    }
}

impl<B: Backend + PolicyLossOps, C: CheckpointStrategy> PolicyLossOps for Autodiff<B, C> {
    fn policy_loss_forward(
        inputs: FusedInputs<Self>,
        objective: Objective,
        masked: bool,
        with_gradient: bool,
    ) -> FusedOutputs<Self> {
        let (log_probs, log_probs_node) = inputs.log_probs.into_parts();
        let inner = FusedInputs {
            log_probs,
            old_log_probs: inputs.old_log_probs.into_primitive(),
            rollout_log_probs: inputs.rollout_log_probs.into_primitive(),
            weights: inputs.weights.into_primitive(),
            ref_log_probs: inputs.ref_log_probs.into_primitive(),
            advantages: inputs.advantages.into_primitive(),
            action_mask: inputs.action_mask,
        };
        // The loss is one value whatever the size of the batch: nothing here is worth recomputing.
        let prepared = PolicyLossBackward
            .prepare::<C>([log_probs_node])
            .compute_bound()
            .stateful();
        let (loss, rest) = match prepared {
            OpsKind::Tracked(prepared) => {
                let outputs = B::policy_loss_forward(inner, objective, masked, with_gradient);
                let saved = SavedGradient {
                    gradient: outputs.gradient.clone(),
                    factor: outputs.factor.clone(),
                };
                (prepared.finish(saved, outputs.loss.clone()), outputs)
            }
            OpsKind::UnTracked(prepared) => {
                let outputs = B::policy_loss_forward(inner, objective, masked, false);
                (prepared.finish(outputs.loss.clone()), outputs)
            }
        };
        FusedOutputs {
            loss,
            metrics: Self::from_inner(rest.metrics),
            gradient: Self::from_inner(rest.gradient),
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

//! Log-probs under autodiff: backward passes written by hand, which keep a few numbers a token.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend};

use crate::log_probs::ops::{
    HeadGradients, HeadTensors, LogProbsOps, Pair, RowStatistics, Settings, TokenTensors, Wanted,
};

#[derive(Debug)]
struct LogProbs;

impl<B: LogProbsOps> Backward<B, 3> for LogProbs {
    type State = (HeadTensors<B>, TokenTensors<B>, RowStatistics<B>, Settings);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        let (head, tokens, statistics, settings) = ops.state;
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        let wanted = wanted(nodes, settings);
        let gradients = B::log_probs_backward(head, tokens, statistics, upstream, settings, wanted);
        register::<B>(grads, nodes, gradients);
    }
}

#[derive(Debug)]
struct Divergence;

impl<B: LogProbsOps> Backward<B, 3> for Divergence {
    type State = ([HeadTensors<B>; 2], [TokenTensors<B>; 2], Pair);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([student, teacher], [of_student, of_teacher], pair) = ops.state;
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        let wanted = wanted(nodes, pair.student);
        let gradients = B::divergence_backward(
            student, teacher, of_student, of_teacher, upstream, pair, wanted,
        );
        register::<B>(grads, nodes, gradients);
    }
}

/// Which gradients of hidden states, weight and bias are.
fn wanted([hidden, weight, bias]: [Option<NodeId>; 3], settings: Settings) -> Wanted {
    Wanted {
        hidden: hidden.is_some(),
        weight: weight.is_some(),
        bias: bias.is_some() && settings.has_bias,
        in_parts: false,
    }
}

fn register<B: Backend>(
    grads: &mut Gradients,
    nodes: [Option<NodeId>; 3],
    gradients: HeadGradients<B>,
) {
    let HeadGradients {
        hidden,
        weight,
        bias,
    } = gradients;
    for (node, gradient) in nodes.into_iter().zip([hidden, weight, bias]) {
        if let Some(node) = node {
            grads.register::<B>(node, gradient);
        }
    }
}

#[derive(Debug)]
struct KnownGradients;

impl<B: LogProbsOps> Backward<B, 3> for KnownGradients {
    type State = HeadGradients<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        let HeadGradients {
            hidden,
            weight,
            bias,
        } = ops.state;
        for (parent, gradient) in ops.parents.into_iter().zip([hidden, weight, bias]) {
            if let Some(node) = parent {
                let gradient = B::scaled_gradient(gradient, upstream.clone());
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// What is given of tokens has no gradient.
fn inner<B: Backend, C: CheckpointStrategy>(
    tokens: TokenTensors<Autodiff<B, C>>,
) -> TokenTensors<B> {
    TokenTensors {
        targets: tokens.targets,
        scales: tokens.scales.into_primitive(),
        candidates: tokens.candidates,
        kept: tokens.kept,
    }
}

fn primitives<B: Backend, C: CheckpointStrategy>(
    head: HeadTensors<Autodiff<B, C>>,
) -> HeadTensors<B> {
    HeadTensors {
        hidden: head.hidden.into_primitive(),
        weight: head.weight.into_primitive(),
        bias: head.bias.into_primitive(),
    }
}

/// A result whose backward pass for a head is `operation`, with what it saves.
fn tracked<B: LogProbsOps, C: CheckpointStrategy, O: Backward<B, 3>>(
    operation: O,
    head: &HeadTensors<Autodiff<B, C>>,
    result: FloatTensor<B>,
    saved: O::State,
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = [&head.hidden, &head.weight, &head.bias].map(|tensor| tensor.node());
    // Recomputed already as far as it pays: what is saved are the inputs, and a few numbers a
    // token.
    match operation.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved, result),
        OpsKind::UnTracked(prepared) => prepared.finish(result),
    }
}

impl<B: LogProbsOps, C: CheckpointStrategy> LogProbsOps for Autodiff<B, C> {
    fn log_probs(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let (plain, tokens) = (primitives(head.clone()), inner(tokens));
        let statistics = B::log_probs(plain.clone(), tokens.clone(), settings);
        let (values, moments) = (statistics.values.clone(), statistics.moments.clone());
        let saved = (plain, tokens, statistics, settings);
        RowStatistics {
            values: tracked(LogProbs, &head, values, saved),
            moments: Self::from_inner(moments),
        }
    }

    fn log_probs_with(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        // Statistics have no gradient of their own.
        let statistics = RowStatistics::<B> {
            values: statistics.values.into_primitive(),
            moments: statistics.moments.into_primitive(),
        };
        let values = statistics.values.clone();
        let saved = (
            primitives(head.clone()),
            inner(tokens),
            statistics,
            settings,
        );
        tracked(LogProbs, &head, values, saved)
    }

    fn divergence(
        student: HeadTensors<Self>,
        teacher: HeadTensors<Self>,
        of_student: TokenTensors<Self>,
        of_teacher: TokenTensors<Self>,
        pair: Pair,
    ) -> FloatTensor<Self> {
        let (plain, teacher) = (primitives(student.clone()), primitives(teacher));
        let (of_student, of_teacher) = (inner(of_student), inner(of_teacher));
        let saved = (
            [plain.clone(), teacher.clone()],
            [of_student.clone(), of_teacher.clone()],
            pair,
        );
        let values = B::divergence(plain, teacher, of_student, of_teacher, pair);
        tracked(Divergence, &student, values, saved)
    }

    fn with_gradients(
        result: FloatTensor<Self>,
        head: HeadTensors<Self>,
        gradients: HeadGradients<Self>,
    ) -> FloatTensor<Self> {
        let gradients = HeadGradients {
            hidden: gradients.hidden.into_primitive(),
            weight: gradients.weight.into_primitive(),
            bias: gradients.bias.into_primitive(),
        };
        tracked(KnownGradients, &head, result.into_primitive(), gradients)
    }
}

//! Log-probs under autodiff: backward passes written by hand, which keep a few numbers a token.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend};

use crate::log_probs::ops::{
    HeadGradients, HeadTensors, LogProbsOps, Pair, RowStatistics, Settings, TokenTensors, Wanted,
};

#[derive(Debug)]
struct TokenLogProbs;

impl<B: LogProbsOps> Backward<B, 1> for TokenLogProbs {
    type State = (FloatTensor<B>, TokenTensors<B>, RowStatistics<B>, Settings);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (logits, tokens, statistics, settings) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |upstream| {
            B::token_log_probs_backward(logits, tokens, statistics, upstream, settings)
        });
    }
}

#[derive(Debug)]
struct LinearLogProbs;

impl<B: LogProbsOps> Backward<B, 3> for LinearLogProbs {
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
        let gradients =
            B::linear_log_probs_backward(head, tokens, statistics, upstream, settings, wanted);
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
    [hidden, weight, bias]: [Option<NodeId>; 3],
    gradients: HeadGradients<B>,
) {
    if let Some(node) = hidden {
        grads.register::<B>(node, gradients.hidden);
    }
    if let Some(node) = weight {
        grads.register::<B>(node, gradients.weight);
    }
    if let Some(node) = bias {
        grads.register::<B>(node, gradients.bias);
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

fn nodes<B: Backend, C: CheckpointStrategy>(head: &HeadTensors<Autodiff<B, C>>) -> [NodeGuard; 3] {
    [&head.hidden, &head.weight, &head.bias].map(|tensor| tensor.node())
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

/// Statistics have no gradient of their own.
fn lowered<B: Backend, C: CheckpointStrategy>(
    statistics: RowStatistics<Autodiff<B, C>>,
) -> RowStatistics<B> {
    RowStatistics {
        values: statistics.values.into_primitive(),
        moments: statistics.moments.into_primitive(),
    }
}

/// The values of logits, from their statistics.
fn of_logits<B: LogProbsOps, C: CheckpointStrategy>(
    logits: FloatTensor<Autodiff<B, C>>,
    tokens: TokenTensors<B>,
    statistics: RowStatistics<B>,
    settings: Settings,
) -> FloatTensor<Autodiff<B, C>> {
    let (logits, node) = logits.into_parts();
    let prepared = TokenLogProbs
        .prepare::<C>([node])
        .compute_bound()
        .stateful();
    let values = statistics.values.clone();
    match prepared {
        OpsKind::Tracked(prepared) => {
            prepared.finish((logits, tokens, statistics, settings), values)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(values),
    }
}

/// The values of a head, from the statistics of its logits.
fn of_head<B: LogProbsOps, C: CheckpointStrategy>(
    head: HeadTensors<Autodiff<B, C>>,
    tokens: TokenTensors<B>,
    statistics: RowStatistics<B>,
    settings: Settings,
) -> FloatTensor<Autodiff<B, C>> {
    // Recomputed already as far as it pays: what is saved are the inputs, and a few numbers a
    // token.
    let prepared = LinearLogProbs
        .prepare::<C>(nodes(&head))
        .compute_bound()
        .stateful();
    let values = statistics.values.clone();
    match prepared {
        OpsKind::Tracked(prepared) => {
            prepared.finish((primitives(head), tokens, statistics, settings), values)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(values),
    }
}

impl<B: LogProbsOps, C: CheckpointStrategy> LogProbsOps for Autodiff<B, C> {
    fn token_log_probs(
        logits: FloatTensor<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let (plain, tokens) = (logits.clone().into_primitive(), inner(tokens));
        let statistics = B::token_log_probs(plain, tokens.clone(), settings);
        RowStatistics {
            moments: Self::from_inner(statistics.moments.clone()),
            values: of_logits::<B, C>(logits, tokens, statistics, settings),
        }
    }

    fn token_log_probs_with(
        logits: FloatTensor<Self>,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        of_logits::<B, C>(logits, inner(tokens), lowered(statistics), settings)
    }

    fn linear_log_probs(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let (plain, tokens) = (primitives(head.clone()), inner(tokens));
        let statistics = B::linear_log_probs(plain, tokens.clone(), settings);
        RowStatistics {
            moments: Self::from_inner(statistics.moments.clone()),
            values: of_head(head, tokens, statistics, settings),
        }
    }

    fn linear_log_probs_with(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        of_head(head, inner(tokens), lowered(statistics), settings)
    }

    fn divergence(
        student: HeadTensors<Self>,
        teacher: HeadTensors<Self>,
        of_student: TokenTensors<Self>,
        of_teacher: TokenTensors<Self>,
        pair: Pair,
    ) -> FloatTensor<Self> {
        let prepared = Divergence
            .prepare::<C>(nodes(&student))
            .compute_bound()
            .stateful();
        let (student, teacher) = (primitives(student), primitives(teacher));
        let (of_student, of_teacher) = (inner(of_student), inner(of_teacher));
        let saved = (
            [student.clone(), teacher.clone()],
            [of_student.clone(), of_teacher.clone()],
            pair,
        );
        let values = B::divergence(student, teacher, of_student, of_teacher, pair);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(saved, values),
            OpsKind::UnTracked(prepared) => prepared.finish(values),
        }
    }

    fn with_gradients(
        result: FloatTensor<Self>,
        head: HeadTensors<Self>,
        gradients: HeadGradients<Self>,
    ) -> FloatTensor<Self> {
        let prepared = KnownGradients
            .prepare::<C>(nodes(&head))
            .compute_bound()
            .stateful();
        let result = result.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let gradients = HeadGradients {
                    hidden: gradients.hidden.into_primitive(),
                    weight: gradients.weight.into_primitive(),
                    bias: gradients.bias.into_primitive(),
                };
                prepared.finish(gradients, result)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(result),
        }
    }
}

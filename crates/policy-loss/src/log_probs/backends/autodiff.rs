//! Log-probs under autodiff: backward passes written by hand, which keep a few numbers a token.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend};

use crate::log_probs::ops::{
    HeadGradients, HeadTensors, LogProbsOps, Pair, PairTensors, RowStatistics, Settings,
    TokenTensors, Wanted,
};

#[derive(Debug)]
struct TokenLogProbs;

#[derive(Debug, Clone)]
struct SavedLogits<B: Backend> {
    logits: FloatTensor<B>,
    tokens: TokenTensors<B>,
    statistics: RowStatistics<B>,
    settings: Settings,
}

impl<B: LogProbsOps> Backward<B, 1> for TokenLogProbs {
    type State = SavedLogits<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let saved = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |upstream| {
            B::token_log_probs_backward(
                saved.logits,
                saved.tokens,
                saved.statistics,
                upstream,
                saved.settings,
            )
        });
    }
}

#[derive(Debug)]
struct LinearLogProbs;

#[derive(Debug, Clone)]
struct SavedHead<B: Backend> {
    head: HeadTensors<B>,
    tokens: TokenTensors<B>,
    statistics: RowStatistics<B>,
    settings: Settings,
}

impl<B: LogProbsOps> Backward<B, 3> for LinearLogProbs {
    type State = SavedHead<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        let SavedHead {
            head,
            tokens,
            statistics,
            settings,
        } = ops.state;
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        let wanted = wanted(nodes, settings);
        let gradients =
            B::linear_log_probs_backward(head, tokens, statistics, upstream, settings, wanted);
        register::<B>(grads, nodes, gradients);
    }
}

#[derive(Debug)]
struct Divergence;

#[derive(Debug, Clone)]
struct SavedPair<B: Backend> {
    student: HeadTensors<B>,
    teacher: HeadTensors<B>,
    tokens: PairTensors<B>,
    pair: Pair,
}

impl<B: LogProbsOps> Backward<B, 3> for Divergence {
    type State = SavedPair<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        let SavedPair {
            student,
            teacher,
            tokens,
            pair,
        } = ops.state;
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        let wanted = wanted(nodes, pair.student);
        let gradients = B::divergence_backward(student, teacher, tokens, upstream, pair, wanted);
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
fn lifted<B: Backend, C: CheckpointStrategy>(
    statistics: RowStatistics<B>,
) -> RowStatistics<Autodiff<B, C>> {
    RowStatistics {
        values: Autodiff::<B, C>::from_inner(statistics.values),
        moments: Autodiff::<B, C>::from_inner(statistics.moments),
    }
}

fn lowered<B: Backend, C: CheckpointStrategy>(
    statistics: RowStatistics<Autodiff<B, C>>,
) -> RowStatistics<B> {
    RowStatistics {
        values: statistics.values.into_primitive(),
        moments: statistics.moments.into_primitive(),
    }
}

impl<B: LogProbsOps, C: CheckpointStrategy> LogProbsOps for Autodiff<B, C> {
    fn token_log_probs(
        logits: FloatTensor<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let plain = logits.clone().into_primitive();
        let statistics = B::token_log_probs(plain, inner(tokens.clone()), settings);
        let statistics = lifted(statistics);
        RowStatistics {
            moments: statistics.moments.clone(),
            values: Self::token_log_probs_with(logits, tokens, statistics, settings),
        }
    }

    fn token_log_probs_with(
        logits: FloatTensor<Self>,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let prepared = TokenLogProbs
            .prepare::<C>([node])
            .compute_bound()
            .stateful();
        let statistics = lowered(statistics);
        let values = statistics.values.clone();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let saved = SavedLogits {
                    logits,
                    tokens: inner(tokens),
                    statistics,
                    settings,
                };
                prepared.finish(saved, values)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(values),
        }
    }

    fn linear_log_probs(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let statistics =
            B::linear_log_probs(primitives(head.clone()), inner(tokens.clone()), settings);
        let statistics = lifted(statistics);
        RowStatistics {
            moments: statistics.moments.clone(),
            values: Self::linear_log_probs_with(head, tokens, statistics, settings),
        }
    }

    fn linear_log_probs_with(
        head: HeadTensors<Self>,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        let (hidden, hidden_node) = head.hidden.into_parts();
        let (weight, weight_node) = head.weight.into_parts();
        let (bias, bias_node) = head.bias.into_parts();
        // Recomputed already as far as it pays: what is saved are the inputs, and a few numbers a
        // token.
        let prepared = LinearLogProbs
            .prepare::<C>([hidden_node, weight_node, bias_node])
            .compute_bound()
            .stateful();
        let statistics = lowered(statistics);
        let values = statistics.values.clone();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let saved = SavedHead {
                    head: HeadTensors {
                        hidden,
                        weight,
                        bias,
                    },
                    tokens: inner(tokens),
                    statistics,
                    settings,
                };
                prepared.finish(saved, values)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(values),
        }
    }

    fn divergence(
        student: HeadTensors<Self>,
        teacher: HeadTensors<Self>,
        tokens: PairTensors<Self>,
        pair: Pair,
    ) -> FloatTensor<Self> {
        let nodes = [&student.hidden, &student.weight, &student.bias].map(|tensor| tensor.node());
        let prepared = Divergence.prepare::<C>(nodes).compute_bound().stateful();
        let saved = SavedPair {
            student: primitives(student),
            teacher: primitives(teacher),
            tokens: PairTensors {
                targets: tokens.targets,
                student: tokens.student.into_primitive(),
                teacher: tokens.teacher.into_primitive(),
            },
            pair,
        };
        let SavedPair {
            student,
            teacher,
            tokens,
            ..
        } = saved.clone();
        let values = B::divergence(student, teacher, tokens, pair);
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
        let nodes = [&head.hidden, &head.weight, &head.bias].map(|tensor| tensor.node());
        let prepared = KnownGradients
            .prepare::<C>(nodes)
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

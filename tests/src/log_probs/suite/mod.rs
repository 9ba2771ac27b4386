//! The parts of the suite, and how they ask the library.

pub mod distillation;
pub mod edges;
pub mod errors;
pub mod golden;
pub mod kept;
/// The parts that are about gradients alone.
pub mod gradients {
    pub use super::distillation::garbage_without_a_gradient as garbage_of_a_student;
    pub use super::edges::garbage_without_a_gradient;
    pub use super::linear::frozen_parts;
    pub use super::targets::without_a_gradient_are_ignored;
}
pub mod linear;
pub mod logits;
pub mod objective;
pub mod shards;
pub mod targets;
pub mod temperatures;

use std::fmt::Display;

use burn::tensor::{Bool, DType, Gradients, Int, Tensor, TensorData};
use policy_loss::{
    BatchError, Entropy, LinearHead, LogProbs, LogProbsConfig, LogProbsTokens, TokenLogProbs,
};

use super::case::{HeadAnswer, HeadCase};
use super::oracle::transposed;
use crate::compare::{Tolerance, assert_all_near, largest};
use crate::runner::{Mode, Runner, any_gradient, values};

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[H, V]`.
    Linear,
    /// `[V, H]`.
    Tied,
    /// `[H, V]`, a view of `[V, H]`.
    View,
}

/// What came out of hidden states and a head. Gradients are absent without autodiff.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Outcome {
    pub log_probs: Vec<f64>,
    pub entropies: Option<Vec<f64>>,
    pub sums_of_squares: Option<Vec<f64>>,
    pub hidden_gradient: Option<Vec<f64>>,
    /// `[H, V]`, whatever the layout.
    pub weight_gradient: Option<Vec<f64>>,
    pub bias_gradient: Option<Vec<f64>>,
}

/// The configuration that a runner asks for.
pub fn config(runner: &Runner, case: &HeadCase, entropy: Entropy) -> LogProbsConfig {
    LogProbsConfig::new()
        .with_temperature(case.temperature)
        .with_logit_softcap(case.softcap)
        .with_entropy(entropy)
        .with_sum_of_squares(case.squares_gradient.is_some())
        .with_implementation(runner.implementation)
}

/// As [`config`], ready to be applied.
pub fn init(runner: &Runner, case: &HeadCase, entropy: Entropy) -> TokenLogProbs {
    config(runner, case, entropy).init().expect("valid")
}

/// What the library accepted.
///
/// # Panics
///
/// It refused it.
pub fn sound<T>(what: impl Display, result: Result<T, BatchError>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The leaves of a head, and the head that is made of them.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Leaves {
    layout: Layout,
    pub weight: Tensor<2>,
    pub bias: Option<Tensor<1>>,
    pub head: LinearHead,
}

impl Leaves {
    /// Those of a case, whose weight is stored in a layout.
    pub fn of(runner: &Runner, case: &HeadCase, layout: Layout, dtype: DType) -> Self {
        let [_, width, vocabulary] = case.shape;
        let given = (&case.weight[..], case.bias.as_deref());
        Self::new(runner, given, [width, vocabulary], layout, dtype)
    }

    /// Those of a weight `[H, V]` and of a bias.
    pub fn new(
        runner: &Runner,
        (weight, bias): (&[f64], Option<&[f64]>),
        [width, words]: [usize; 2],
        layout: Layout,
        dtype: DType,
    ) -> Self {
        let weight: Tensor<2> = match layout {
            Layout::Linear => runner.tracked(weight, [width, words], dtype),
            Layout::Tied | Layout::View => {
                let turned = transposed(weight, [width, words]);
                runner.tracked(&turned, [words, width], dtype)
            }
        };
        let bias = bias.map(|bias| runner.tracked(bias, [words], dtype));
        let head = match layout {
            Layout::Linear => LinearHead::new(weight.clone()),
            Layout::Tied => LinearHead::tied(weight.clone()),
            Layout::View => LinearHead::new(weight.clone().transpose()),
        };
        Self {
            layout,
            head: head.with_bias(bias.clone()),
            weight,
            bias,
        }
    }

    /// The gradients of weight and bias, that of the weight `[H, V]` whatever the layout.
    pub fn gradients(&self, gradients: &Gradients) -> [Option<Vec<f64>>; 2] {
        let of_weight = any_gradient(&self.weight, gradients);
        let of_weight = of_weight.map(|gradient| match self.layout {
            Layout::Linear => gradient,
            Layout::Tied | Layout::View => transposed(&gradient, self.weight.dims()),
        });
        let bias = self.bias.as_ref();
        [
            of_weight,
            bias.and_then(|bias| any_gradient(bias, gradients)),
        ]
    }
}

/// Token indices.
pub fn indices<const D: usize>(
    runner: &Runner,
    targets: &[i64],
    shape: [usize; D],
) -> Tensor<D, Int> {
    let data = TensorData::new(targets.to_vec(), shape);
    Tensor::from_data(data, &runner.device.clone().without_autodiff())
}

/// A mask.
pub fn mask<const D: usize>(runner: &Runner, mask: &[bool], shape: [usize; D]) -> Tensor<D, Bool> {
    runner.plain().mask(mask, shape)
}

/// What a case says of its tokens.
pub fn tokens<const D: usize>(
    runner: &Runner,
    case: &HeadCase,
    shape: [usize; D],
    dtype: DType,
) -> LogProbsTokens<D> {
    let temperatures = case.temperatures.as_ref();
    let plain = runner.plain();
    LogProbsTokens::new(indices(runner, &case.targets, shape))
        .with_action_mask(case.mask.as_ref().map(|valid| mask(runner, valid, shape)))
        .with_kept_tokens(case.kept_tokens())
        .with_temperatures(temperatures.map(|all| plain.tensor(all, shape, dtype)))
}

/// What a test differentiates: `sum(a log_probs) + sum(b entropies) + sum(c sums_of_squares)`.
pub fn weighted<const D: usize>(
    runner: &Runner,
    case: &HeadCase,
    output: &LogProbs<D>,
) -> Tensor<1> {
    let shape = output.log_probs.dims();
    let dtype = output.log_probs.dtype();
    let upstream = |numbers: &[f64]| runner.tensor(numbers, shape, dtype);
    let sum = (output.log_probs.clone() * upstream(&case.log_prob_gradient)).sum();
    let sum = match &output.entropies {
        Some(entropies) => sum + (entropies.clone() * upstream(&case.entropy_gradient)).sum(),
        None => sum,
    };
    match (&output.sums_of_squares, &case.squares_gradient) {
        (Some(squares), Some(gradient)) => sum + (squares.clone() * upstream(gradient)).sum(),
        _ => sum,
    }
}

/// Runs a case through `forward_linear`.
///
/// # Panics
///
/// The library refuses the case.
pub fn linear(
    runner: &Runner,
    case: &HeadCase,
    config: LogProbsConfig,
    layout: Layout,
    dtype: DType,
) -> Outcome {
    let [tokens, width, _] = case.shape;
    let hidden: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], dtype);
    let leaves = Leaves::of(runner, case, layout, dtype);
    let given = self::tokens(runner, case, [tokens], dtype);
    let log_probs = config.init().expect("valid");
    let output = log_probs.forward_linear(hidden.clone(), &leaves.head, given);
    let output = sound(runner, output);
    let mut outcome = Outcome {
        log_probs: values(output.log_probs.clone()),
        entropies: output.entropies.clone().map(values),
        sums_of_squares: output.sums_of_squares.clone().map(values),
        hidden_gradient: None,
        weight_gradient: None,
        bias_gradient: None,
    };
    if runner.is_tracked() {
        let gradients = weighted(runner, case, &output).backward();
        outcome.hidden_gradient = any_gradient(&hidden, &gradients);
        [outcome.weight_gradient, outcome.bias_gradient] = leaves.gradients(&gradients);
    }
    outcome
}

/// Fails unless an outcome is what the oracle says.
///
/// # Panics
///
/// It is not.
pub fn assert_linear(what: &str, case: &HeadCase, outcome: &Outcome, tolerance: Tolerance) {
    let answer = case.answer();
    let near = |name: &str, actual: &[f64], expected: &[f64]| {
        assert_all_near(tolerance, &format!("{what}: {name}"), actual, expected);
    };
    near("log_probs", &outcome.log_probs, &answer.log_probs);
    if let Some(entropies) = &outcome.entropies {
        near("entropies", entropies, &answer.entropies);
    }
    let are_squared = case.squares_gradient.is_some();
    assert_eq!(outcome.sums_of_squares.is_some(), are_squared, "{what}");
    if let Some(squares) = &outcome.sums_of_squares {
        near("sums_of_squares", squares, &answer.sums_of_squares);
    }
    for (name, actual, expected) in [
        ("hidden", &outcome.hidden_gradient, &answer.hidden_gradient),
        ("weight", &outcome.weight_gradient, &answer.weight_gradient),
        ("bias", &outcome.bias_gradient, &answer.bias_gradient),
    ] {
        if let Some(actual) = actual {
            near(&format!("gradient of the {name}"), actual, expected);
        }
    }
    assert_zero_where_masked(what, case, &outcome.log_probs);
    if let Some(gradient) = &outcome.hidden_gradient {
        assert_zero_where_masked(what, case, gradient);
    }
}

/// Fails unless the values of a case are what the oracle says.
///
/// # Panics
///
/// They are not.
pub fn assert_values<const D: usize>(
    what: &str,
    answer: &HeadAnswer,
    output: &LogProbs<D>,
    tolerance: Tolerance,
) {
    for (name, actual, expected) in [
        ("log_probs", Some(&output.log_probs), &answer.log_probs),
        ("entropies", output.entropies.as_ref(), &answer.entropies),
        (
            "sums_of_squares",
            output.sums_of_squares.as_ref(),
            &answer.sums_of_squares,
        ),
    ] {
        if let Some(actual) = actual {
            let what = format!("{what}: {name}");
            assert_all_near(tolerance, &what, &values(actual.clone()), expected);
        }
    }
}

/// Fails unless everything of masked tokens is exactly 0.
///
/// # Panics
///
/// It is not.
pub fn assert_zero_where_masked(what: &str, case: &HeadCase, numbers: &[f64]) {
    let of_one = numbers.len() / case.shape[0];
    for (i, number) in numbers.iter().enumerate() {
        let token = i / of_one;
        let is_sound = case.is_valid(token) || *number == 0.0;
        assert!(is_sound, "{what}: masked token {token} has {number}");
    }
}

/// Fails unless the number of one token is NaN, and the others are what is expected.
///
/// # Panics
///
/// It is not.
pub fn assert_only_nan(
    tolerance: Tolerance,
    what: &str,
    actual: &[f64],
    expected: &[f64],
    token: usize,
) {
    assert!(actual[token].is_nan(), "{what}: {}", actual[token]);
    let mut actual = actual.to_vec();
    actual[token] = expected[token];
    assert_all_near(tolerance, what, &actual, expected);
}

/// The distance that sums of some tens of products may have from the oracle.
pub fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F64 => Tolerance::of(1e-11),
        _ => Tolerance {
            relative: 1e-5,
            absolute: 1e-5,
        },
    }
}

/// As [`tolerance`], of what matrix products have gone into: on CUDA Burn takes tensor cores for
/// those of f32, which round their inputs to 11 bits (TF32).
pub fn of_products(runner: &Runner, dtype: DType) -> Tolerance {
    match (runner.backend, dtype) {
        (_, DType::F64) => tolerance(dtype),
        ("cuda", _) => Tolerance::of(2e-3),
        _ => tolerance(dtype),
    }
}

/// That of sums of products of halves, whose terms are rounded so many times.
pub fn of_halves(dtype: DType, roundings: f64, expected: &[f64]) -> Tolerance {
    let relative = roundings * Tolerance::gradient(dtype).relative;
    Tolerance {
        relative,
        absolute: relative * largest(expected),
    }
}

/// Whether CubeCL computes there, which multiplies halves as they are.
pub fn is_of_cubecl(runner: &Runner) -> bool {
    matches!(runner.backend, "wgpu" | "cuda")
}

/// Whether this runner's device is so slow that parts run in one mode only.
pub fn is_left_out(runner: &Runner) -> bool {
    runner.is_slow() && runner.mode == Mode::Plain
}

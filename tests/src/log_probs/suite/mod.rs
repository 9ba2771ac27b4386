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

use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use policy_loss::{Entropy, LinearHead, LogProbs, LogProbsConfig, LogProbsTokens};

use super::case::HeadCase;
use crate::compare::{Tolerance, assert_all_near};
use crate::runner::{Mode, Runner, values};

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
    let [tokens, width, vocabulary] = case.shape;
    let hidden = runner.tracked(&case.hidden, [tokens, width], dtype);
    let turned = super::oracle::transposed(&case.weight, [width, vocabulary]);
    let (weight, head) = match layout {
        Layout::Linear => {
            let weight = runner.tracked(&case.weight, [width, vocabulary], dtype);
            (weight.clone(), LinearHead::new(weight))
        }
        Layout::Tied => {
            let weight = runner.tracked(&turned, [vocabulary, width], dtype);
            (weight.clone(), LinearHead::tied(weight))
        }
        Layout::View => {
            let weight = runner.tracked(&turned, [vocabulary, width], dtype);
            (weight.clone(), LinearHead::new(weight.transpose()))
        }
    };
    let bias = case
        .bias
        .as_ref()
        .map(|bias| runner.tracked(bias, [vocabulary], dtype));
    let head = head.with_bias(bias.clone());
    let given = self::tokens(runner, case, [tokens], dtype);
    let output = config
        .init()
        .expect("the configuration is valid")
        .forward_linear(hidden.clone(), &head, given)
        .unwrap_or_else(|error| panic!("{runner}: the case was refused: {error}"));
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
        outcome.hidden_gradient = hidden.grad(&gradients).map(values);
        outcome.weight_gradient = weight.grad(&gradients).map(|gradient| {
            let gradient = values(gradient);
            match layout {
                Layout::Linear => gradient,
                _ => super::oracle::transposed(&gradient, [vocabulary, width]),
            }
        });
        outcome.bias_gradient = bias.and_then(|bias| bias.grad(&gradients)).map(values);
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
    for token in (0..case.shape[0]).filter(|token| !case.is_valid(*token)) {
        assert_eq!(
            outcome.log_probs[token], 0.0,
            "{what}: masked token {token}"
        );
        if let Some(gradient) = &outcome.hidden_gradient {
            let width = case.shape[1];
            let row = &gradient[token * width..(token + 1) * width];
            assert!(
                row.iter().all(|x| *x == 0.0),
                "{what}: masked token {token}"
            );
        }
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

/// Whether CubeCL computes there, which multiplies halves as they are.
pub fn is_of_cubecl(runner: &Runner) -> bool {
    matches!(runner.backend, "wgpu" | "cuda")
}

/// Whether this runner's device is so slow that parts run in one mode only.
pub fn is_left_out(runner: &Runner) -> bool {
    runner.is_slow() && runner.mode == Mode::Plain
}

//! Sizes and numbers at the edge.

use burn::tensor::{DType, Tensor};
use policy_loss::{Entropy, Implementation, LinearHead, LogProbsConfig};

use super::{
    HeadCase, Layout, Leaves, assert_linear, config, indices, init, linear, logits, mask,
    of_products, sound, weighted,
};
use crate::compare::{Tolerance, assert_all_near};
use crate::runner::{Runner, any_gradient, gradient, values};

/// One token; one word; one number; a vocabulary around the length of blocks and vectors.
pub fn sizes(runner: &Runner) {
    for shape in [
        [1, 1, 1],
        [1, 3, 2],
        [2, 1, 17],
        [3, 2, 1023],
        [2, 2, 1025],
        [1, 2, 9001],
    ] {
        let case = HeadCase::new(21, shape);
        let config = config(runner, &case, Entropy::Tracked);
        let what = format!("{runner}, {shape:?}");
        let outcome = linear(runner, &case, config, Layout::Linear, DType::F32);
        // The gradient of a hidden state sums over the vocabulary, and a graphics interface's own
        // `log` and `exp` have an error of some 1e-5.
        let loose = of_products(runner, DType::F32).at_least(match runner.is_slow() {
            true => 1e-4,
            false => 2e-5,
        });
        assert_linear(&what, &case, &outcome, loose);
    }
}

/// Where the mask leaves nothing, everything is exactly 0.
pub fn no_valid_token(runner: &Runner) {
    let case = HeadCase::new(22, [3, 4, 19])
        .with_bias()
        .with_mask(|_| false)
        .with_temperatures()
        .with_squares();
    let config = config(runner, &case, Entropy::Tracked);
    let outcome = linear(runner, &case, config, Layout::Linear, DType::F32);
    let zero = |numbers: &[f64]| numbers.iter().all(|x| *x == 0.0);
    assert!(zero(&outcome.log_probs), "{runner}");
    assert!(zero(&outcome.entropies.expect("asked for")), "{runner}");
    assert!(
        zero(&outcome.sums_of_squares.expect("asked for")),
        "{runner}"
    );
    for gradient in [
        outcome.hidden_gradient,
        outcome.weight_gradient,
        outcome.bias_gradient,
    ] {
        assert_eq!(gradient.is_some(), runner.is_tracked(), "{runner}");
        assert!(gradient.is_none_or(|gradient| zero(&gradient)), "{runner}");
    }
}

/// No token at all.
pub fn no_token(runner: &Runner) {
    let log_probs = LogProbsConfig::new()
        .with_entropy(Entropy::Metric)
        .with_sum_of_squares(true)
        .with_implementation(runner.implementation)
        .init()
        .expect("valid");
    let logits: Tensor<3> = Tensor::zeros([0, 4, 7], &runner.device);
    let output = log_probs
        .forward(logits, indices(runner, &[], [0, 4]))
        .expect("no token");
    assert_eq!(output.log_probs.dims(), [0, 4]);
    let hidden: Tensor<2> = Tensor::zeros([0, 3], &runner.device);
    let weight: Tensor<2> = runner.tracked(&[0.5; 21], [3, 7], DType::F32);
    let head = LinearHead::new(weight);
    let output = log_probs
        .forward_linear(hidden, &head, indices(runner, &[], [0]))
        .expect("no token");
    assert_eq!(output.log_probs.dims(), [0]);
    assert_eq!(output.entropies.expect("asked for").dims(), [0]);
    assert_eq!(output.sums_of_squares.expect("asked for").dims(), [0]);
}

/// Large logits, equal ones, and words that are out of the question.
pub fn extreme_logits(runner: &Runner) {
    let never = f64::NEG_INFINITY;
    let logits = [
        [1e4, -1e4, 9999.0, 1e4, 0.0],
        [1e4; 5],
        [-1e4; 5],
        [0.0; 5],
        [1.0, never, 2.0, never, 0.5],
        [never, never, 3.0, never, never],
        [-1e4, never, -1e4, 1e4, 1e4],
    ];
    let mut case = HeadCase::new(23, [7, 1, 5]).with_logits(logits.concat());
    case.targets = vec![3, 0, 4, 2, 2, 2, 3];
    case.log_prob_gradient = vec![1.0, -2.0, 0.5, 1.0, 1.5, 1.0, 1.0];
    case.entropy_gradient = vec![0.5, 1.0, -1.0, 1.0, 1.0, 2.0, 1.0];
    case.squares_gradient = Some(vec![1.0, 0.0, 2.0, -1.0, 0.5, 1.0, -2.0]);
    for dtype in runner.exact_dtypes() {
        let tolerance = Tolerance::of(1e-6);
        logits::check(runner, &case, Entropy::Tracked, dtype, tolerance);
    }
}

/// A word that is out of the question has log-prob -inf, and gradients are still finite.
pub fn impossible_target(runner: &Runner) {
    let never = f64::NEG_INFINITY;
    let logits: Tensor<2> = runner.tracked(&[0.0, never, 0.0], [1, 3], DType::F32);
    let case = HeadCase::new(24, [1, 1, 3]);
    let targets = indices(runner, &[1], [1]);
    let output = init(runner, &case, Entropy::None).forward(logits.clone(), targets);
    let output = sound(runner, output);
    assert_eq!(values(output.log_probs.clone()), [never], "{runner}");
    if runner.is_tracked() {
        let gradients = output.log_probs.sum().backward();
        let (gradient, expected) = (gradient(&logits, &gradients), [-0.5, 1.0, -0.5]);
        assert_all_near(Tolerance::of(1e-6), "gradient", &gradient, &expected);
    }
}

/// Hidden states that no gradient reaches may hold anything: none of it reaches the head.
pub fn garbage_without_a_gradient(runner: &Runner) {
    if runner.implementation != Implementation::Fused {
        return;
    }
    let case = HeadCase::new(25, [4, 3, 21]).with_bias();
    for case in [case.clone(), case.with_squares().with_kept()] {
        for (softcap, chunk_words) in [(None, 21), (None, 8), (Some(4.0), 21), (Some(4.0), 8)] {
            garbage_is_kept_out(runner, case.clone(), softcap, chunk_words);
        }
    }
}

fn garbage_is_kept_out(
    runner: &Runner,
    mut case: HeadCase,
    softcap: Option<f64>,
    chunk_words: usize,
) {
    case.softcap = softcap;
    case.log_prob_gradient[1] = 0.0;
    case.entropy_gradient[1] = 0.0;
    if let Some(gradient) = &mut case.squares_gradient {
        gradient[1] = 0.0;
    }
    let answer = case.answer();
    let [tokens, width, _] = case.shape;
    let mut hidden = case.hidden.clone();
    hidden[width..2 * width].copy_from_slice(&[f64::NAN, f64::INFINITY, 1e30]);
    let hidden: Tensor<2> = runner.tracked(&hidden, [tokens, width], DType::F32);
    let leaves = Leaves::of(runner, &case, Layout::Linear, DType::F32);
    let given = super::tokens(runner, &case, [tokens], DType::F32);
    let config = config(runner, &case, Entropy::Tracked).with_chunk_words(chunk_words);
    let log_probs = config.init().expect("valid");
    let output = sound(
        runner,
        log_probs.forward_linear(hidden.clone(), &leaves.head, given),
    );
    let padding = mask(runner, &[false, true, false, false], [tokens]);
    let select = |row: Tensor<1>| row.mask_fill(padding.clone(), 0.0);
    let output = policy_loss::LogProbs {
        log_probs: select(output.log_probs),
        entropies: output.entropies.map(select),
        sums_of_squares: output.sums_of_squares.map(select),
    };
    let gradients = weighted(runner, &case, &output).backward();
    let [of_weight, of_bias] = leaves.gradients(&gradients);
    for (name, actual, expected) in [
        (
            "hidden",
            any_gradient(&hidden, &gradients),
            &answer.hidden_gradient,
        ),
        ("weight", of_weight, &answer.weight_gradient),
        ("bias", of_bias, &answer.bias_gradient),
    ] {
        let (what, actual) = (format!("{runner}: {name}"), actual.expect("tracked"));
        assert_all_near(of_products(runner, DType::F32), &what, &actual, expected);
    }
}

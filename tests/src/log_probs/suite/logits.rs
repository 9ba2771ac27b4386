//! Log-probs of logits.

use burn::tensor::{DType, Tensor};
use policy_loss::Entropy;

use super::{HeadCase, config, indices, tokens as given, tolerance, weighted};
use crate::compare::{Tolerance, assert_all_near};
use crate::log_probs::oracle;
use crate::runner::{Runner, values};

/// The case that the parts share: a vocabulary that is no multiple of any vector.
fn case() -> HeadCase {
    HeadCase::new(1, [6, 5, 37])
}

/// Values and gradients, with each setting of the entropies.
pub fn values_and_gradients(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for entropy in [Entropy::None, Entropy::Metric, Entropy::Tracked] {
            for case in [
                case(),
                case().with_temperature(0.7),
                case().with_temperature(1.3).with_softcap(4.0),
                case().with_temperatures(),
                case().with_temperature(0.7).with_kept(),
                case().with_temperatures().with_softcap(4.0).with_kept(),
                case().with_squares().with_temperature(0.7),
                case().with_squares().with_softcap(4.0).with_kept(),
            ] {
                let mut case = case;
                if entropy == Entropy::Metric {
                    // It has no gradient, whatever reaches it.
                    case.entropy_gradient.fill(0.0);
                }
                check(runner, &case, entropy, dtype);
            }
        }
    }
}

fn check(runner: &Runner, case: &HeadCase, entropy: Entropy, dtype: DType) {
    let [tokens, _, vocabulary] = case.shape;
    let what = format!("{runner}, {dtype:?}, {entropy:?}");
    let mut answer = case.answer();
    if entropy == Entropy::None {
        let mut without = case.clone();
        without.entropy_gradient.fill(0.0);
        answer = without.answer();
    }
    let logits = runner.tracked(&answer.logits, [tokens, vocabulary], dtype);
    let given = given(runner, case, [tokens], dtype);
    let output = config(runner, case, entropy)
        .init()
        .expect("valid")
        .forward(logits.clone(), given)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(output.log_probs.dtype(), dtype);
    let near = |name: &str, actual: Tensor<1>, expected: &[f64]| {
        let tolerance = tolerance(dtype);
        assert_all_near(
            tolerance,
            &format!("{what}: {name}"),
            &values(actual),
            expected,
        );
    };
    near("log_probs", output.log_probs.clone(), &answer.log_probs);
    assert_eq!(output.entropies.is_some(), entropy != Entropy::None);
    if let Some(entropies) = &output.entropies {
        near("entropies", entropies.clone(), &answer.entropies);
        let is_tracked = runner.is_tracked() && entropy == Entropy::Tracked;
        assert_eq!(entropies.is_tracked(), is_tracked, "{what}");
    }
    let are_squared = case.squares_gradient.is_some();
    assert_eq!(output.sums_of_squares.is_some(), are_squared, "{what}");
    if let Some(squares) = &output.sums_of_squares {
        near("sums_of_squares", squares.clone(), &answer.sums_of_squares);
    }
    if runner.is_tracked() {
        let gradients = weighted(runner, case, &output).backward();
        let gradient = logits.grad(&gradients).expect("logits are tracked");
        let what = format!("{what}: gradient");
        let tolerance = tolerance(dtype);
        assert_all_near(tolerance, &what, &values(gradient), &answer.logits_gradient);
    }
    // Nobody has written into the caller's logits.
    let rounded = values(runner.tensor(&answer.logits, [tokens, vocabulary], dtype));
    assert_eq!(values(logits), rounded, "{what}: the logits were modified");
}

/// `[B, T, V]`, a view, and chunks of every length give the same.
pub fn shapes_and_chunks(runner: &Runner) {
    check_shapes_and_chunks(runner, &case());
    check_shapes_and_chunks(runner, &case().with_kept().with_temperatures());
}

fn check_shapes_and_chunks(runner: &Runner, case: &HeadCase) {
    let [tokens, _, vocabulary] = case.shape;
    let answer = case.answer();
    let dtype = DType::F32;
    let given = given(runner, case, [2, 3], dtype);
    for chunk in [1, 2, 4, 6, 100] {
        let config = config(runner, case, Entropy::Tracked).with_chunk_tokens(chunk);
        let what = format!("{runner}, chunks of {chunk}");
        // The vocabulary first, so that the logits are a view.
        let turned = oracle::transposed(&answer.logits, [tokens, vocabulary]);
        let stored = runner.tracked(&turned, [vocabulary, tokens], dtype);
        let logits: Tensor<3> = stored.clone().transpose().reshape([2, 3, vocabulary]);
        let output = config
            .init()
            .expect("valid")
            .forward(logits, given.clone())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(output.log_probs.dims(), [2, 3]);
        let log_probs = values(output.log_probs.clone());
        assert_all_near(tolerance(dtype), &what, &log_probs, &answer.log_probs);
        if runner.is_tracked() {
            let gradients = weighted(runner, case, &output).backward();
            let gradient = values(stored.grad(&gradients).expect("logits are tracked"));
            let expected = oracle::transposed(&answer.logits_gradient, [tokens, vocabulary]);
            assert_all_near(tolerance(dtype), &what, &gradient, &expected);
        }
    }
}

/// Masked rows may hold anything, and are exactly 0.
pub fn masked(runner: &Runner) {
    check_masked(runner, &case());
    check_masked(runner, &case().with_kept().with_temperatures());
}

fn check_masked(runner: &Runner, case: &HeadCase) {
    let [tokens, _, vocabulary] = case.shape;
    let is_valid = |token: usize| token % 3 != 1;
    let mut answer = case.answer();
    let mut garbage = case.clone();
    let valid: Vec<bool> = (0..tokens).map(is_valid).collect();
    garbage.mask = Some(valid.clone());
    for token in (0..tokens).filter(|token| !is_valid(*token)) {
        if let Some(temperatures) = &mut garbage.temperatures {
            temperatures[token] = [0.0, f64::NAN][token % 2];
        }
        let row = token * vocabulary..(token + 1) * vocabulary;
        answer.logits[row.clone()].fill(f64::NAN);
        answer.logits_gradient[row].fill(0.0);
        (answer.log_probs[token], answer.entropies[token]) = (0.0, 0.0);
        garbage.targets[token] = -100;
    }
    let logits = runner.tracked(&answer.logits, [tokens, vocabulary], DType::F32);
    let given = given(runner, &garbage, [tokens], DType::F32);
    let output = config(runner, case, Entropy::Tracked)
        .init()
        .expect("valid")
        .forward(logits.clone(), given)
        .unwrap_or_else(|error| panic!("{runner}: {error}"));
    let what = format!("{runner}, masked");
    let near = |actual: Vec<f64>, expected: &[f64]| {
        assert_all_near(tolerance(DType::F32), &what, &actual, expected);
    };
    near(values(output.log_probs.clone()), &answer.log_probs);
    let entropies = output.entropies.clone().expect("asked for");
    near(values(entropies), &answer.entropies);
    if runner.is_tracked() {
        let gradients = weighted(runner, case, &output).backward();
        let gradient = values(logits.grad(&gradients).expect("logits are tracked"));
        near(gradient, &answer.logits_gradient);
    }
}

/// f16 and bf16: the values are those of f32 for the same logits, the gradient one rounding away.
pub fn half_types(runner: &Runner) {
    for dtype in runner.half_dtypes() {
        check_half(runner, &case().exact_in_half_types(), dtype);
    }
}

fn check_half(runner: &Runner, case: &HeadCase, dtype: DType) {
    let [tokens, _, vocabulary] = case.shape;
    let what = format!("{runner}, {dtype:?}");
    let answer = case.answer();
    let logits = runner.tracked(&answer.logits, [tokens, vocabulary], dtype);
    let targets = indices(runner, &case.targets, [tokens]);
    let config = config(runner, case, Entropy::Tracked);
    let output = config
        .init()
        .expect("valid")
        .forward(logits.clone(), targets)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(output.log_probs.dtype(), DType::F32);
    let single = tolerance(DType::F32);
    let log_probs = values(output.log_probs.clone());
    assert_all_near(single, &what, &log_probs, &answer.log_probs);
    let mut one_rounding = Tolerance::gradient(dtype);
    one_rounding.absolute = 1e-5;
    if runner.is_tracked() {
        let gradients = weighted(runner, case, &output).backward();
        let gradient = logits.grad(&gradients).expect("logits are tracked");
        assert_eq!(gradient.dtype(), dtype);
        let gradient = values(gradient);
        assert_all_near(one_rounding, &what, &gradient, &answer.logits_gradient);
    }
}

//! Log-probs of logits.

use burn::tensor::{DType, Tensor};
use policy_loss::Entropy;

use super::{
    HeadCase, assert_values, assert_zero_where_masked, config, init, sound, tokens as given,
    tolerance, weighted,
};
use crate::compare::{Tolerance, assert_all_near};
use crate::log_probs::oracle;
use crate::runner::{Runner, gradient, values};

/// The case that the parts share: a vocabulary that is no multiple of any vector.
fn case() -> HeadCase {
    HeadCase::new(1, [6, 5, 37])
}

/// Values and gradients, with each setting of the entropies. Masked rows may hold anything, and are
/// exactly 0.
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
                case().with_mask(|token| token % 3 != 1),
                case()
                    .with_kept()
                    .with_mask(|token| token % 3 != 1)
                    .with_temperatures(),
            ] {
                let mut case = case;
                if entropy == Entropy::Metric {
                    // It has no gradient, whatever reaches it.
                    case.entropy_gradient.fill(0.0);
                }
                check(runner, &case, entropy, dtype, tolerance(dtype));
            }
        }
    }
}

/// Fails unless values and gradient of a case's logits are those of the oracle.
pub(super) fn check(
    runner: &Runner,
    case: &HeadCase,
    entropy: Entropy,
    dtype: DType,
    tolerance: Tolerance,
) {
    let [tokens, _, vocabulary] = case.shape;
    let what = format!("{runner}, {dtype:?}, {entropy:?}");
    let mut answer = case.answer();
    if entropy == Entropy::None {
        let mut without = case.clone();
        without.entropy_gradient.fill(0.0);
        answer = without.answer();
    }
    let shape = [tokens, vocabulary];
    let logits: Tensor<2> = runner.tracked(&case.given_logits(), shape, dtype);
    let given = given(runner, case, [tokens], dtype);
    let output = init(runner, case, entropy).forward(logits.clone(), given);
    let output = sound(&what, output);
    assert_eq!(output.log_probs.dtype(), dtype);
    assert_eq!(output.entropies.is_some(), entropy != Entropy::None);
    if let Some(entropies) = &output.entropies {
        let is_tracked = runner.is_tracked() && entropy == Entropy::Tracked;
        assert_eq!(entropies.is_tracked(), is_tracked, "{what}");
    }
    let are_squared = case.squares_gradient.is_some();
    assert_eq!(output.sums_of_squares.is_some(), are_squared, "{what}");
    assert_values(&what, &answer, &output, tolerance);
    let log_probs = values(output.log_probs.clone());
    assert_zero_where_masked(&what, case, &log_probs);
    if runner.is_tracked() {
        let gradients = weighted(runner, case, &output).backward();
        let gradient = gradient(&logits, &gradients);
        let what = format!("{what}: gradient");
        assert_all_near(tolerance, &what, &gradient, &answer.logits_gradient);
        assert_zero_where_masked(&what, case, &gradient);
    }
    // Nobody has written into the caller's logits.
    let untouched: Tensor<2> = runner.tensor(&case.given_logits(), shape, dtype);
    let what = format!("{what}: the logits afterwards");
    assert_all_near(
        Tolerance::of(0.0),
        &what,
        &values(logits),
        &values(untouched),
    );
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
        let stored: Tensor<2> = runner.tracked(&turned, [vocabulary, tokens], dtype);
        let logits: Tensor<3> = stored.clone().transpose().reshape([2, 3, vocabulary]);
        let log_probs = config.init().expect("valid");
        let output = sound(&what, log_probs.forward(logits, given.clone()));
        assert_eq!(output.log_probs.dims(), [2, 3]);
        assert_values(&what, &answer, &output, tolerance(dtype));
        if runner.is_tracked() {
            let gradients = weighted(runner, case, &output).backward();
            let gradient = gradient(&stored, &gradients);
            let expected = oracle::transposed(&answer.logits_gradient, [tokens, vocabulary]);
            assert_all_near(tolerance(dtype), &what, &gradient, &expected);
        }
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
    let logits: Tensor<2> = runner.tracked(&answer.logits, [tokens, vocabulary], dtype);
    let given = given(runner, case, [tokens], dtype);
    let output = init(runner, case, Entropy::Tracked).forward(logits.clone(), given);
    let output = sound(&what, output);
    assert_eq!(output.log_probs.dtype(), DType::F32);
    assert_values(&what, &answer, &output, tolerance(DType::F32));
    let mut one_rounding = Tolerance::gradient(dtype);
    one_rounding.absolute = 1e-5;
    if runner.is_tracked() {
        let gradients = weighted(runner, case, &output).backward();
        let gradient = gradient(&logits, &gradients);
        assert_all_near(one_rounding, &what, &gradient, &answer.logits_gradient);
    }
}

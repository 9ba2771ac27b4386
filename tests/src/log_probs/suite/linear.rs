//! Log-probs of hidden states.

use burn::tensor::{DType, Tensor};
use policy_loss::{Entropy, HalfProducts, Implementation, LinearHead};

use super::{
    HeadCase, Layout, Leaves, assert_linear, assert_values, config, indices, init, is_left_out,
    is_of_cubecl, linear, of_products, sound, weighted,
};
use crate::compare::{Tolerance, assert_all_near, largest};
use crate::log_probs::oracle;
use crate::runner::{Runner, gradient};

const LAYOUTS: [Layout; 3] = [Layout::Linear, Layout::Tied, Layout::View];

fn cases() -> Vec<HeadCase> {
    let case = HeadCase::new(2, [7, 6, 45]);
    vec![
        case.clone(),
        case.clone().with_bias().with_temperature(0.6),
        case.clone().with_mask(|token| token % 3 != 1),
        case.clone()
            .with_bias()
            .with_softcap(4.0)
            .with_temperature(1.2)
            .with_mask(|token| token % 3 != 1),
        case.clone().with_bias().with_mask(|token| token == 4),
        case.clone().with_kept(),
        case.clone().with_bias().with_temperatures(),
        case.clone()
            .with_bias()
            .with_mask(|token| token % 3 != 1)
            .with_squares(),
        case.with_bias()
            .with_softcap(4.0)
            .with_mask(|token| token % 3 != 1)
            .with_temperatures()
            .with_squares()
            .with_kept(),
    ]
}

/// Values and gradients in every layout, with and without mask, bias and temperature.
pub fn values_and_gradients(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for (i, case) in cases().into_iter().enumerate() {
            for layout in LAYOUTS {
                let config = config(runner, &case, Entropy::Tracked).with_chunk_tokens(3);
                let outcome = linear(runner, &case, config, layout, dtype);
                let what = format!("{runner}, {dtype:?}, case {i}, {layout:?}");
                assert_linear(&what, &case, &outcome, of_products(runner, dtype));
                assert_eq!(outcome.weight_gradient.is_some(), runner.is_tracked());
            }
        }
    }
}

/// Chunks of every length, and a budget that holds not even one token.
pub fn chunks(runner: &Runner) {
    if is_left_out(runner) {
        return;
    }
    let case = HeadCase::new(5, [7, 6, 45]).with_bias();
    let config = config(runner, &case, Entropy::Metric);
    let mut without = case.clone();
    without.entropy_gradient.fill(0.0);
    for chunk in [1, 2, 4, 6, 7, 1000] {
        let config = config.with_chunk_tokens(chunk);
        let outcome = linear(runner, &without, config, Layout::Linear, DType::F32);
        let what = format!("{runner}, chunks of {chunk}");
        assert_linear(&what, &without, &outcome, of_products(runner, DType::F32));
    }
    let config = config.with_memory_budget(1);
    let outcome = linear(runner, &without, config, Layout::Tied, DType::F32);
    let products = of_products(runner, DType::F32);
    assert_linear("a budget of a byte", &without, &outcome, products);
}

/// Blocks of words of every length, also under chunks of tokens, in every layout, with what can
/// reach a gradient.
pub fn blocks_of_words(runner: &Runner) {
    for (i, case) in cases().into_iter().enumerate() {
        let config = config(runner, &case, Entropy::Tracked);
        for (words, tokens) in [(1, 7), (16, 3), (20, 100), (44, 2)] {
            let config = config.with_chunk_words(words).with_chunk_tokens(tokens);
            let dtype = runner.exact_dtypes()[0];
            let outcome = linear(runner, &case, config, LAYOUTS[(i + words) % 3], dtype);
            let what = format!("{runner}, case {i}, blocks of {words} words, {tokens} tokens");
            assert_linear(&what, &case, &outcome, of_products(runner, dtype));
        }
    }
}

/// f16 and bf16: log-probs are those of f32. Gradients are one rounding away where halves are
/// widened; where they are multiplied as they are, the gradient of the logits is rounded before,
/// too, and small gradients lose no more than large ones.
pub fn half_types(runner: &Runner) {
    for dtype in runner.half_dtypes() {
        for (scale, words, is_kept) in [
            (1.0, 45, false),
            (1.0, 16, false),
            (1.0 / 4096.0, 45, false),
            (1.0 / 4096.0, 16, false),
            (1.0, 45, true),
            (1.0 / 4096.0, 16, true),
        ] {
            let mut case = HeadCase::new(2, [7, 6, 45])
                .with_bias()
                .exact_in_half_types();
            if is_kept {
                case = case.with_kept().with_temperatures().with_squares();
            }
            let two = [&mut case.log_prob_gradient, &mut case.entropy_gradient];
            for gradient in two.into_iter().chain(&mut case.squares_gradient) {
                gradient.iter_mut().for_each(|gradient| *gradient *= scale);
            }
            for half_products in [HalfProducts::Auto, HalfProducts::Widened] {
                let what =
                    format!("{runner}, {dtype:?}, {half_products:?}, {words}, {scale}, {is_kept}");
                check_half(runner, &case, dtype, half_products, words, &what);
            }
        }
    }
}

fn check_half(
    runner: &Runner,
    case: &HeadCase,
    dtype: DType,
    half_products: HalfProducts,
    words: usize,
    what: &str,
) {
    let config = config(runner, case, Entropy::Tracked)
        .with_half_products(half_products)
        .with_chunk_words(words)
        .with_chunk_tokens(4);
    let answer = case.answer();
    let outcome = linear(runner, case, config, Layout::Linear, dtype);
    let products = of_products(runner, DType::F32);
    assert_all_near(products, what, &outcome.log_probs, &answer.log_probs);

    let [tokens, width, vocabulary] = case.shape;
    let absolute = |numbers: &[f64]| numbers.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let logits = absolute(&answer.logits_gradient);
    let up = oracle::transposed(&absolute(&case.weight), [width, vocabulary]);
    let down = oracle::transposed(&absolute(&case.hidden), [tokens, width]);
    // What a sum's terms come to, of which each is rounded once.
    let of_hidden = oracle::product(&logits, &up, [tokens, vocabulary, width]);
    let of_weight = oracle::product(&down, &logits, [width, tokens, vocabulary]);
    let one_rounding = match dtype {
        DType::F16 => 2.0_f64.powi(-11),
        _ => 2.0_f64.powi(-8),
    };
    let is_native = half_products == HalfProducts::Auto
        && is_of_cubecl(runner)
        && runner.implementation == Implementation::Fused;
    for (name, gradient, expected, terms) in [
        (
            "hidden",
            outcome.hidden_gradient,
            &answer.hidden_gradient,
            of_hidden,
        ),
        (
            "weight",
            outcome.weight_gradient,
            &answer.weight_gradient,
            of_weight,
        ),
    ] {
        let Some(gradient) = gradient else { continue };
        // Each term is rounded, and then their sum.
        let of_terms = match is_native {
            true => one_rounding * (largest(&terms) + largest(expected)),
            false => 0.0,
        };
        // The least that f16 can tell apart.
        let tolerance = Tolerance {
            relative: one_rounding + products.relative,
            absolute: of_terms + products.absolute * largest(expected) + 3e-8,
        };
        assert_all_near(tolerance, &format!("{what}: {name}"), &gradient, expected);
    }
    if let Some(gradient) = outcome.bias_gradient {
        let tolerance = Tolerance {
            relative: products.relative + 8.0 * one_rounding,
            absolute: one_rounding * largest(&logits) * tokens as f64,
        };
        assert_all_near(
            tolerance,
            &format!("{what}: bias"),
            &gradient,
            &answer.bias_gradient,
        );
    }
}

/// Where a part is frozen, the others have their gradients, and it has none.
pub fn frozen_parts(runner: &Runner) {
    let case = HeadCase::new(6, [4, 5, 33]).with_bias();
    let answer = case.answer();
    let [tokens, width, vocabulary] = case.shape;
    let dtype = DType::F32;
    for tracked in [
        [true, false, false],
        [false, true, false],
        [false, false, true],
    ] {
        let runners = tracked.map(|is_tracked| match is_tracked {
            true => runner.clone(),
            false => runner.plain(),
        });
        let hidden: Tensor<2> = runners[0].tracked(&case.hidden, [tokens, width], dtype);
        let weight: Tensor<2> = runners[1].tracked(&case.weight, [width, vocabulary], dtype);
        let bias = case.bias.as_ref().expect("it has one");
        let bias: Tensor<1> = runners[2].tracked(bias, [vocabulary], dtype);
        let head = LinearHead::new(weight.clone()).with_bias(bias.clone());
        let targets = indices(runner, &case.targets, [tokens]);
        let log_probs = init(runner, &case, Entropy::Tracked);
        let output = log_probs.forward_linear(hidden.clone(), &head, targets);
        let gradients = weighted(runner, &case, &sound(runner, output)).backward();
        let [of_hidden, of_weight, of_bias] = tracked;
        for (name, actual, expected) in [
            (
                "hidden",
                of_hidden.then(|| gradient(&hidden, &gradients)),
                &answer.hidden_gradient,
            ),
            (
                "weight",
                of_weight.then(|| gradient(&weight, &gradients)),
                &answer.weight_gradient,
            ),
            (
                "bias",
                of_bias.then(|| gradient(&bias, &gradients)),
                &answer.bias_gradient,
            ),
        ] {
            if let Some(actual) = actual {
                let what = format!("{runner}, {tracked:?}: {name}");
                assert_all_near(of_products(runner, dtype), &what, &actual, expected);
            }
        }
    }
}

/// `[B, T, H]`, and a weight of another float type than the hidden states.
pub fn ranks_and_mixed_types(runner: &Runner) {
    let case = HeadCase::new(7, [6, 5, 33]);
    let answer = case.answer();
    let width = case.shape[1];
    let dtypes = [runner.exact_dtypes(), runner.half_dtypes()].concat();
    for dtype in dtypes {
        let hidden: Tensor<3> = runner.tracked(&case.hidden, [2, 3, width], DType::F32);
        let leaves = Leaves::of(runner, &case, Layout::Linear, dtype);
        let targets = indices(runner, &case.targets, [2, 3]);
        let log_probs = init(runner, &case, Entropy::Tracked);
        let output = log_probs.forward_linear(hidden.clone(), &leaves.head, targets);
        let output = sound(runner, output);
        assert_eq!(output.log_probs.dims(), [2, 3]);
        assert_eq!(output.log_probs.dtype(), DType::F32);
        let what = format!("{runner}, a weight of {dtype:?}");
        let products = of_products(runner, DType::F32);
        assert_values(&what, &answer, &output, products);
        if runner.is_tracked() {
            let gradients = weighted(runner, &case, &output).backward();
            let [of_weight, _] = leaves.gradients(&gradients);
            assert!(of_weight.is_some(), "{what}");
            let gradient = gradient(&hidden, &gradients);
            assert_all_near(products, &what, &gradient, &answer.hidden_gradient);
        }
    }
}

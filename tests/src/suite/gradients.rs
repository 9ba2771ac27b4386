//! Where gradients flow, and where they stop. Only under autodiff.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};
use policy_loss::{EntropyBonus, FutureWeight, PolicyLossConfig, Ratio};

use crate::busy::busy;
use crate::case::Case;
use crate::compare::{Tolerance, assert_all_near, bits};
use crate::configs::describe;
use crate::log_probs::oracle;
use crate::runner::{Runner, any_gradient, gradient};

/// Nothing but `log_probs`, and the entropies where there is a bonus, receives a gradient, even
/// where it is asked for.
pub fn constants_receive_none(runner: &Runner) {
    for config in runner.configs() {
        let case = busy(0).with_config(config);
        let dtype = DType::F32;
        let log_probs = runner.leaf(&case, dtype);
        let mut constants = Vec::new();
        let batch = runner.batch_of(&case, log_probs.clone(), |name, values, shape| {
            let tensor = runner.tracked(values, shape, dtype);
            constants.push((name, tensor.clone()));
            tensor
        });
        let output = runner.forward(&case.name, &runner.init(&config), batch);
        let gradients = output.loss.backward();
        let what = format!("{runner}, {}", describe(&config));
        let gradient = gradient(&log_probs, &gradients);
        let expected = case.rounded(dtype, dtype).answer().gradient;
        assert_all_near(Tolerance::gradient(dtype), &what, &gradient, &expected);
        assert_eq!(constants.len(), 5, "{what}");
        let has_bonus = config.objective.entropy_bonus.is_some();
        for (name, tensor) in constants {
            let received = tensor.grad(&gradients).is_some();
            let expected = name == "entropies" && has_bonus;
            assert_eq!(received, expected, "{what}: {name}");
        }
    }
}

/// Constants may come from outside autodiff altogether, and `log_probs` may be untracked, alone or with
/// the entropies.
pub fn contexts_may_differ(runner: &Runner) {
    let of_segments = PolicyLossConfig::new()
        .with_ratio(Ratio::SEGMENT)
        .with_future_weight(FutureWeight::new(0.9));
    let bonus = of_segments.with_entropy_bonus(EntropyBonus::new(0.05));
    for config in [PolicyLossConfig::new(), of_segments, bonus] {
        check_contexts(runner, &busy(0).with_config(config));
    }
}

fn check_contexts(runner: &Runner, case: &Case) {
    let dtype = DType::F32;
    let leaf = runner.leaf(case, dtype);
    let loss = runner.init(&case.config);
    let output = runner.forward(
        "plain constants",
        &loss,
        runner.plain().batch(case, leaf.clone(), dtype),
    );
    let mut expected = runner.outcome(case, dtype);
    let of_entropies = expected.entropy_gradient.take();
    let has_bonus = case.config.objective.entropy_bonus.is_some();
    assert_eq!(of_entropies.is_some(), has_bonus, "{runner}");
    let expected = bits(&expected);
    let actual = bits(&runner.read(&output, &leaf, None));
    assert_eq!(actual, expected, "{runner}: constants outside autodiff");

    let shape = [case.sequences, case.tokens];
    let untracked: Tensor<2> = runner.tensor(&case.log_probs, shape, dtype);
    let batch = runner.batch(case, untracked.clone(), dtype);
    let output = runner.forward("untracked", &loss, batch);
    assert!(!output.loss.is_tracked(), "{runner}: an untracked loss");
    let read = output.read().expect("it can be read");
    let loss_bits = read.loss.to_bits();
    assert_eq!(loss_bits, expected[0], "{runner}: an untracked loss");

    if of_entropies.is_some() {
        let entropies = case.entropies.as_ref().expect("busy has some");
        let entropies: Tensor<2> = runner.tracked(entropies, shape, dtype);
        let batch = runner.batch(case, untracked, dtype);
        let batch = batch.with_entropies(entropies.clone());
        let output = runner.forward("tracked entropies", &loss, batch);
        let gradient = any_gradient(&entropies, &output.loss.backward());
        assert_eq!(gradient, of_entropies, "{runner}: they alone are tracked");
        assert!(gradient.is_some_and(|it| it.iter().any(|x| *x != 0.0)));
    }
}

/// `log_probs` as a trainer computes them: `log_softmax` of logits, gathered at the actions.
/// d loss / d logits is known in closed form.
pub fn through_log_softmax(runner: &Runner) {
    const VOCABULARY: usize = 5;
    let mut case = busy(3);
    let [sequences, tokens] = [case.sequences, case.tokens];
    let logits: Vec<f64> = (0..sequences * tokens * VOCABULARY)
        .map(|i| ((i * 7919) % 31) as f64 / 10.0 - 1.5)
        .collect();
    let actions: Vec<usize> = (0..sequences * tokens)
        .map(|i| (i * 13) % VOCABULARY)
        .collect();
    let rows = logits.chunks(VOCABULARY);
    let log_probabilities: Vec<Vec<f64>> = rows.map(|row| oracle::log_softmax(row, 1.0)).collect();
    for (i, log_probabilities) in log_probabilities.iter().enumerate() {
        let offset = case.log_probs[i] - case.old_log_probs[i];
        case.log_probs[i] = log_probabilities[actions[i]];
        case.old_log_probs[i] = case.log_probs[i] - offset;
    }
    for config in runner.some_configs() {
        let case = case.clone().with_config(config);
        let tokens_gradient = case.answer().gradient;
        let expected: Vec<f64> = (0..logits.len())
            .map(|i| {
                let (token, word) = (i / VOCABULARY, i % VOCABULARY);
                let chosen = f64::from(u8::from(word == actions[token]));
                tokens_gradient[token] * (chosen - log_probabilities[token][word].exp())
            })
            .collect();
        let dtype = DType::F32;
        let leaf: Tensor<3> = runner.tracked(&logits, [sequences, tokens, VOCABULARY], dtype);
        let indices: Vec<i64> = actions.iter().map(|action| *action as i64).collect();
        let indices = TensorData::new(indices, [sequences, tokens, 1]);
        let indices = Tensor::<3, Int>::from_data(indices, &runner.device);
        let log_probs: Tensor<2> = log_softmax(leaf.clone(), 2)
            .gather(2, indices)
            .squeeze_dim(2);
        let batch = runner.batch(&case, log_probs, dtype);
        let output = runner.forward(&case.name, &runner.init(&config), batch);
        let gradient = gradient(&leaf, &output.loss.backward());
        let what = format!("{runner}, {}: gradient of the logits", describe(&config));
        // The log-probs themselves carry a rounding of f32 into the ratio.
        let tolerance = Tolerance {
            relative: 1e-5,
            absolute: 1e-6,
        };
        assert_all_near(tolerance, &what, &gradient, &expected);
    }
}

/// A factor behind the loss, another term beside it, and the same leaf in two batches.
pub fn combined_losses(runner: &Runner) {
    for config in runner.some_configs() {
        let case = busy(1).with_config(config);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let of_loss = case.rounded(dtype, dtype).answer().gradient;
            let tolerance = Tolerance::gradient(dtype);
            let check = |name: &str, actual: Vec<f64>, expected: &dyn Fn(f64) -> f64| {
                let expected: Vec<f64> = of_loss.iter().map(|g| expected(*g)).collect();
                assert_all_near(tolerance, &format!("{what}: {name}"), &actual, &expected);
            };
            let leaf = runner.leaf(&case, dtype);
            let loss = |case: &Case| {
                let batch = runner.batch(case, leaf.clone(), dtype);
                let init = runner.init(&case.config);
                runner.forward(&case.name, &init, batch).loss
            };
            let backward = |loss: Tensor<1>| gradient(&leaf, &loss.backward());
            check("loss * 3", backward(loss(&case) * 3), &|g| 3.0 * g);
            check("-loss", backward(-loss(&case)), &|g| -g);
            check("loss * 0", backward(loss(&case).mul_scalar(0)), &|_| 0.0);
            let beside = loss(&case) + leaf.clone().sum();
            check("loss + sum", backward(beside), &|g| g + 1.0);
            let twice = loss(&case) + loss(&case) * 2;
            check("loss + loss * 2", backward(twice), &|g| 3.0 * g);
        }
    }
}

//! The oracle itself, against the reference's own values and against slopes.

use policy_loss::Reduction;
use policy_loss_tests::case::Case;
use policy_loss_tests::compare::{Tolerance, assert_all_near, assert_near};
use policy_loss_tests::{
    busy::busy, configs, framework_golden, framework_rollout, golden, rollout,
};

#[test]
fn agrees_with_the_reference() {
    for golden in golden::cases() {
        let (case, expected) = (&golden.case, &golden.expected);
        // The reference divides a sequence by `n_b + 1e-8`.
        let tolerance = Tolerance::of(match case.config.reduction {
            Reduction::SequenceMean => 2e-8,
            _ => 1e-12,
        });
        let answer = case.answer();
        let near = |name: &str, actual: f64, expected: f64| {
            assert_near(
                tolerance,
                &format!("{}: {name}", case.name),
                actual,
                expected,
            );
        };
        near("loss", answer.loss, expected.loss);
        let metric = |name: &str| answer.metrics.get(name);
        near(
            "clip_ratio",
            metric("clip_ratio").unwrap(),
            expected.clip_ratio,
        );
        near("ppo_kl", metric("ppo_kl").unwrap(), expected.ppo_kl);
        match (metric("rollout_kl"), expected.vllm_kl) {
            (Some(actual), Some(expected)) => near("rollout_kl", actual, expected),
            (actual, expected) => assert_eq!(actual, expected, "{}", case.name),
        }
        assert_all_near(
            tolerance,
            &case.name,
            &answer.gradient,
            &expected.gradient(),
        );
    }
}

#[test]
fn agrees_with_the_reference_on_a_real_batch() {
    for (case, expected) in rollout::cases() {
        let tolerance = Tolerance::of(match case.config.reduction {
            Reduction::SequenceMean => 2e-8,
            _ => 1e-12,
        });
        let answer = case.answer();
        assert_near(tolerance, &case.name, answer.loss, expected.loss);
        let squares: f64 = answer.gradient.iter().map(|g| g * g).sum();
        assert_near(tolerance, &case.name, squares.sqrt(), expected.grad_l2);
        let nonzero = answer.gradient.iter().filter(|g| **g != 0.0).count();
        assert_eq!(nonzero, expected.grad_nonzero, "{}", case.name);
    }
}

/// Everything that a formula takes as a constant is held at the point where the slope is taken.
#[test]
fn gradients_are_slopes() {
    const STEP: f64 = 1e-6;
    for seed in 0..4 {
        for config in configs::all() {
            let case = busy(seed).with_config(config);
            let answer = case.answer();
            let what = format!("busy {seed}, {}", configs::describe(&config));
            assert!(answer.margin > STEP, "{what} lies on a kink");
            let slope = |values: fn(&mut Case) -> &mut Vec<f64>, i: usize| {
                let loss_at = |offset: f64| {
                    let mut moved = case.clone();
                    values(&mut moved)[i] += offset;
                    moved.answer_around(&case.log_probs).loss
                };
                (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP)
            };
            for i in 0..case.log_probs.len() {
                let what = format!("{what}, [{i}]");
                let expected = slope(|case| &mut case.log_probs, i);
                assert_near(Tolerance::of(1e-7), &what, answer.gradient[i], expected);
                let expected = slope(|case| case.entropies.as_mut().expect("busy has some"), i);
                let actual = answer.entropy_gradient[i];
                assert_near(Tolerance::of(1e-7), &what, actual, expected);
            }
        }
    }
}

/// Where the oracle differs from a framework, the reason is listed; where a reason is listed, it
/// differs.
#[test]
fn agrees_with_the_frameworks() {
    let mut wrong = Vec::new();
    for golden in framework_golden::cases() {
        let tolerance = Tolerance::of(1e-7);
        let answer = golden.case.answer();
        let agrees = tolerance.accepts(answer.loss, golden.loss)
            && std::iter::zip(&answer.gradient, &golden.gradient)
                .all(|(actual, expected)| tolerance.accepts(*actual, *expected));
        if agrees != golden.departure.is_none() {
            wrong.push(format!(
                "{}: loss {} for {}, gradient {:?} for {:?}",
                golden.case.name,
                answer.loss,
                golden.loss,
                &answer.gradient[..answer.gradient.len().min(4)],
                &golden.gradient[..golden.gradient.len().min(4)]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rollout_weights_agree_with_verl() {
    let mut wrong = Vec::new();
    for golden in framework_rollout::rollout_cases() {
        let answer = golden.case.answer();
        // verl adds 1e-8 to the mean that it divides by.
        let tolerance = match golden.name.ends_with("batchnorm") {
            true => Tolerance::of(2e-8),
            false => Tolerance::of(1e-12),
        };
        for (i, expected) in golden.weights.iter().enumerate() {
            let actual = answer.token_losses[i];
            if !tolerance.accepts(actual, *expected) {
                wrong.push(format!("{}[{i}]: {actual} for {expected}", golden.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

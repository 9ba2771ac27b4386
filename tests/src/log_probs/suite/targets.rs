//! Targets outside of the vocabulary.

use burn::tensor::{DType, Tensor};
use policy_loss::{BatchError, Entropy};

use super::{HeadCase, Layout, config, indices, leaf, linear, mask, of_products};
use crate::compare::assert_all_near;
use crate::runner::{Runner, values};

const OUTSIDE: [i64; 4] = [-1, -100, 33, i32::MAX as i64];

fn case() -> HeadCase {
    HeadCase::new(11, [4, 5, 33])
}

/// Without the check, such a target is NaN at its own token, and changes no other.
pub fn are_nan(runner: &Runner) {
    for (target, is_kept) in OUTSIDE
        .into_iter()
        .flat_map(|target| [(target, false), (target, true)])
    {
        let mut case = case();
        if is_kept {
            case = case.with_kept();
            // Without a word that is kept it would be NaN anyway.
            case.kept.as_mut().expect("it has some")[2] = vec![1, 5];
        }
        case.targets[2] = target;
        let what = format!("{runner}, target {target}");
        let config = config(runner, &case, Entropy::Metric);
        let outcome = linear(runner, &case, config, Layout::Linear, DType::F32);
        let mut known = case.clone();
        known.targets[2] = 0;
        let answer = known.answer();
        for token in 0..4 {
            match token {
                2 => assert!(outcome.log_probs[token].is_nan(), "{what}"),
                _ => assert_all_near(
                    of_products(runner, DType::F32),
                    &what,
                    &[outcome.log_probs[token]],
                    &[answer.log_probs[token]],
                ),
            }
        }
        // The entropy does not depend on the target, unless the target is what is kept.
        let mut entropies = outcome.entropies.expect("asked for");
        if is_kept {
            entropies[2] = answer.entropies[2];
        }
        assert_all_near(
            of_products(runner, DType::F32),
            &what,
            &entropies,
            &answer.entropies,
        );
    }
}

/// A token that no gradient reaches may have any target and any logits.
pub fn without_a_gradient_are_ignored(runner: &Runner) {
    for softcap in [None, Some(4.0)] {
        let mut case = case();
        case.softcap = softcap;
        ignored_without_a_gradient(runner, &case);
    }
}

fn ignored_without_a_gradient(runner: &Runner, case: &HeadCase) {
    let answer = case.answer();
    let [tokens, _, vocabulary] = case.shape;
    let mut logits = answer.logits.clone();
    if runner.implementation == policy_loss::Implementation::Fused {
        logits[vocabulary..2 * vocabulary].fill(f64::NAN);
    }
    let logits = leaf(runner, &logits, [tokens, vocabulary], DType::F32);
    let mut targets = case.targets.clone();
    targets[1] = -100;
    let output = config(runner, case, Entropy::None)
        .init()
        .expect("valid")
        .forward(logits.clone(), indices(runner, &targets, [tokens]))
        .unwrap_or_else(|error| panic!("{runner}: {error}"));
    let is_padding = mask(runner, &[false, true, false, false], [tokens]);
    let upstream: Tensor<1> = runner.tensor(&case.log_prob_gradient, [tokens], DType::F32);
    let selected = output.log_probs.mask_fill(is_padding, 0.0);
    let gradients = (selected * upstream).sum().backward();
    let gradient = values(logits.grad(&gradients).expect("logits are tracked"));
    let mut expected = case.clone();
    expected.entropy_gradient.fill(0.0);
    let mut expected = expected.answer().logits_gradient;
    expected[vocabulary..2 * vocabulary].fill(0.0);
    assert_all_near(
        of_products(runner, DType::F32),
        &runner.to_string(),
        &gradient,
        &expected,
    );
    assert!(
        gradient[vocabulary..2 * vocabulary]
            .iter()
            .all(|x| *x == 0.0)
    );
}

/// With the check, they are an error that names them, unless they are masked.
pub fn are_found(runner: &Runner) {
    for target in OUTSIDE {
        let mut case = case();
        case.targets[2] = target;
        let [tokens, width, vocabulary] = case.shape;
        let log_probs = config(runner, &case, Entropy::None)
            .with_check_targets(true)
            .init()
            .expect("valid");
        let targets = indices(runner, &case.targets, [tokens]);
        let expected = Some(BatchError::Target {
            value: target,
            index: 2,
            vocabulary,
        });
        let logits = leaf(
            runner,
            &vec![0.0; tokens * vocabulary],
            [tokens, vocabulary],
            DType::F32,
        );
        let error = log_probs.forward(logits, targets.clone()).err();
        assert_eq!(error, expected, "{runner}");
        let hidden = leaf(runner, &case.hidden, [tokens, width], DType::F32);
        let weight = leaf(runner, &case.weight, [width, vocabulary], DType::F32);
        let head = policy_loss::LinearHead::new(weight);
        let error = log_probs
            .forward_linear(hidden.clone(), &head, targets.clone())
            .err();
        assert_eq!(error, expected, "{runner}");
        let valid = mask(runner, &[true, true, false, true], [tokens]);
        let tokens = policy_loss::LogProbsTokens::new(targets).with_action_mask(valid);
        let output = log_probs.forward_linear(hidden, &head, tokens.clone());
        assert!(output.is_ok(), "{runner}: a masked target was refused");
        let logits = Tensor::<2>::zeros([case.shape[0], vocabulary], &runner.device);
        let output = log_probs.forward(logits, tokens);
        assert!(output.is_ok(), "{runner}: a masked target was refused");
    }
}

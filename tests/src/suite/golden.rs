//! What others compute: the reference, and the frameworks.

use burn::tensor::Tensor;
use policy_loss::within_second_moment;
use policy_loss_oracle::Metrics;

use crate::compare::{Tolerance, assert_all_near, assert_near, assert_outcome, largest};
use crate::golden::openrlhf::EPSILON;
use crate::golden::{Directory, frameworks, openrlhf, peers, real_rollout, sums, verl_rollout};
use crate::runner::{Runner, gradient, values};

/// The reference's own results, and the oracle's for the metrics that the reference lacks.
pub fn openrlhf_cases(runner: &Runner) {
    for golden in &runner.share(openrlhf::cases(&Directory::of_environment())) {
        let (case, expected) = (&golden.case, &golden.expected);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            let outcome = runner.outcome(case, dtype);
            let [value, of_gradient] = openrlhf::tolerances(case, dtype);
            let metrics = Metrics(outcome.metrics.named());
            let reference = &expected.reference;
            reference.check(value, &what, outcome.loss, &metrics);
            if let Some(gradient) = &outcome.gradient {
                let what = format!("{what}: gradient");
                assert_all_near(of_gradient, &what, gradient, &expected.gradient());
            }
            assert_outcome(&what, dtype, &outcome, &case.answer());
        }
    }
}

/// What the frameworks compute, where they mean the same.
pub fn framework_cases(runner: &Runner) {
    let directory = Directory::of_environment();
    let mut cases = frameworks::cases(&directory);
    cases.extend(peers::cases(&directory));
    for golden in runner.share(cases) {
        if golden.departure.is_some() || !runner.covers(&golden.case.config) {
            continue;
        }
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", golden.case.name);
            let outcome = runner.outcome(&golden.case, dtype);
            // Frameworks add an epsilon to what they divide by, as the reference does.
            let tolerance = Tolerance::value(dtype).at_least(EPSILON);
            assert_near(tolerance, &what, outcome.loss, golden.loss);
            if let Some(gradient) = &outcome.gradient {
                let tolerance = Tolerance::gradient(dtype).at_least(EPSILON);
                assert_all_near(tolerance, &what, gradient, &golden.gradient);
            }
            let answer = golden.case.rounded(dtype, dtype).answer();
            assert_outcome(&what, dtype, &outcome, &answer);
        }
    }
}

/// What the frameworks compute that is a sum of losses over the same log-probs.
pub fn sums_of_losses(runner: &Runner) {
    for sum in runner.share(sums::cases(&Directory::of_environment())) {
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", sum.name);
            let leaf = runner.leaf(&sum.terms[0].case, dtype);
            let terms = sum.terms.iter().map(|term| {
                let case = &term.case;
                let batch = runner.batch(case, leaf.clone(), dtype);
                let loss = runner.init(&case.config);
                let loss = match &term.weights {
                    None => runner.forward(&what, &loss, batch).loss,
                    Some((weights, count)) => {
                        let shape = [case.sequences, case.tokens];
                        let weights: Tensor<2> = runner.tensor(weights, shape, dtype);
                        let token_losses = loss.forward_no_reduction(batch).expect(&what);
                        (token_losses * weights).sum() / *count
                    }
                };
                loss * term.factor
            });
            let loss = terms.reduce(|one, other| one + other).expect(&what);
            let tolerance = Tolerance::value(dtype).at_least(EPSILON);
            let value = values(loss.clone())[0] + sum.constant;
            assert_near(tolerance, &what, value, sum.loss);
            if runner.is_tracked() {
                let gradient = gradient(&leaf, &loss.backward());
                let tolerance = Tolerance::gradient(dtype).at_least(EPSILON);
                assert_all_near(tolerance, &what, &gradient, &sum.gradient);
            }
        }
    }
}

/// The tokens that are left of AReaL's M2PO.
pub fn second_moment_masks(runner: &Runner) {
    for (case, threshold, kept) in peers::second_moments(&Directory::of_environment()) {
        let rollout = case
            .rollout_log_probs
            .as_ref()
            .expect("every case has some");
        let gaps = rollout.iter().zip(&case.old_log_probs);
        let gaps: Vec<f64> = gaps.map(|(rollout, old)| rollout - old).collect();
        let shape = [case.sequences, case.tokens];
        let mask = case.action_mask.clone().expect("every case has one");
        for dtype in runner.exact_dtypes() {
            let gaps: Tensor<2> = runner.tensor(&gaps, shape, dtype);
            let mask = runner.mask(&mask, shape);
            let actual = within_second_moment(gaps, Some(mask), threshold);
            let actual = values(actual.expect("accepted").float());
            let actual: Vec<bool> = actual.iter().map(|kept| *kept == 1.0).collect();
            assert_eq!(actual, kept, "{runner}, {dtype:?}, {}", case.name);
        }
    }
}

/// The weights and masks of verl's rollout correction.
pub fn rollout_corrections(runner: &Runner) {
    for golden in runner.share(verl_rollout::rollout_cases(&Directory::of_environment())) {
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", golden.name);
            let weights = runner.token_losses(&golden.case, dtype);
            let tolerance = Tolerance::value(dtype).at_least(EPSILON);
            assert_all_near(tolerance, &what, &weights, &golden.weights);
        }
    }
}

/// The weights of ROLL's tokens under its filters.
pub fn roll_weights(runner: &Runner) {
    for (case, expected) in runner.share(peers::roll_weights(&Directory::of_environment())) {
        if !runner.covers(&case.config) {
            continue;
        }
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            let weights = runner.token_losses(&case, dtype);
            for i in (0..expected.len()).filter(|i| case.is_valid(*i)) {
                let (what, tolerance) = (format!("{what}[{i}]"), Tolerance::value(dtype));
                assert_near(tolerance, &what, weights[i], expected[i]);
            }
            let outcome = runner.outcome(&case, dtype);
            assert_outcome(&what, dtype, &outcome, &case.rounded(dtype, dtype).answer());
        }
    }
}

/// A real batch of 64 sequences and 160 tokens: ten configurations against the reference's figures,
/// and element by element against the oracle.
pub fn real_rollout(runner: &Runner) {
    for (case, expected) in &runner.share(real_rollout::cases(&Directory::of_environment())) {
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            let outcome = runner.outcome(case, dtype);
            let [tolerance, _] = openrlhf::tolerances(case, dtype);
            let metrics = Metrics(outcome.metrics.named());
            let reference = &expected.reference;
            reference.check(tolerance, &what, outcome.loss, &metrics);
            assert_outcome(&what, dtype, &outcome, &case.answer());
            let Some(gradient) = &outcome.gradient else {
                continue;
            };
            let near = |name: &str, actual: f64, expected: f64| {
                assert_near(tolerance, &format!("{what}: {name}"), actual, expected);
            };
            let squares: f64 = gradient.iter().map(|g| g * g).sum();
            near("grad_l2", squares.sqrt(), expected.grad_l2);
            near("grad_sum", gradient.iter().sum(), expected.grad_sum);
            near("grad_abs_max", largest(gradient), expected.grad_abs_max);
            let nonzero = gradient.iter().filter(|g| **g != 0.0).count();
            assert_eq!(nonzero, expected.grad_nonzero, "{what}: grad_nonzero");
        }
    }
}

/// What verl says about the mismatch between sampler and trainer; masked garbage changes nothing.
pub fn rollout_diagnostics(runner: &Runner) {
    let cases = verl_rollout::diagnostics(&Directory::of_environment());
    assert!(!cases.is_empty(), "no batch is left");
    for (case, expected) in runner.share(cases) {
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            let actual = runner.diagnostics(&case, dtype);
            let tolerance = Tolerance::value(dtype).at_least(2e-8);
            for (name, expected) in &expected {
                let named = actual.named();
                let found = named.iter().find(|(known, _)| known == name);
                let what = format!("{what}: {name}");
                // Of chi-square, a mean of squares minus 1, the digits of the mean count.
                let tolerance = match name.ends_with("chi_square") {
                    true => tolerance.at_least(tolerance.relative * (1.0 + expected.abs())),
                    false => tolerance,
                };
                assert_near(tolerance, &what, found.expect(&what).1, *expected);
            }
            let share = actual.effective_sample_size;
            assert!(share > 0.0 && share <= 1.0 + 1e-6, "{what}: {share}");
            let mut garbage = case.clone();
            for i in (0..case.log_probs.len()).filter(|i| !case.is_valid(*i)) {
                garbage.old_log_probs[i] = f64::NAN;
                garbage.rollout_log_probs.as_mut().expect("given")[i] = f64::INFINITY;
            }
            assert_eq!(runner.diagnostics(&garbage, dtype), actual, "{what}");
        }
    }
}

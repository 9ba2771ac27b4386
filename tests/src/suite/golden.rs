//! What the reference computes.

use burn::tensor::DType;
use policy_loss::Reduction;

use crate::compare::{Tolerance, assert_all_near, assert_near, assert_outcome};
use crate::golden::cases;
use crate::runner::Runner;
use crate::{framework_golden, framework_rollout};

/// The reference divides a sequence by `n_b + 1e-8`, we by `n_b`.
const REFERENCE_EPSILON: f64 = 2e-8;

/// The reference's own results, and the oracle's for the metrics that the reference lacks.
pub fn openrlhf_cases(runner: &Runner) {
    let golden = cases();
    assert_eq!(golden.len(), 104);
    for golden in &runner.share(golden) {
        let (case, expected) = (&golden.case, &golden.expected);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            let outcome = runner.outcome(case, dtype);
            let near = |name: &str, actual: f64, expected: f64| {
                let tolerance = match (case.config.reduction, dtype) {
                    (Reduction::SequenceMean, DType::F64) => Tolerance::of(REFERENCE_EPSILON),
                    _ => Tolerance::value(dtype),
                };
                assert_near(tolerance, &format!("{what}: {name}"), actual, expected);
            };
            near("loss", outcome.loss, expected.loss);
            near(
                "clip_ratio",
                outcome.metrics.clip_ratio,
                expected.clip_ratio,
            );
            near("ppo_kl", outcome.metrics.ppo_kl, expected.ppo_kl);
            assert_eq!(
                outcome.metrics.rollout_kl.is_some(),
                expected.vllm_kl.is_some(),
                "{what}: rollout_kl"
            );
            if let (Some(actual), Some(expected)) = (outcome.metrics.rollout_kl, expected.vllm_kl) {
                near("rollout_kl", actual, expected);
            }
            if let Some(gradient) = &outcome.gradient {
                let tolerance = match case.config.reduction {
                    Reduction::SequenceMean => {
                        Tolerance::gradient(dtype).at_least(REFERENCE_EPSILON)
                    }
                    _ => Tolerance::gradient(dtype),
                };
                let what = format!("{what}: gradient");
                assert_all_near(tolerance, &what, gradient, &expected.gradient());
            }
            assert_outcome(&what, dtype, &outcome, &case.answer());
        }
    }
}

/// The cases of verl and Liger-Kernel, where they mean the same.
pub fn framework_cases(runner: &Runner) {
    for golden in runner.share(framework_golden::cases()) {
        if golden.departure.is_some() || !runner.covers(&golden.case.config) {
            continue;
        }
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", golden.case.name);
            let outcome = runner.outcome(&golden.case, dtype);
            // Both frameworks add an epsilon to what they divide by.
            let tolerance = Tolerance::value(dtype).at_least(REFERENCE_EPSILON);
            assert_near(tolerance, &what, outcome.loss, golden.loss);
            if let Some(gradient) = &outcome.gradient {
                let tolerance = Tolerance::gradient(dtype).at_least(REFERENCE_EPSILON);
                assert_all_near(tolerance, &what, gradient, &golden.gradient);
            }
            assert_outcome(
                &what,
                dtype,
                &outcome,
                &golden.case.rounded(dtype, dtype).answer(),
            );
        }
    }
}

/// The weights and masks of verl's rollout correction.
pub fn rollout_corrections(runner: &Runner) {
    for golden in runner.share(framework_rollout::rollout_cases()) {
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", golden.name);
            let weights = runner.token_losses(&golden.case, dtype);
            let tolerance = Tolerance::value(dtype).at_least(REFERENCE_EPSILON);
            assert_all_near(tolerance, &what, &weights, &golden.weights);
        }
    }
}

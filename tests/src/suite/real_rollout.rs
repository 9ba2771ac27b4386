//! A real batch of 64 sequences and 160 tokens.

use burn::tensor::DType;
use policy_loss::Reduction;

use crate::compare::{Tolerance, assert_near, assert_outcome};
use crate::rollout::cases;
use crate::runner::Runner;

/// Ten configurations against the reference's figures, and element by element against the oracle.
pub fn ten_configurations(runner: &Runner) {
    let cases = cases();
    assert_eq!(cases.len(), 10);
    for (case, expected) in &runner.share(cases) {
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            let outcome = runner.outcome(case, dtype);
            let tolerance = match (case.config.reduction, dtype) {
                // The reference divides a sequence by `n_b + 1e-8`.
                (Reduction::SequenceMean, DType::F64) => Tolerance::of(2e-8),
                _ => Tolerance::value(dtype),
            };
            let near = |name: &str, actual: f64, expected: f64| {
                assert_near(tolerance, &format!("{what}: {name}"), actual, expected);
            };
            near("loss", outcome.loss, expected.loss);
            near(
                "clip_ratio",
                outcome.metrics.clip_ratio,
                expected.clip_ratio,
            );
            near("ppo_kl", outcome.metrics.ppo_kl, expected.ppo_kl);
            match (outcome.metrics.rollout_kl, expected.vllm_kl) {
                (Some(actual), Some(expected)) => near("rollout_kl", actual, expected),
                (actual, expected) => assert_eq!(actual, expected, "{what}: rollout_kl"),
            }
            assert_outcome(&what, dtype, &outcome, &case.answer());
            let Some(gradient) = &outcome.gradient else {
                continue;
            };
            let squares: f64 = gradient.iter().map(|g| g * g).sum();
            near("grad_l2", squares.sqrt(), expected.grad_l2);
            near("grad_sum", gradient.iter().sum(), expected.grad_sum);
            let largest = gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
            near("grad_abs_max", largest, expected.grad_abs_max);
            let nonzero = gradient.iter().filter(|g| **g != 0.0).count();
            assert_eq!(nonzero, expected.grad_nonzero, "{what}: grad_nonzero");
        }
    }
}

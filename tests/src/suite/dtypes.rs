//! Inputs of every type, also mixed, and what comes back in which type.

use burn::tensor::DType;

use crate::busy::busy;
use crate::compare::{Tolerance, assert_all_near, assert_metrics, assert_near, assert_outcome};
use crate::configs::describe;
use crate::runner::Runner;

/// Every pair of types, `log_probs` in one and all other inputs in the other: the arithmetic is
/// f64 where `log_probs` are, else f32, whatever the rest is.
pub fn mixed(runner: &Runner) {
    let dtypes = [runner.exact_dtypes(), runner.half_dtypes()].concat();
    for log_probs in &dtypes {
        for others in &dtypes {
            for config in runner.some_configs() {
                let case = busy(1).with_config(config);
                let config = describe(&config);
                let what = format!("{runner}, {log_probs:?} among {others:?}, {config}");
                let outcome = runner.outcome_mixed(&case, *log_probs, *others);
                let arithmetic = match log_probs {
                    DType::F64 => DType::F64,
                    _ => DType::F32,
                };
                assert_eq!(outcome.dtype, arithmetic, "{what}: the type of the loss");
                let rounded = case.rounded(*log_probs, *others);
                assert_outcome(&what, *log_probs, &outcome, &rounded.answer());
            }
        }
    }
}

/// f16 and bf16 against f32 on the same rounded inputs: the loss and the metrics are those of
/// f32, the gradient is one rounding away.
pub fn half_against_single(runner: &Runner) {
    for dtype in runner.half_dtypes() {
        for config in runner.some_configs() {
            let case = busy(1).with_config(config).rounded(dtype, dtype);
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let half = runner.outcome(&case, dtype);
            let single = runner.outcome(&case, DType::F32);
            let tolerance = Tolerance::value(DType::F32);
            assert_near(tolerance, &format!("{what}: loss"), half.loss, single.loss);
            let metrics = crate::oracle::Metrics(single.metrics.named());
            assert_metrics(tolerance, &what, &half.metrics, &metrics);
            if let (Some(half), Some(single)) = (half.gradient, single.gradient) {
                let tolerance = Tolerance::gradient(dtype);
                assert_all_near(tolerance, &format!("{what}: gradient"), &half, &single);
            }
        }
    }
}

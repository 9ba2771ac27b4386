//! The gradient as the slope between two neighbours.

use super::properties::for_all;
use crate::compare::Tolerance;
use crate::configs::stops_gradients;
use crate::runner::Runner;
use burn::tensor::DType;

/// In f64, away from kinks, the gradient is the slope between two neighbours. Only under autodiff.
pub fn gradient_is_the_slope(runner: &Runner) {
    const STEP: f64 = 1e-5;
    if !runner.exact_dtypes().contains(&DType::F64) {
        return;
    }
    for_all(runner, 24, |case| {
        // Where a formula stops the gradient, the slope is another thing; the oracle's own test
        // compares the gradient with the slope that is declared there.
        if stops_gradients(&case.config)
            || case.log_probs.len() > 16
            || case.answer().margin < 10.0 * STEP
        {
            return;
        }
        let gradient = runner.outcome(&case, DType::F64).gradient;
        let gradient = gradient.expect("the mode tracks");
        for i in (0..case.log_probs.len()).filter(|i| case.is_valid(*i)) {
            let loss_at = |offset: f64| {
                let mut case = case.clone();
                case.log_probs[i] += offset;
                runner.outcome(&case, DType::F64).loss
            };
            let slope = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
            // Ratios reach e^20, and with them the roundings of the loss.
            let size = case
                .answer()
                .token_losses
                .iter()
                .fold(1.0, |a: f64, l| a.max(l.abs()));
            let tolerance = Tolerance {
                relative: 1e-6,
                absolute: 1e-8 * size,
            };
            let near = tolerance.accepts(gradient[i], slope);
            assert!(near, "gradient[{i}] is {}, the slope {slope}", gradient[i]);
        }
    });
}

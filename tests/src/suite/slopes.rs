//! The gradient as the slope between two neighbours.

use burn::tensor::DType;
use policy_loss::{Behavior, RatioLevel, Surrogate};

use super::properties::for_all;
use crate::case::Case;
use crate::compare::Tolerance;
use crate::runner::Runner;

/// In f64, away from kinks, the gradient is the slope between two neighbours. Only under autodiff.
pub fn gradient_is_the_slope(runner: &Runner) {
    const STEP: f64 = 1e-5;
    if !runner.exact_dtypes().contains(&DType::F64) {
        return;
    }
    for_all(runner, 24, |case| {
        if case.log_probs.len() > 16 || distance_to_kink(&case) < 10.0 * STEP {
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

/// How far the nearest ratio or weight lies from where a branch changes, in units of its log.
pub(super) fn distance_to_kink(case: &Case) -> f64 {
    let config = &case.config;
    let Surrogate::Clip(clip) = config.surrogate;
    let rollout = case.rollout_log_probs.as_ref().expect("given");
    let base = match config.ratio.against {
        Behavior::Old => &case.old_log_probs,
        Behavior::Rollout => rollout,
    };
    let mut kinks = vec![20.0, -20.0, (1.0 - clip.low).ln(), (1.0 + clip.high).ln()];
    kinks.extend(clip.dual_clip.map(f64::ln));
    // The thresholds of `configs`; weights are constants, but a rounding may move them across.
    let thresholds = [0.5f64.ln(), 2f64.ln()];
    let mut nearest = f64::INFINITY;
    let mut meet = |value: f64, kinks: &[f64]| {
        for kink in kinks {
            nearest = nearest.min((value - kink).abs());
        }
    };
    for row in 0..case.sequences {
        let valid = (row * case.tokens..(row + 1) * case.tokens).filter(|i| case.is_valid(*i));
        let log_ratios: Vec<f64> = valid.clone().map(|i| case.log_probs[i] - base[i]).collect();
        let gaps: Vec<f64> = valid.map(|i| case.old_log_probs[i] - rollout[i]).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        match config.ratio.level {
            RatioLevel::Token => log_ratios.iter().for_each(|d| meet(*d, &kinks)),
            RatioLevel::Sequence if log_ratios.is_empty() => {}
            RatioLevel::Sequence => meet(mean(&log_ratios), &kinks),
        }
        if config.rollout_correction.is_some() && !gaps.is_empty() {
            gaps.iter().for_each(|gap| meet(*gap, &thresholds));
            meet(mean(&gaps), &thresholds);
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use crate::configs;

    #[test]
    fn thresholds_are_those_of_the_configurations() {
        let text: Vec<String> = configs::all().iter().map(configs::describe).collect();
        let corrected = text
            .iter()
            .filter(|text| text.contains("rollout_correction"));
        for text in corrected {
            assert!(text.contains(r#""low":0.5,"high":2.0"#), "{text}");
        }
    }
}

//! Exactly at a bound, where comparisons of floating-point numbers go wrong.

use policy_loss::{
    Bounds, Clip, CovariancePenalty, Filter, FilterEstimator, FilterLevel, OffPolicyMask,
    PolicyGradient, PolicyLossConfig, RolloutCorrection, presets,
};

use crate::case::{Case, HostAdvantages};
use crate::compare::{Tolerance, assert_agrees_with_oracle, assert_all_near, assert_near};
use crate::row::Row;
use crate::runner::Runner;

const THIRD: f64 = 1.0 / 3.0;

/// Where the clipped and the unclipped branch meet, the unclipped one is taken.
pub fn ties(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for (log_ratio, advantage) in [(0.18, 1.0), (-0.18, -1.0)] {
            // The bound is put where the device's own `exp` lands.
            let mut case = Case::new("a tie", [1, 3]);
            case.log_probs = vec![log_ratio; 3];
            case.advantages = HostAdvantages::Token(vec![advantage; 3]);
            let ratio = runner.outcome(&case, dtype).metrics.ratio_max;
            case.config = match ratio > 1.0 {
                true => case.config.with_surrogate(Clip::new(0.5, ratio - 1.0)),
                false => case.config.with_surrogate(Clip::new(1.0 - ratio, 0.5)),
            };
            let what = format!("{runner}, {dtype:?}, r = {ratio}");
            let outcome = runner.outcome(&case, dtype);
            assert_eq!(outcome.metrics.clip_ratio, 0.0, "{what}: clip_ratio");
            if let Some(gradient) = outcome.gradient {
                let expected = [-ratio * advantage / 3.0; 3];
                assert_all_near(Tolerance::gradient(dtype), &what, &gradient, &expected);
            }
        }
    }
    // A range so narrow that both of its bounds are 1.
    let narrow = PolicyLossConfig::new().with_surrogate(Clip::new(1e-20, 1e-20));
    Row::new("r = 1 is both bounds", &[0.0; 3])
        .config(narrow)
        .loss(-1.0)
        .gradient(&[-THIRD; 3])
        .metric("clip_ratio", 0.0)
        .check(runner);
    Row::new("r = 1 is both bounds, A < 0", &[0.0; 3])
        .config(narrow)
        .advantage(-1.0)
        .gradient(&[THIRD; 3])
        .check(runner);
}

/// A weight, or a geometric mean, exactly at a threshold is kept.
pub fn thresholds(runner: &Runner) {
    let mask = |low, high| presets::icepop(low, high);
    for gap in [0.3, -0.3, 0.0] {
        for dtype in runner.exact_dtypes() {
            // The threshold is put where the device's own `exp` lands.
            let row = |low, high| {
                Row::new("a weight at its threshold", &[0.0]).gaps(&[gap], mask(low, high))
            };
            let wide = runner.outcome(&row(1e-3, 1e3).case, dtype).metrics;
            let weight = wide.weight_mean.expect("there is a correction");
            let [above, below] = [weight * (1.0 + 1e-6), weight * (1.0 - 1e-6)];
            for (low, high, kept) in [
                (weight, weight, weight),
                (weight, 1e3, weight),
                (1e-3, weight, weight),
                (above, 1e3, 0.0),
                (1e-3, below, 0.0),
            ] {
                let outcome = runner.outcome(&row(low, high).case, dtype);
                let what = format!("{runner}, {dtype:?}, {weight} in [{low}, {high}]");
                assert_eq!(outcome.metrics.weight_mean, Some(kept), "{what}");
                assert_near(Tolerance::value(dtype), &what, outcome.loss, -kept);
            }
        }
    }
    // A geometric mean of exactly 1: the gaps of the row cancel without a rounding.
    for (low, high, kept) in [
        (1.0, 1.0, true),
        (1.0, 2.0, true),
        (0.5, 1.0, true),
        (1.0 + 1e-6, 2.0, false),
        (0.5, 1.0 - 1e-6, false),
    ] {
        let correction = presets::seq_mask_tis(low, high);
        Row::new(&format!("1 in [{low}, {high}]"), &[0.0; 3])
            .gaps(&[0.25, -0.25, 0.0], correction)
            .metric("weight_zeroed", if kept { 0.0 } else { 1.0 })
            .check(runner);
    }
}

/// A mean that is exactly the off-policy mask's bound is kept.
pub fn off_policy_masks(runner: &Runner) {
    // A GPU need not divide exactly, but by a power of two it does.
    let tokens = if runner.is_slow() { 64 } else { 91 };
    let config = PolicyLossConfig::new()
        .with_surrogate(PolicyGradient::new())
        .with_off_policy_mask(OffPolicyMask::new(3.0));
    let mut case = Case::new("the mean is delta", [1, tokens]).with_config(config);
    case.log_probs = vec![-4.0; tokens];
    case.old_log_probs = vec![-1.0; tokens];
    case.advantages = HostAdvantages::Token(vec![-1.0; tokens]);
    for dtype in runner.exact_dtypes() {
        let outcome = runner.outcome(&case, dtype);
        let what = format!("{runner}, {dtype:?}");
        assert_eq!(outcome.metrics.off_policy_dropped, Some(0.0), "{what}");
        assert!(
            (outcome.loss + 4.0).abs() < 1e-5,
            "{what}: {}",
            outcome.loss
        );
    }
}

/// The largest estimate of a sequence may be that of its smallest gap, below 0.
pub fn largest_of_either_sign(runner: &Runner) {
    for estimator in [FilterEstimator::K2, FilterEstimator::K3] {
        // Of ±2 the estimates are above 1, of ±0.1 below 0.01.
        let filter = Filter::new(FilterLevel::SequenceMax, estimator, Bounds::at_most(0.5));
        let correction = RolloutCorrection::filter(filter);
        for (gaps, zeroed) in [([-2.0, 0.1], 1.0), ([2.0, -0.1], 1.0), ([-0.1, 0.1], 0.0)] {
            let mut case = Case::new(format!("{estimator:?}, {gaps:?}"), [1, 2])
                .with_config(PolicyLossConfig::new().with_rollout_correction(correction));
            case.rollout_log_probs = Some(gaps.map(|gap| -gap).to_vec());
            for dtype in runner.exact_dtypes() {
                let outcome = runner.outcome(&case, dtype);
                let what = format!("{runner}, {dtype:?}, {}", case.name);
                assert_eq!(outcome.metrics.weight_zeroed, Some(zeroed), "{what}");
                assert_eq!(outcome.loss, zeroed - 1.0, "{what}");
            }
        }
    }
}

/// A share that is a whole number of tokens loses none of them to a rounding.
pub fn whole_shares(runner: &Runner) {
    let config = PolicyLossConfig::new().with_surrogate(CovariancePenalty {
        share: 0.5,
        coefficient: 0.7,
    });
    if !runner.covers(&config) {
        return;
    }
    let mut case = Case::new("half of four", [1, 4]).with_config(config);
    case.log_probs = vec![-1.0, -2.0, -3.0, -4.0];
    case.old_log_probs = vec![-1.3, -1.6, -3.2, -3.9];
    case.advantages = HostAdvantages::Token(vec![2.0, 1.0, -1.0, -2.5]);
    assert_agrees_with_oracle(runner, &case);
}

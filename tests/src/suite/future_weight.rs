//! The weight of a token by what becomes of those behind it.

use policy_loss::{
    Bounds, Clip, FutureGuard, FutureWeight, KlPenalty, PolicyGradient, PolicyLossConfig,
};

use crate::case::HostAdvantages;
use crate::row::Row;
use crate::runner::Runner;

/// A policy gradient whose log-probs are log-ratios, so that weights are told apart.
fn weighted(weight: FutureWeight) -> PolicyLossConfig {
    PolicyLossConfig::new()
        .with_surrogate(PolicyGradient::new())
        .with_future_weight(weight)
}

/// Positions count, masked ones too; a masked token adds nothing.
pub fn positions(runner: &Runner) {
    let half = FutureWeight::new(0.5);
    // 0.1 + 0.2 / 4, then 0.2.
    let weights = [0.15_f64.exp(), 0.2_f64.exp()];
    Row::new("a hole", &[0.1, f64::NAN, 0.2, 9.0])
        .config(weighted(half))
        .mask(&[true, false, true, false])
        .gradient(&[-weights[0] / 2.0, 0.0, -weights[1] / 2.0, 0.0])
        .loss(-(weights[0] * 0.1 + weights[1] * 0.2) / 2.0)
        .check(runner);
    // With a discount of 0 each token is its own ratio.
    let own = 0.3_f64.exp();
    Row::new("nothing behind", &[0.3, -9.0])
        .config(weighted(FutureWeight::new(0.0)))
        .gradient(&[-own / 2.0, -(-9.0_f64).exp() / 2.0])
        .check(runner);
    // What is far enough is limited.
    Row::new("far", &[15.0, 15.0])
        .config(weighted(FutureWeight::new(1.0)))
        .gradient(&[-20.0_f64.exp() / 2.0, -15.0_f64.exp() / 2.0])
        .check(runner);
}

/// Bounds, those of a guard, and tokens whose ratio is too large to count.
pub fn bounds(runner: &Runner) {
    let sum = FutureWeight::new(1.0);
    let bounded = sum.with_bounds(Bounds::new(0.9, 1.2));
    Row::new("bounds", &[0.5, -0.5, -0.5])
        .config(weighted(bounded))
        .gradient(&[-0.9 / 3.0, -0.9 / 3.0, -0.9 / 3.0])
        .check(runner);
    Row::new("the other bound", &[0.5, 0.1])
        .config(weighted(bounded))
        .gradient(&[-1.2 / 2.0, -0.1_f64.exp() / 2.0])
        .check(runner);
    let guard = FutureGuard {
        ratio: 1.5,
        bounds: Bounds::new(0.8, 1.0),
    };
    let ratio = 0.5_f64.exp();
    // Only the second is bad and much more likely.
    Row::new("a guard", &[0.5, 0.5, 0.3])
        .config(weighted(FutureWeight::new(0.0).with_guard(guard)))
        .advantages(HostAdvantages::Token(vec![1.0, -1.0, -1.0]))
        .gradient(&[-ratio / 3.0, 1.0 / 3.0, 0.3_f64.exp() / 3.0])
        .check(runner);
    Row::new("too large to count", &[0.1, 0.7, 0.2])
        .config(weighted(sum.with_max_ratio(2.0)))
        .gradient(&[0.3_f64, 0.2, 0.2].map(|sum| -sum.exp() / 3.0))
        .check(runner);
}

/// A clipped token is weighed, and a penalty is not.
pub fn what_is_weighed(runner: &Runner) {
    let config = PolicyLossConfig::new()
        .with_surrogate(Clip::new(0.2, 0.2))
        .with_future_weight(FutureWeight::new(0.0).with_bounds(Bounds::at_most(1.5)))
        .with_kl_penalty(KlPenalty::new(1.0));
    let mut row = Row::new("a penalty", &[0.6]).config(config);
    row.case.ref_log_probs = Some(vec![-0.4]);
    let kl = (-1.0_f64).exp_m1() + 1.0;
    row.loss(-1.2 * 1.5 + kl)
        .gradient(&[1.0 - (-1.0_f64).exp()])
        .metric("clip_ratio", 1.0)
        .check(runner);
}

//! The ratio of a token and its clips, by hand.

use policy_loss::{Clip, Divergence, PolicyLossConfig, TrustRegion};

use crate::case::{Case, HostAdvantages};
use crate::compare::bits;
use crate::row::Row;
use crate::runner::Runner;

const THIRD: f64 = 1.0 / 3.0;

fn clip(low: f64, high: f64) -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(Clip::new(low, high))
}

fn dual_clip() -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(Clip::new(0.2, 0.2).with_dual_clip(3.0))
}

/// Above and below the bounds, for advantages of either sign and of 0.
pub fn clipping(runner: &Runner) {
    Row::new("on policy", &[0.0; 3])
        .loss(-1.0)
        .gradient(&[-THIRD; 3])
        .metric("clip_ratio", 0.0)
        .metric("ppo_kl", 0.0)
        .check(runner);
    Row::new("r > 1.2 with A > 0", &[0.5, 0.0, 0.0])
        .loss(-3.2 / 3.0)
        .gradient(&[0.0, -THIRD, -THIRD])
        .metric("clip_ratio", THIRD)
        .metric("clipped_above", THIRD)
        .metric("clipped_below", 0.0)
        .check(runner);
    Row::new("r < 0.8 with A < 0", &[-0.5, 0.0, 0.0])
        .advantage(-1.0)
        .loss(0.93333)
        .gradient(&[0.0, THIRD, THIRD])
        .metric("clip_ratio", THIRD)
        .metric("clipped_above", 0.0)
        .metric("clipped_below", THIRD)
        .check(runner);
    let up = 0.5f64.exp();
    Row::new("r > 1.2 with A < 0", &[0.5, 0.0, 0.0])
        .advantage(-1.0)
        .loss((up + 2.0) / 3.0)
        .gradient(&[up / 3.0, THIRD, THIRD])
        .metric("clip_ratio", 0.0)
        .check(runner);
    let down = (-0.5f64).exp();
    Row::new("r < 0.8 with A > 0", &[-0.5, 0.0, 0.0])
        .loss(-(down + 2.0) / 3.0)
        .gradient(&[-down / 3.0, -THIRD, -THIRD])
        .metric("clip_ratio", 0.0)
        .check(runner);
    Row::new("around the upper bound", &[0.24, 0.26, 0.0])
        .config(clip(0.2, 0.28))
        .loss(-1.18375)
        .gradient(&[-0.42375, 0.0, -THIRD])
        .metric("clip_ratio", THIRD)
        .check(runner);
    Row::new("A = 0", &[0.5, -0.5, 100.0])
        .advantage(0.0)
        .loss(0.0)
        .gradient(&[0.0; 3])
        .metric("clip_ratio", 0.0)
        .check(runner);
}

/// One advantage for each sequence, in both forms, is the same one for each of its tokens.
pub fn advantages_per_sequence(runner: &Runner) {
    let mut case = Case::new("advantages per sequence", [2, 3]);
    case.log_probs = vec![0.5, 0.1, -0.1, -0.5, 0.0, 0.3];
    case.action_mask = Some(vec![true, true, false, true, true, true]);
    let cases = [
        HostAdvantages::Token(vec![2.0, 2.0, 2.0, -1.0, -1.0, -1.0]),
        HostAdvantages::Column(vec![2.0, -1.0]),
        HostAdvantages::Sequence(vec![2.0, -1.0]),
    ]
    .map(|advantages| Row::of(case.clone()).advantages(advantages));
    cases.iter().for_each(|row| row.check(runner));
    for dtype in runner.exact_dtypes() {
        let [broadcast, others @ ..] = cases
            .each_ref()
            .map(|row| bits(&runner.outcome(&row.case, dtype)));
        for other in others {
            assert_eq!(broadcast, other, "{runner}, {dtype:?}");
        }
    }
}

/// The smallest batches, and the empty ones.
pub fn small_and_empty_batches(runner: &Runner) {
    Row::new("B = T = 1", &[0.1])
        .loss(-(0.1f64.exp()))
        .gradient(&[-(0.1f64.exp())])
        .check(runner);
    let mut column = Case::new("T = 1", [3, 1]);
    column.log_probs = vec![0.1, 0.5, -0.1];
    column.action_mask = Some(vec![true, true, false]);
    let ratio = 0.1f64.exp();
    for advantages in [HostAdvantages::Token, HostAdvantages::Sequence] {
        Row::of(column.clone())
            .advantages(advantages(vec![1.0, 2.0, -1.0]))
            .loss(-(ratio + 2.4) / 2.0)
            .gradient(&[-ratio / 2.0, 0.0, 0.0])
            .check(runner);
    }
    let configs = runner.some_configs();
    for shape in [[0, 3], [3, 0], [0, 0]] {
        for config in &configs {
            let name = format!("{shape:?}, {}", crate::configs::describe(config));
            let mut case = Case::new(name, shape).with_config(*config);
            case.rollout_log_probs = Some(Vec::new());
            case.ref_log_probs = Some(Vec::new());
            case.entropies = Some(Vec::new());
            Row::of(case.clone()).loss(0.0).check(runner);
            case.action_mask = Some(Vec::new());
            case.advantages = HostAdvantages::Sequence(vec![1.0; shape[0]]);
            Row::of(case).loss(0.0).check(runner);
        }
    }
}

/// The dual clip is for negative advantages alone.
pub fn dual_clipping(runner: &Runner) {
    let log_5 = 5f64.ln();
    Row::new("r > 3 with A < 0", &[log_5, 0.0, 0.0])
        .config(dual_clip())
        .advantage(-1.0)
        .loss(1.66667)
        .gradient(&[0.0, THIRD, THIRD])
        .metric("clip_ratio", 0.0)
        .metric("dual_clipped", THIRD)
        .check(runner);
    for advantage in [1.0, 0.0] {
        let row = |config| {
            Row::new("a dual clip without effect", &[log_5, -log_5, 0.1])
                .advantage(advantage)
                .config(config)
        };
        row(dual_clip()).metric("dual_clipped", 0.0).check(runner);
        for dtype in runner.exact_dtypes() {
            let [dual, single] = [dual_clip(), clip(0.2, 0.2)]
                .map(|config| bits(&runner.outcome(&row(config).case, dtype)));
            assert_eq!(dual, single, "{runner}, {dtype:?}, A = {advantage}");
        }
    }
}

/// Ratios that no floating-point number holds are clamped; what is not clamped says so.
pub fn extreme_ratios(runner: &Runner) {
    Row::new("d = 100 with A > 0", &[100.0, 0.0, 0.0])
        .loss(-1.06667)
        .gradient(&[0.0, -THIRD, -THIRD])
        .metric("ppo_kl", -33.3333)
        .metric("ratio_max", 20f64.exp())
        .check(runner);
    Row::new("d = 100 with A < 0", &[100.0, 0.0, 0.0])
        .advantage(-1.0)
        .loss(1.61722e8)
        .gradient(&[0.0, THIRD, THIRD])
        .metric("non_finite", 0.0)
        .check(runner);
    Row::new("d = -100 with A < 0", &[-100.0, 0.0, 0.0])
        .advantage(-1.0)
        .loss(0.93333)
        .gradient(&[0.0, THIRD, THIRD])
        .check(runner);
    Row::new("estimates of d = 100", &[100.0, 0.0, 0.0])
        .metric("ppo_kl", -33.3333)
        .metric("kl_k1", -33.3333)
        .metric("kl_k2", 1666.667)
        .check(runner);
    Row::new("d = -100 with A > 0", &[-100.0, 0.0, 0.0])
        .gradient(&[0.0, -THIRD, -THIRD])
        .metric("ratio_min", (-20f64).exp())
        .check(runner);
}

/// A token that was certain and is so no more: how far it has moved is a finite number.
pub fn of_certain_tokens(runner: &Runner) {
    let check = |name: &str, low: f64, clipped: f64| {
        let region = TrustRegion::new(Divergence::Kl, low, 0.1);
        // The probability falls from 1 to 0.7: D = -ln 0.7 = 0.3567.
        Row::new(name, &[0.7_f64.ln(), 0.0, 0.0])
            .advantage(-1.0)
            .config(PolicyLossConfig::new().with_surrogate(region))
            .gradient(&[0.7 * (1.0 - clipped) / 3.0, THIRD, THIRD])
            .metric("clipped_below", clipped / 3.0)
            .check(runner);
    };
    check("within a trust region", 0.36, 0.0);
    check("beyond a trust region", 0.35, 1.0);
}

//! Rows E1 to G5 of the table of edge cases: ties, masks, and the ratio of a sequence.

use policy_loss::{
    Clip, OpenRlhfPolicyLoss, PolicyLossConfig, Ratio, Reduction, RolloutCorrection,
};

use crate::case::{Case, HostAdvantages};
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::configs::describe;
use crate::row::Row;
use crate::runner::Runner;

const THIRD: f64 = 1.0 / 3.0;

fn gspo() -> PolicyLossConfig {
    PolicyLossConfig::new()
        .with_ratio(Ratio::SEQUENCE)
        .with_reduction(Reduction::SequenceMean)
}

/// E1: where the clipped and the unclipped branch meet, the unclipped one is taken.
pub fn ties(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for (log_ratio, advantage) in [(0.18, 1.0), (-0.18, -1.0)] {
            // The bound is put where the device's own `exp` lands.
            let mut case = Case::new("E1", [1, 3]);
            case.log_probs = vec![log_ratio; 3];
            case.advantages = HostAdvantages::Token(vec![advantage; 3]);
            let ratio = runner.outcome(&case, dtype).metrics.ratio_max;
            case.config = match ratio > 1.0 {
                true => case.config.with_surrogate(Clip::new(0.5, ratio - 1.0)),
                false => case.config.with_surrogate(Clip::new(1.0 - ratio, 0.5)),
            };
            let what = format!("{runner}, {dtype:?}, E1, r = {ratio}");
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
    Row::new("E1, r = 1", &[0.0; 3])
        .config(narrow)
        .loss(-1.0)
        .gradient(&[-THIRD; 3])
        .metric("clip_ratio", 0.0)
        .check(runner);
    Row::new("E1, r = 1, A < 0", &[0.0; 3])
        .config(narrow)
        .advantage(-1.0)
        .gradient(&[THIRD; 3])
        .check(runner);
}

/// E2: a weight, or a geometric mean, exactly at a threshold is kept.
pub fn thresholds(runner: &Runner) {
    let mask = |low, high| RolloutCorrection::icepop(low, high);
    for gap in [0.3, -0.3, 0.0] {
        for dtype in runner.exact_dtypes() {
            // The threshold is put where the device's own `exp` lands.
            let row = |low, high| Row::new("E2", &[0.0]).gaps(&[gap], mask(low, high));
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
                let what = format!("{runner}, {dtype:?}, E2, {weight} in [{low}, {high}]");
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
        let correction = RolloutCorrection::seq_mask_tis(low, high);
        Row::new(&format!("E2, 1 in [{low}, {high}]"), &[0.0; 3])
            .gaps(&[0.25, -0.25, 0.0], correction)
            .metric("weight_zeroed", if kept { 0.0 } else { 1.0 })
            .check(runner);
    }
}

/// F1, F4: pure masking, nothing moves.
pub fn masks(runner: &Runner) {
    let mut case = Case::new("F1", [2, 3]);
    case.log_probs = vec![0.0, 0.0, 0.0, 0.5, 0.5, 0.5];
    case.action_mask = Some(vec![true, true, true, false, false, false]);
    for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
        case.config = PolicyLossConfig::new().with_reduction(reduction);
        Row::of(case.clone())
            .loss(-1.0)
            .gradient(&[-THIRD, -THIRD, -THIRD, 0.0, 0.0, 0.0])
            .metric("valid_tokens", 3.0)
            .metric("valid_sequences", 1.0)
            .check(runner);
    }
    let ratio = 0.1f64.exp();
    for config in [PolicyLossConfig::new(), gspo()] {
        Row::new("F4, a hole", &[0.1, 5.0, 0.1])
            .config(config)
            .mask(&[true, false, true])
            .loss(-ratio)
            .gradient(&[-ratio / 2.0, 0.0, -ratio / 2.0])
            .check(runner);
        Row::new("F4, leading zeros", &[5.0, 5.0, 0.1])
            .config(config)
            .mask(&[false, false, true])
            .loss(-ratio)
            .gradient(&[0.0, 0.0, -ratio])
            .check(runner);
    }
}

/// F2: without a valid token, everything is 0, with and without totals.
pub fn nothing_valid(runner: &Runner) {
    let totals = policy_loss::GlobalTotals::new()
        .with_tokens(7)
        .with_sequences(3)
        .with_world_size(2);
    for config in runner.configs() {
        for totals in [None, Some(totals)] {
            let name = format!("F2, {totals:?}, {}", describe(&config));
            let mut case = crate::busy::busy(0).with_config(config);
            case.name = name;
            case.action_mask = Some(vec![false; 24]);
            case.totals = totals;
            for dtype in runner.exact_dtypes() {
                let outcome = runner.outcome(&case, dtype);
                let what = format!("{runner}, {dtype:?}, {}", case.name);
                assert_eq!(outcome.loss, 0.0, "{what}: loss");
                for (name, value) in outcome.metrics.named() {
                    assert_eq!(value.unwrap_or(0.0), 0.0, "{what}: {name}");
                }
                for gradient in outcome.gradient.iter().flatten() {
                    assert_eq!(*gradient, 0.0, "{what}: gradient");
                }
            }
        }
    }
}

/// F3: without a mask, every token is valid, in every mode.
pub fn no_mask(runner: &Runner) {
    for config in runner.configs() {
        let mut case = crate::busy::busy(1).with_config(config);
        case.name = format!("F3, {}", describe(&config));
        case.action_mask = Some(vec![true; 24]);
        for dtype in runner.exact_dtypes() {
            let masked = runner.outcome(&case, dtype);
            let absent = runner.outcome(
                &Case {
                    action_mask: None,
                    ..case.clone()
                },
                dtype,
            );
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            assert_eq!(
                crate::compare::bits(&masked),
                crate::compare::bits(&absent),
                "{what}"
            );
            assert_eq!(absent.metrics.valid_tokens, 24.0, "{what}");
        }
    }
}

/// G1, G2, G5.
pub fn sequence_ratio(runner: &Runner) {
    Row::new("G1", &[0.0, 0.1, 0.0])
        .config(gspo())
        .loss(-1.0339)
        .gradient(&[-0.34463; 3])
        .check(runner);
    for advantage in [1.0, -1.0] {
        let name = format!("G2, A = {advantage}");
        Row::new(&name, &[200.0, 300.0, 100.0])
            .config(gspo())
            .advantage(advantage)
            .loss(match advantage > 0.0 {
                true => -1.2,
                false => 20f64.exp(),
            })
            .gradient(&[0.0; 3])
            .metric("ppo_kl", -200.0)
            .check(runner);
    }
    let clip = Clip::new(0.2, 0.2).with_dual_clip(3.0);
    let ratio = 2f64.exp();
    Row::new("G5", &[2.0; 3])
        .config(gspo().with_surrogate(clip))
        .advantages(HostAdvantages::Token(vec![1.0, -1.0, 0.0]))
        .loss((-1.2 + 3.0) / 3.0)
        .gradient(&[0.0; 3])
        .metric("clip_ratio", THIRD)
        .metric("dual_clipped", THIRD)
        .metric("ratio_mean", ratio)
        .check(runner);
    let ratio = 0.1f64.exp();
    Row::new("G5, inside the range", &[0.2, 0.1, 0.0])
        .config(gspo().with_surrogate(clip))
        .advantages(HostAdvantages::Token(vec![2.0, -1.0, 0.5]))
        .loss(-1.5 * ratio / 3.0)
        .gradient(&[-1.5 * ratio / 9.0; 3])
        .check(runner);
}

/// G3: with the correction, the ratio is taken against the rollout policy, and nothing else.
pub fn sequence_ratio_against_rollout(runner: &Runner) {
    let arguments = OpenRlhfPolicyLoss {
        policy_loss_type: "gspo".into(),
        enable_vllm_is_correction: true,
        vllm_is_truncated_threshold: Some([0.99, 1.01]),
        ..OpenRlhfPolicyLoss::default()
    };
    let config = PolicyLossConfig::try_from(arguments).expect("it has a meaning");
    let ratio = 0.1f64.exp();
    let mut case = Row::new("G3", &[0.3, 0.3, 0.3]).config(config).case;
    case.rollout_log_probs = Some(vec![0.2; 3]);
    for dtype in runner.exact_dtypes() {
        let metrics = runner.outcome(&case, dtype).metrics;
        assert_eq!(metrics.rollout_kl, None, "{runner}, {dtype:?}, G3");
        assert_eq!(metrics.weight_mean, None, "{runner}, {dtype:?}, G3");
    }
    Row::of(case)
        .loss(-ratio)
        .gradient(&[-ratio / 3.0; 3])
        .metric("ppo_kl", -0.3)
        .check(runner);
}

/// G4: the negative advantages of padding are not counted as clipped.
pub fn sequence_ratio_with_padding(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        let row = |advantage: f64| {
            let mut row = Row::new("G4", &[-2.0, -2.0, 0.0]).config(gspo());
            row.case.advantages = HostAdvantages::Token(vec![1.0, 1.0, advantage]);
            row.mask(&[true, true, false]).metric("clip_ratio", 0.0)
        };
        row(-1.0).check(runner);
        assert_eq!(
            crate::compare::bits(&runner.outcome(&row(-1.0).case, dtype)),
            crate::compare::bits(&runner.outcome(&row(0.0).case, dtype)),
            "{runner}, {dtype:?}, G4"
        );
    }
}

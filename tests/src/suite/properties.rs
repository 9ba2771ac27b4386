//! What holds for every batch, tried on random ones.

use policy_loss::Surrogate;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::garbage::polluted;
use super::shards::rows_of;
use crate::case::{COLUMNS, Case, HostAdvantages};
use crate::compare::{Tolerance, assert_agrees_with_oracle, assert_all_near, assert_metrics, bits};
use crate::runner::Runner;
use policy_loss_oracle::Metrics;

/// Few, so that every shape is tried often.
const SHAPES: [[usize; 2]; 5] = [[1, 1], [1, 7], [3, 1], [3, 5], [4, 16]];

/// Tries `property` on random cases, the same ones each time; on a slow device on a few, of one
/// shape and two configurations, because every new one is compiled for.
fn for_all(runner: &Runner, count: u32, property: impl Fn(Case)) {
    let (count, shapes, configs) = match runner.is_slow() {
        true => (count / 8, &SHAPES[3..4], runner.some_configs()),
        false => (count, &SHAPES[..], runner.configs()),
    };
    let config = Config {
        cases: count,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..Config::default()
    };
    let strategy = case(shapes, configs.len());
    let result = TestRunner::new(config).run(&strategy, |(mut case, config)| {
        case.config = configs[config];
        property(case);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{runner}: {error}");
    }
}

/// A batch, and the index of a configuration.
fn case(shapes: &'static [[usize; 2]], configs: usize) -> impl Strategy<Value = (Case, usize)> {
    let shape = proptest::sample::select(shapes);
    let batch = shape.prop_flat_map(|shape| {
        let length = shape[0] * shape[1];
        let vec = |range: std::ops::Range<f64>| prop::collection::vec(range, length);
        let advantages = prop_oneof![
            4 => vec(-2.0..2.0).prop_map(HostAdvantages::Token),
            1 => prop::collection::vec(-2.0..2.0, shape[0]).prop_map(HostAdvantages::Sequence),
            1 => prop::collection::vec(-2.0..2.0, shape[0]).prop_map(HostAdvantages::Column),
        ];
        let log_ratio = prop_oneof![6 => -0.5..0.5, 2 => -2.0..2.0, 1 => -30.0..30.0];
        (
            vec(-4.0..0.0),
            prop::collection::vec(log_ratio, length),
            vec(-1.0..1.0),
            (vec(-0.8..0.8), vec(0.0..3.0)),
            advantages,
            prop::option::weighted(0.9, prop::collection::vec(any::<bool>(), length)),
        )
            .prop_map(
                move |(old, log_ratios, gaps, (moves, entropies), advantages, mask)| Case {
                    log_probs: old
                        .iter()
                        .zip(&log_ratios)
                        .map(|(old, d)| old + d)
                        .collect(),
                    // Near `log_probs`: where k3 is huge, its product with a ratio has a gradient
                    // in which all digits cancel.
                    ref_log_probs: Some(
                        std::iter::zip(old.iter().zip(&log_ratios), moves)
                            .map(|((old, d), moved)| old + d + moved)
                            .collect(),
                    ),
                    entropies: Some(entropies),
                    rollout_log_probs: Some(old.iter().zip(gaps).map(|(old, d)| old - d).collect()),
                    old_log_probs: old,
                    advantages,
                    action_mask: mask,
                    ..Case::new("random", shape)
                },
            )
    });
    (batch, 0..configs)
}

/// Loss, metrics, token losses and gradient are those of the oracle.
pub fn agrees_with_the_oracle(runner: &Runner) {
    for_all(runner, 48, |case| {
        if case.answer().margin > 1e-5 {
            assert_agrees_with_oracle(runner, &case);
        }
    });
}

/// Whatever stands at masked positions changes no bit.
pub fn masked_content_changes_nothing(runner: &Runner) {
    let garbage = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e30,
        -1e30,
        0.0,
        7.0,
    ];
    for_all(runner, 48, |case| {
        let other = polluted(&case, &COLUMNS, &garbage);
        for dtype in runner.exact_dtypes() {
            let (one, two) = (runner.outcome(&case, dtype), runner.outcome(&other, dtype));
            assert_eq!(bits(&one), bits(&two), "{dtype:?}");
        }
    });
}

/// Permuting the sequences permutes the gradient, and changes nothing else.
pub fn sequences_have_no_order(runner: &Runner) {
    for_all(runner, 32, |case| {
        // Its lot falls on positions, and sums that are taken in another order move a kink.
        if matches!(
            case.config.objective.surrogate,
            Surrogate::CovarianceClip(_)
        ) || case.answer().margin < 1e-5
        {
            return;
        }
        let order: Vec<usize> = (0..case.sequences).rev().collect();
        let reversed = rows_of(&case, &order);
        for dtype in runner.exact_dtypes() {
            let (one, two) = (
                runner.outcome(&case, dtype),
                runner.outcome(&reversed, dtype),
            );
            let tolerance = Tolerance::value(dtype);
            let metrics = Metrics(one.metrics.named());
            // Where large values cancel, the order of a sum shows.
            let size = case
                .answer()
                .token_losses
                .iter()
                .map(|l| l.abs())
                .sum::<f64>();
            let distance = (one.loss - two.loss).abs();
            assert!(
                distance <= tolerance.relative * size.max(0.1),
                "loss, {dtype:?}"
            );
            assert_metrics(tolerance, "reversed", &two.metrics, &metrics);
            if let (Some(one), Some(two)) = (one.gradient, two.gradient) {
                let one: Vec<f64> = one.chunks(case.tokens).rev().flatten().copied().collect();
                assert_all_near(Tolerance::gradient(dtype), "gradient", &two, &one);
            }
        }
    });
}

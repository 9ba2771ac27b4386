//! The edge cases of the contract, one row of three tokens unless said.

use pulp::Arch;

use crate::cpu::kernel::OutputKind;
use crate::{
    Clip, Correction, Objective, Range, RatioBase, RatioLevel, Reduction, Summary, Surrogate,
    WeightMode,
};

use super::{Data, TOKEN, levels, sequence_mask};

const SYMMETRIC: Objective = Objective {
    surrogate: Surrogate::Clip(Clip {
        low: 0.2,
        high: 0.2,
        dual: None,
    }),
    ..TOKEN
};

const DUAL: Objective = Objective {
    surrogate: Surrogate::Clip(Clip {
        dual: Some(3.0),
        low: 0.2,
        high: 0.2,
    }),
    ..SYMMETRIC
};

const SEQUENCE: Objective = Objective {
    ratio_level: RatioLevel::Sequence,
    reduction: Reduction::SequenceMean,
    ..SYMMETRIC
};

/// Runs log-ratios against 0 on every level.
fn run(objective: &Objective, log_ratios: [f64; 3], advantages: [f64; 3]) -> (Summary, Vec<f64>) {
    let data = Data::row(&log_ratios, &[0.0; 3], &[0.0; 3], &advantages);
    let first = data.run(Arch::Scalar, objective, OutputKind::Gradient);
    for arch in levels() {
        let (summary, gradient) = data.run(arch, objective, OutputKind::Gradient);
        assert!((summary.loss - first.0.loss).abs() <= 1e-12 * first.0.loss.abs());
        assert_eq!(summary.clipped_above, first.0.clipped_above);
        for (a, b) in gradient.iter().zip(&first.1) {
            assert!((a - b).abs() <= 1e-12 * b.abs());
        }
    }
    first
}

fn near(got: f64, want: f64) {
    assert!(
        (got - want).abs() <= 1e-5 * want.abs().max(1e-2),
        "{got} is not {want}"
    );
}

#[test]
fn clipping() {
    let third = 1.0 / 3.0;
    let (summary, gradient) = run(&SYMMETRIC, [0.0; 3], [1.0; 3]);
    near(summary.loss, -1.0);
    assert!(gradient.iter().all(|&value| (value + third).abs() < 1e-15));
    let (summary, gradient) = run(&SYMMETRIC, [0.5, 0.0, 0.0], [1.0; 3]);
    assert_eq!((summary.clipped_above, gradient[0]), (1.0, 0.0));
    let (summary, gradient) = run(&SYMMETRIC, [-0.5, 0.0, 0.0], [-1.0; 3]);
    near(summary.loss, 0.93333);
    assert_eq!((summary.clipped_below, gradient[0]), (1.0, 0.0));
    let (summary, _) = run(&SYMMETRIC, [0.5, -0.5, 0.0], [-1.0, 1.0, 1.0]);
    assert_eq!(summary.clipped_above + summary.clipped_below, 0.0);
    let (summary, gradient) = run(&TOKEN, [0.24, 0.26, 0.0], [1.0; 3]);
    near(summary.loss, -1.18375);
    near(gradient[0], -0.42375);
    assert_eq!(gradient[1], 0.0);
    let (summary, gradient) = run(&SYMMETRIC, [3.0, -3.0, 0.0], [0.0; 3]);
    assert_eq!((summary.loss, gradient), (0.0, vec![0.0; 3]));
}

#[test]
fn dual_clip() {
    let (summary, gradient) = run(&DUAL, [5.0_f64.ln(), 0.0, 0.0], [-1.0; 3]);
    near(summary.loss, 1.66667);
    assert_eq!((summary.dual_clipped, gradient[0]), (1.0, 0.0));
    assert_eq!(summary.clipped_above + summary.clipped_below, 0.0);
    let (summary, _) = run(&DUAL, [5.0_f64.ln(), 9.0, 0.0], [1.0, 0.0, 1.0]);
    assert_eq!(summary.dual_clipped, 0.0);
}

#[test]
fn extremes() {
    let (summary, gradient) = run(&SYMMETRIC, [100.0, 0.0, 0.0], [1.0; 3]);
    near(summary.loss, -1.06667);
    near(summary.negative_log_ratio / 3.0, -33.3333);
    assert_eq!(gradient[0], 0.0);
    let (summary, gradient) = run(&SYMMETRIC, [100.0, 0.0, 0.0], [-1.0; 3]);
    near(summary.loss, 1.61722e8);
    assert_eq!(gradient[0], 0.0);
    let (summary, gradient) = run(&SYMMETRIC, [-100.0, 0.0, 0.0], [-1.0; 3]);
    near(summary.loss, 0.93333);
    assert_eq!(gradient[0], 0.0);
}

#[test]
fn non_finite_inputs_are_not_hidden() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for arch in levels() {
            for objective in super::objectives() {
                for column in 0..4 {
                    let mut columns = [[0.1, -0.2, 0.05]; 4];
                    columns[column][1] = value;
                    let [log_probs, old, rollout, advantages] = &columns;
                    let data = Data::row(log_probs, old, rollout, advantages);
                    let (summary, _) = data.run(arch, &objective, OutputKind::Gradient);
                    let used = column != 2 || objective.uses_rollout();
                    let context = format!("{objective:?} {column} {value} {arch:?}");
                    assert_eq!(summary.non_finite, f64::from(u8::from(used)), "{context}");
                    // Against the rollout and without a weight, the old policy is only measured.
                    let enters_loss = column != 1
                        || objective.ratio_base == RatioBase::Old
                        || objective.correction.is_some();
                    assert!(column != 1 || !summary.negative_log_ratio.is_finite());
                    // A weight that is not a number lies in no range: it is rejected, and the
                    // count above says so.
                    let weighs_only = match objective.ratio_base {
                        RatioBase::Old => column == 2,
                        RatioBase::Rollout => column == 1,
                    };
                    let rejected = weighs_only
                        && objective.correction.is_some_and(|correction| {
                            let rejects = correction.filters.iter().next().is_some();
                            rejects || matches!(correction.mode(), WeightMode::Mask(_))
                        });
                    if used && enters_loss && !rejected && value.is_nan() {
                        assert!(summary.loss.is_nan(), "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn ratio_exactly_at_the_bound() {
    // 1 is such a ratio.
    let objective = Objective {
        surrogate: Surrogate::Clip(Clip {
            low: 0.0,
            high: 0.0,
            dual: None,
        }),
        ..TOKEN
    };
    let (summary, gradient) = run(&objective, [0.0; 3], [1.0; 3]);
    assert_eq!(summary.clipped_above, 0.0);
    assert!(
        gradient
            .iter()
            .all(|&value| (value + 1.0 / 3.0).abs() < 1e-15)
    );
}

#[test]
fn sequence_ratio() {
    let (summary, gradient) = run(&SEQUENCE, [0.0, 0.1, 0.0], [1.0; 3]);
    near(summary.loss, -1.0339);
    assert!(gradient.iter().all(|&value| (value + 0.34463).abs() < 1e-5));
    for advantage in [1.0, -1.0] {
        let (summary, gradient) = run(&SEQUENCE, [200.0; 3], [advantage; 3]);
        assert!(summary.loss.is_finite());
        assert_eq!(gradient, vec![0.0; 3]);
    }
    // Against the rollout, which moved instead of the old policy.
    let objective = Objective {
        ratio_base: RatioBase::Rollout,
        ..SEQUENCE
    };
    let data = Data::row(&[0.0, 0.1, 0.0], &[0.5; 3], &[0.0; 3], &[1.0; 3]);
    for arch in levels() {
        let (summary, _) = data.run(arch, &objective, OutputKind::Gradient);
        near(summary.loss, -1.0339);
        near(summary.negative_log_ratio, 1.4);
        assert_eq!(summary.rollout_log_ratio, 0.0);
    }
}

#[test]
fn rollout_weights() {
    let range = Range {
        low: 0.5,
        high: 5.0,
    };
    let corrections = [
        Correction::of_tokens(WeightMode::Truncate(range)),
        Correction::of_tokens(WeightMode::Mask(range)),
        sequence_mask(range),
    ];
    let run = |correction, difference: f64| {
        let old = [difference, 0.0, 0.0];
        let data = Data::row(&old, &old, &[0.0; 3], &[1.0; 3]);
        let objective = Objective {
            correction: Some(correction),
            ..SYMMETRIC
        };
        let summaries = levels()
            .into_iter()
            .map(|arch| data.run(arch, &objective, OutputKind::Gradient).0);
        summaries.collect::<Vec<_>>()
    };
    // The weight of the first token, from the loss of three.
    for (difference, expected) in [
        (3.0, [5.0, 0.0, 3.0_f64.exp()]),
        (-3.0, [0.5, 0.0, -2.0]),
        (1000.0, [5.0, 0.0, -2.0]),
        (5.0_f64.ln(), [5.0, 5.0, 5.0]),
    ] {
        for (correction, expected) in corrections.into_iter().zip(expected) {
            for summary in run(correction, difference) {
                near(-3.0 * summary.loss - 2.0, expected);
                assert!(summary.weight.is_finite());
                assert_eq!(summary.non_finite, 0.0);
            }
        }
    }
    // Exactly at a bound: kept.
    let one = Range {
        low: 1.0,
        high: 1.0,
    };
    let summary = &run(Correction::of_tokens(WeightMode::Mask(one)), 0.0)[0];
    assert_eq!((summary.zeroed, summary.weight), (0.0, 3.0));
    let summary = &run(sequence_mask(one), 0.0)[0];
    assert_eq!((summary.zeroed, summary.weight), (0.0, 3.0));
}

#[test]
fn masked_rows() {
    let mut data = Data::row(&[0.0; 6], &[0.0; 6], &[0.0; 6], &[1.0; 6]);
    (data.sequences, data.tokens) = (2, 3);
    data.mask = Some(vec![false, false, false, true, false, true]);
    for arch in levels() {
        for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
            let objective = Objective { reduction, ..TOKEN };
            let (summary, gradient) = data.run(arch, &objective, OutputKind::Gradient);
            assert_eq!(summary.loss, -1.0);
            assert_eq!(summary.valid_sequences, 1.0);
            assert_eq!(gradient, [0.0, 0.0, 0.0, -0.5, 0.0, -0.5]);
        }
    }
    data.mask = Some(vec![false; 6]);
    for arch in levels() {
        for scale in [None, Some(0.4)] {
            let objective = Objective { scale, ..SEQUENCE };
            let (summary, gradient) = data.run(arch, &objective, OutputKind::Gradient);
            assert_eq!(summary, Summary::default());
            assert_eq!(gradient, [0.0; 6]);
        }
    }
}

#[test]
fn global_totals() {
    let objective = Objective {
        scale: Some(4.0 / 10.0),
        ..SYMMETRIC
    };
    let (summary, gradient) = run(&objective, [0.0; 3], [1.0; 3]);
    near(summary.loss, -1.2);
    near(gradient[0], -0.4);
}

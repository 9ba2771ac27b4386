//! The edge cases of the contract, one row of three tokens unless said.

use policy_loss_kernels::cpu::Evaluated;
use policy_loss_kernels::objective::{
    Behavior, Bounds, Clip, Filter, Ratio, Reduction, RolloutCorrection, RolloutWeight,
};
use policy_loss_kernels::{Objective, Sums};
use policy_loss_oracle::Scale;

use crate::data::Data;
use crate::levels;
use crate::objectives::{objectives, of, token};

/// Clip 0.2 / 0.2.
fn symmetric() -> Objective {
    of(Clip::default())
}

fn dual() -> Objective {
    of(Clip::default().with_dual_clip(3.0))
}

fn sequence() -> Objective {
    let mut objective = symmetric();
    objective.ratio = Ratio::SEQUENCE;
    objective.reduction = Reduction::SequenceMean;
    objective
}

/// The weights of a sequence are kept where their geometric mean is in a range.
fn sequence_mask(bounds: Bounds) -> RolloutCorrection {
    RolloutCorrection::weigh(RolloutWeight::raw()).with_filter(Filter::sequence_mean_k1(bounds))
}

/// Log-ratios against 0 on every vector unit, which all agree.
fn run(objective: &Objective, log_ratios: [f64; 3], advantages: [f64; 3]) -> Evaluated<f64> {
    let data = Data::row(&log_ratios, &[0.0; 3], &[0.0; 3], &advantages);
    let mut first: Option<Evaluated<f64>> = None;
    for arch in levels() {
        let found = data.run::<f64>(arch, objective, None);
        let first = first.get_or_insert_with(|| found.clone());
        assert!((found.loss - first.loss).abs() <= 1e-12 * first.loss.abs());
        assert_eq!(found.sums.clipped_above, first.sums.clipped_above);
        for (a, b) in found.gradient.iter().zip(&first.gradient) {
            assert!((a - b).abs() <= 1e-12 * b.abs());
        }
    }
    first.expect("a vector unit")
}

fn near(got: f64, want: f64) {
    assert!(
        (got - want).abs() <= 1e-5 * want.abs().max(1e-2),
        "{got} is not {want}"
    );
}

fn all_near(gradient: &[f64], want: f64) -> bool {
    gradient.iter().all(|value| (value - want).abs() < 1e-5)
}

#[test]
fn clipping() {
    let found = run(&symmetric(), [0.0; 3], [1.0; 3]);
    near(found.loss, -1.0);
    assert!(all_near(&found.gradient, -1.0 / 3.0));
    let found = run(&symmetric(), [0.5, 0.0, 0.0], [1.0; 3]);
    assert_eq!((found.sums.clipped_above, found.gradient[0]), (1.0, 0.0));
    let found = run(&symmetric(), [-0.5, 0.0, 0.0], [-1.0; 3]);
    near(found.loss, 0.93333);
    assert_eq!((found.sums.clipped_below, found.gradient[0]), (1.0, 0.0));
    let found = run(&symmetric(), [0.5, -0.5, 0.0], [-1.0, 1.0, 1.0]);
    assert_eq!(found.sums.clipped_above + found.sums.clipped_below, 0.0);
    let found = run(&token(), [0.24, 0.26, 0.0], [1.0; 3]);
    near(found.loss, -1.18375);
    near(found.gradient[0], -0.42375);
    assert_eq!(found.gradient[1], 0.0);
    let found = run(&symmetric(), [3.0, -3.0, 0.0], [0.0; 3]);
    assert_eq!((found.loss, found.gradient), (0.0, vec![0.0; 3]));
}

#[test]
fn dual_clip() {
    let found = run(&dual(), [5.0_f64.ln(), 0.0, 0.0], [-1.0; 3]);
    near(found.loss, 1.66667);
    assert_eq!((found.sums.dual_clipped, found.gradient[0]), (1.0, 0.0));
    assert_eq!(found.sums.clipped_above + found.sums.clipped_below, 0.0);
    let found = run(&dual(), [5.0_f64.ln(), 9.0, 0.0], [1.0, 0.0, 1.0]);
    assert_eq!(found.sums.dual_clipped, 0.0);
}

#[test]
fn extremes() {
    let found = run(&symmetric(), [100.0, 0.0, 0.0], [1.0; 3]);
    near(found.loss, -1.06667);
    near(found.sums.log_ratio / 3.0, 33.3333);
    assert_eq!(found.gradient[0], 0.0);
    let found = run(&symmetric(), [100.0, 0.0, 0.0], [-1.0; 3]);
    near(found.loss, 1.61722e8);
    assert_eq!(found.gradient[0], 0.0);
    let found = run(&symmetric(), [-100.0, 0.0, 0.0], [-1.0; 3]);
    near(found.loss, 0.93333);
    assert_eq!(found.gradient[0], 0.0);
}

/// It reaches the loss wherever the oracle's loss has it, and the count in any case.
#[test]
fn non_finite_inputs_are_not_hidden() {
    let clean = Data::row(
        &[0.1, -0.2, 0.05],
        &[0.0; 3],
        &[0.02, 0.1, -0.1],
        &[1.0, -0.5, 0.7],
    );
    let mut reached = 0;
    for objective in objectives() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for column in 0..clean.columns.as_ref().named().len() {
                let mut data = clean.clone();
                let (name, changed) = &mut data.columns.as_mut().named()[column];
                if changed.floats().is_empty() {
                    // What the batch is told is made of the others.
                    continue;
                }
                changed.edit(|values| values[1] = value);
                let answer = data.answer::<f64>(&objective, None);
                for arch in levels() {
                    let found = data.run_told::<f64>(arch, &objective, None, &answer.told, true);
                    let context = format!("{name} is {value}: {arch:?}, {objective:?}");
                    let expected = answer.sums.non_finite;
                    assert_eq!(found.sums.non_finite, expected, "{context}");
                    if value.is_nan() {
                        let expected = answer.loss.is_nan();
                        assert_eq!(found.loss.is_nan(), expected, "{context}");
                        reached += usize::from(expected);
                    }
                }
            }
        }
    }
    assert!(reached > 1000, "{reached}");
}

#[test]
fn ratio_exactly_at_the_bound() {
    // 1 is such a ratio.
    let found = run(&of(Clip::new(0.0, 0.0)), [0.0; 3], [1.0; 3]);
    assert_eq!(found.sums.clipped_above, 0.0);
    assert!(all_near(&found.gradient, -1.0 / 3.0));
}

#[test]
fn sequence_ratio() {
    let found = run(&sequence(), [0.0, 0.1, 0.0], [1.0; 3]);
    near(found.loss, -1.0339);
    assert!(all_near(&found.gradient, -0.34463));
    for advantage in [1.0, -1.0] {
        let found = run(&sequence(), [200.0; 3], [advantage; 3]);
        assert!(found.loss.is_finite());
        assert_eq!(found.gradient, vec![0.0; 3]);
    }
    // Against the rollout, which moved instead of the old policy.
    let mut objective = sequence();
    objective.ratio.against = Behavior::Rollout;
    let data = Data::row(&[0.0, 0.1, 0.0], &[0.5; 3], &[0.0; 3], &[1.0; 3]);
    for arch in levels() {
        let found = data.run::<f64>(arch, &objective, None);
        near(found.loss, -1.0339);
        near(found.sums.log_ratio, -1.4);
        assert_eq!(found.sums.rollout_gap, 0.0);
    }
}

#[test]
fn rollout_weights() {
    let bounds = Bounds::new(0.5, 5.0);
    let corrections = [
        RolloutCorrection::weigh(RolloutWeight::truncate(bounds)),
        RolloutCorrection::weigh(RolloutWeight::mask(bounds)),
        sequence_mask(bounds),
    ];
    let run = |correction, difference: f64| {
        let old = [difference, 0.0, 0.0];
        let data = Data::row(&old, &old, &[0.0; 3], &[1.0; 3]);
        let mut objective = symmetric();
        objective.rollout_correction = Some(correction);
        let found = levels()
            .into_iter()
            .map(|arch| data.run::<f64>(arch, &objective, None));
        found.collect::<Vec<_>>()
    };
    // The weight of the first token, from the loss of three.
    for (difference, expected) in [
        (3.0, [5.0, 0.0, 3.0_f64.exp()]),
        (-3.0, [0.5, 0.0, -2.0]),
        (1000.0, [5.0, 0.0, -2.0]),
        (5.0_f64.ln(), [5.0, 5.0, 5.0]),
    ] {
        for (correction, expected) in corrections.into_iter().zip(expected) {
            for found in run(correction, difference) {
                near(-3.0 * found.loss - 2.0, expected);
                assert!(found.sums.weight.is_finite());
                assert_eq!(found.sums.non_finite, 0.0);
            }
        }
    }
    // Exactly at a bound: kept.
    let one = Bounds::new(1.0, 1.0);
    for correction in [
        RolloutCorrection::weigh(RolloutWeight::mask(one)),
        sequence_mask(one),
    ] {
        for found in run(correction, 0.0) {
            let sums = found.sums;
            assert_eq!((sums.rejected_weights, sums.weight), (0.0, 3.0));
        }
    }
}

#[test]
fn masked_rows() {
    let data = Data::row(&[0.0; 6], &[0.0; 6], &[0.0; 6], &[1.0; 6]);
    let mask = vec![false, false, false, true, false, true];
    let data = data.of_rows((2, 3), mask);
    for arch in levels() {
        for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
            let mut objective = token();
            objective.reduction = reduction;
            let found = data.run::<f64>(arch, &objective, None);
            assert_eq!(found.loss, -1.0);
            assert_eq!(found.sums.valid_sequences, 1.0);
            assert_eq!(found.gradient, [0.0, 0.0, 0.0, -0.5, 0.0, -0.5]);
        }
    }
    let data = data.of_rows((2, 3), vec![false; 6]);
    for arch in levels() {
        for objective in objectives() {
            for scale in [None, Some(0.4)] {
                let found = data.run::<f64>(arch, &objective, scale);
                assert_eq!(found.sums, Sums::default(), "{objective:?}");
                assert_eq!(found.loss.to_bits(), 0, "{objective:?}");
                assert_eq!(found.gradient, [0.0; 6], "{objective:?}");
            }
        }
    }
}

#[test]
fn global_totals() {
    let data = Data::row(&[0.0; 3], &[0.0; 3], &[0.0; 3], &[1.0; 3]);
    let totals = Scale {
        total: 10.0,
        world_size: 4.0,
    };
    let expected = data.answer::<f64>(&symmetric(), Some(totals));
    near(expected.loss, -1.2);
    for arch in levels() {
        let found = data.run::<f64>(arch, &symmetric(), Some(0.4));
        near(found.loss, expected.loss);
        near(found.gradient[0], -0.4);
    }
}

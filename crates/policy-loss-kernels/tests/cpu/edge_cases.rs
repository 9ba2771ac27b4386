//! The edge cases of the contract. What they come to is compared with the oracle; the suite of the
//! backends knows it by hand.

use policy_loss_kernels::objective::{
    Behavior, Bounds, Clip, Filter, Ratio, Reduction, RolloutCorrection, RolloutWeight,
};
use policy_loss_kernels::{Objective, Sums};

use crate::compare::compare;
use crate::data::Data;
use crate::levels;
use crate::objectives::{objectives, of, token};

fn sequence() -> Objective {
    let mut objective = of(Clip::default());
    objective.ratio = Ratio::SEQUENCE;
    objective.reduction = Reduction::SequenceMean;
    objective
}

/// Exactly at a bound, far beyond every one, and the branches of a clip, on every vector unit.
#[test]
fn rows_where_comparisons_go_wrong() {
    let symmetric = of(Clip::default());
    let dual = of(Clip::default().with_dual_clip(3.0));
    let five = 5.0_f64.ln();
    for (objective, log_ratios, advantages) in [
        (symmetric, [0.0; 3], [1.0; 3]),
        (symmetric, [0.5, 0.0, 0.0], [1.0; 3]),
        (symmetric, [-0.5, 0.0, 0.0], [-1.0; 3]),
        (symmetric, [0.5, -0.5, 0.0], [-1.0, 1.0, 1.0]),
        (symmetric, [3.0, -3.0, 0.0], [0.0; 3]),
        (symmetric, [100.0, 0.0, 0.0], [1.0; 3]),
        (symmetric, [100.0, 0.0, 0.0], [-1.0; 3]),
        (symmetric, [-100.0, 0.0, 0.0], [-1.0; 3]),
        (token(), [0.24, 0.26, 0.0], [1.0; 3]),
        (dual, [five, 0.0, 0.0], [-1.0; 3]),
        (dual, [five, 9.0, 0.0], [1.0, 0.0, 1.0]),
        // A ratio of 1 lies on both bounds.
        (of(Clip::new(0.0, 0.0)), [0.0; 3], [1.0; 3]),
        (sequence(), [0.0, 0.1, 0.0], [1.0; 3]),
        (sequence(), [200.0; 3], [1.0; 3]),
        (sequence(), [200.0; 3], [-1.0; 3]),
    ] {
        let data = Data::row(&log_ratios, &[0.0; 3], &[0.0; 3], &advantages);
        compare::<f64>(&data, &objective, None, &levels());
    }
    // Against the rollout, which moved instead of the old policy.
    let mut against_rollout = sequence();
    against_rollout.ratio.against = Behavior::Rollout;
    let data = Data::row(&[0.0, 0.1, 0.0], &[0.5; 3], &[0.0; 3], &[1.0; 3]);
    compare::<f64>(&data, &against_rollout, None, &levels());

    let (range, one) = (Bounds::new(0.5, 5.0), Bounds::new(1.0, 1.0));
    let weigh = RolloutCorrection::weigh;
    // The weights of a sequence are kept where their geometric mean is in a range.
    let mask = |bounds| weigh(RolloutWeight::raw()).with_filter(Filter::sequence_mean_k1(bounds));
    for gap in [0.0, 3.0, -3.0, 1000.0, five] {
        for correction in [
            weigh(RolloutWeight::truncate(range)),
            weigh(RolloutWeight::mask(range)),
            mask(range),
            weigh(RolloutWeight::mask(one)),
            mask(one),
        ] {
            let old = [gap, 0.0, 0.0];
            let data = Data::row(&old, &old, &[0.0; 3], &[1.0; 3]);
            let mut objective = symmetric;
            objective.rollout_correction = Some(correction);
            compare::<f64>(&data, &objective, None, &levels());
        }
    }
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
fn masked_rows() {
    let data = Data::row(&[0.0; 6], &[0.0; 6], &[0.0; 6], &[1.0; 6]);
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

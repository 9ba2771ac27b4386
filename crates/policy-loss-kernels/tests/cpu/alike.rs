//! Sums of addends that are all the same: each is rounded the same way, so that their errors add
//! up.

use policy_loss_kernels::Objective;
use policy_loss_kernels::cpu::{Arch, Batch, Evaluated, evaluate_on};
use policy_loss_kernels::objective::{
    KlEstimator, KlGradient, KlPenalty, Ratio, RolloutCorrection, RolloutWeight,
};
use policy_loss_kernels::{Columns, Sums};
use policy_loss_oracle::Random;

use crate::levels;
use crate::objectives::token;

/// Several blocks, and a rest that fills no vector.
const TOKENS: usize = 10_007;

/// The relative error that a sum of addends that are alike may have, however many there are and
/// whatever the vector unit.
///
/// 32 addends stand in a lane before they move into f64. An addition in a lane rounds by 2^-24 of what
/// the lane holds, which for them is half of the sum on average: half of what addends of one sign may
/// have. What is added to it is one for each step of adding up the lanes, of which there are 16 at
/// most, one for the half vector that the average misses, and one for a square that is rounded before
/// it is added, where the machine has no fused product.
const BOUND: f64 = (32.0 / 2.0 + 4.0 + 2.0) / (1_u64 << 24) as f64;

/// Log-ratios of all tokens: enough for some of the addends to be rounded as badly as can be.
fn log_ratios() -> impl Iterator<Item = f32> {
    let mut random = Random(1);
    (0..64).map(move |_| random.between(0.01, 0.9) as f32)
}

/// One row of tokens, all of them with this log-ratio and this advantage.
fn run(arch: Arch, objective: &Objective, log_ratio: f32, tokens: usize) -> Evaluated<f32> {
    let column = |value: f32| vec![value; tokens];
    let (log_probs, zeros) = (column(log_ratio), column(0.0));
    let (rollout, reference) = (column(-0.7 * log_ratio), column(0.3 * log_ratio));
    let batch = Batch {
        sequences: 1,
        tokens,
        columns: Columns {
            log_probs: Some(log_probs.as_slice().into()),
            old_log_probs: Some(zeros.as_slice().into()),
            rollout_log_probs: Some(rollout.as_slice().into()),
            ref_log_probs: Some(reference.as_slice().into()),
            entropies: Some(reference.as_slice().into()),
            advantages: Some(log_probs.as_slice().into()),
            ..Columns::default()
        },
        mask: None,
        weight_mean: 1.0,
        entropy_threshold: 0.0,
        sequence_weights: Some((&[1.0_f32][..]).into()),
    };
    evaluate_on(arch, objective, &batch, Some(1.0), true).expect("a batch")
}

/// Compares sums with as many times the addend.
fn check(arch: Arch, value: f32, sums: &[(&str, f64, f64)]) {
    for (name, sum, addend) in sums {
        let expected = addend * TOKENS as f64;
        let error = ((sum - expected) / expected).abs();
        assert!(
            error <= BOUND,
            "{name} of {value}: {error:e} is more than {BOUND:e}, {arch:?}"
        );
    }
}

fn square(value: f64) -> f64 {
    value * value
}

#[test]
fn sums_of_a_batch() {
    let mut objective = token();
    objective.rollout_correction = Some(RolloutCorrection::weigh(RolloutWeight::raw()));
    for arch in levels() {
        for log_ratio in log_ratios() {
            let of = |tokens| run(arch, &objective, log_ratio, tokens).sums;
            let (many, one): (Sums, Sums) = (of(TOKENS), of(1));
            let d = f64::from(log_ratio);
            let sums = [
                ("loss", many.loss, one.loss),
                ("log-ratio", many.log_ratio, d),
                ("squared log-ratio", many.squared_log_ratio, square(d)),
                ("k3", many.k3, one.k3),
                ("ratio", many.ratio, one.ratio),
                // Not that of one token, which is rounded once more.
                ("squared ratio", many.squared_ratio, square(one.ratio)),
                ("rollout gap", many.rollout_gap, one.rollout_gap),
                ("weight", many.weight, one.weight),
                ("squared weight", many.squared_weight, square(one.weight)),
            ];
            check(arch, log_ratio, &sums);
        }
    }
}

#[test]
fn sums_of_a_penalty() {
    for arch in levels() {
        for estimator in [
            KlEstimator::K1,
            KlEstimator::K2,
            KlEstimator::K3,
            KlEstimator::Abs,
        ] {
            let penalty = KlPenalty::new(0.1)
                .with_estimator(estimator)
                .with_gradient(KlGradient::ImportanceCorrected);
            let mut objective = token();
            objective.kl_penalty = Some(penalty);
            for log_ratio in log_ratios() {
                let of = |tokens| run(arch, &objective, log_ratio, tokens).sums.kl;
                check(arch, log_ratio, &[("kl", of(TOKENS), of(1))]);
            }
        }
    }
}

#[test]
fn what_a_sequence_shares() {
    let mut objective = token();
    objective.ratio = Ratio::SEQUENCE;
    for arch in levels() {
        for log_ratio in log_ratios() {
            let of = |tokens| run(arch, &objective, log_ratio, tokens);
            let (many, one) = (of(TOKENS), of(1));
            // The ratio is that of the mean, and it is one for all tokens.
            let sums = [("ratio", many.sums.ratio, one.sums.ratio)];
            check(arch, log_ratio, &sums);
            // The gradient is made of the sum of the slopes of all tokens, and is an f32 itself.
            let (got, want) = (f64::from(many.gradient[0]), f64::from(one.gradient[0]));
            let error = (got - want).abs() / want.abs().max(f64::from(log_ratio));
            let bound = BOUND + 4.0 * f64::powi(2.0, -24);
            assert!(error <= bound, "{log_ratio}: {error:e}, {arch:?}");
        }
    }
}

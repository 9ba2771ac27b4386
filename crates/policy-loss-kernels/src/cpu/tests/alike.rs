//! Sums of addends that are all the same: each is rounded the same way, so that their errors add
//! up.

use pulp::{Arch, Simd, WithSimd};

use crate::cpu::batch::{Advantages, Batch};
use crate::cpu::drive;
use crate::cpu::gaps::add_gaps;
use crate::cpu::gather::{Difference, Place, add_clipped, add_differences};
use crate::cpu::kept_weight::add_kept_weights;
use crate::cpu::kernel::OutputKind;
use crate::cpu::lanes::Lanes;
use crate::cpu::log_probs::Softmax;
use crate::cpu::log_probs::statistics::Moments;
use crate::cpu::real::Real;
use crate::cpu::row::Row;
use crate::cpu::stage::Scratch;
use crate::cpu::sums::STRETCH;
use crate::{
    Correction, Estimator, Objective, Penalty, PenaltyGradient, RatioLevel, Summary, Surrogate,
    WeightMode,
};

use super::{Random, TOKEN, levels};

/// Several blocks, and a rest that fills no vector.
const TOKENS: usize = 10_007;

/// Log-ratios of all tokens: enough for some of the addends to be rounded as badly as can be.
fn log_ratios() -> impl Iterator<Item = f32> {
    let mut random = Random::new(1);
    (0..64).map(move |_| random.between(0.01, 0.9) as f32)
}

const WEIGHTED: Objective = Objective {
    correction: Some(Correction::of_tokens(WeightMode::Raw)),
    ..TOKEN
};

struct CountLanes;

impl WithSimd for CountLanes {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let lanes = f32::lanes(simd);
        lanes.sum(lanes.one())
    }
}

/// The relative error that a sum of addends that are alike may have, however many there are.
///
/// An addition in a lane rounds by 2^-24 of what the lane holds, which for them is half of the
/// sum on average: half of what addends of one sign may have. What is added to it is one for the
/// half vector that the average misses, and one for a square that is rounded before it is added,
/// where the machine has no fused product.
fn bound(arch: Arch) -> f64 {
    let lanes = arch.dispatch(CountLanes);
    (STRETCH as f64 / 2.0 + lanes.log2() + 2.0) * f64::powi(2.0, -24)
}

/// Compares sums with as many times the addend.
fn check(arch: Arch, value: f32, sums: &[(&str, f64, f64)]) {
    for (name, sum, addend) in sums {
        let expected = addend * TOKENS as f64;
        let error = ((sum - expected) / expected).abs();
        assert!(
            error <= bound(arch),
            "{name} of {value}: {error:e} is more than {:e}, {arch:?}",
            bound(arch)
        );
    }
}

/// Calls `visit` with one row of tokens, all of them with this log-ratio and this advantage.
fn with_batch<R>(log_ratio: f32, tokens: usize, visit: impl FnOnce(&Batch<'_, f32>) -> R) -> R {
    let column = |value: f32| vec![value; tokens];
    let (log_probs, zeros) = (column(log_ratio), column(0.0));
    let (rollout, reference) = (column(-0.7 * log_ratio), column(0.3 * log_ratio));
    let advantages = column(log_ratio);
    visit(&Batch {
        sequences: 1,
        tokens,
        log_probs: &log_probs,
        old_log_probs: zeros.as_slice().into(),
        rollout_log_probs: Some(rollout.as_slice().into()),
        weights: None,
        ref_log_probs: Some(reference.as_slice().into()),
        advantages: Advantages::PerToken(advantages.as_slice().into()),
        mask: None,
    })
}

fn run(arch: Arch, objective: &Objective, log_ratio: f32, tokens: usize) -> Summary {
    with_batch(log_ratio, tokens, |batch| {
        drive::run(arch, objective, batch, OutputKind::Nothing, &mut []).expect("a batch")
    })
}

fn square(value: f64) -> f64 {
    value * value
}

#[test]
fn sums_of_a_batch() {
    for arch in levels() {
        for log_ratio in log_ratios() {
            let many = run(arch, &WEIGHTED, log_ratio, TOKENS);
            let one = run(arch, &WEIGHTED, log_ratio, 1);
            let sums = [
                // A mean.
                ("loss", many.loss * TOKENS as f64, one.loss),
                ("log-ratio", many.negative_log_ratio, -f64::from(log_ratio)),
                (
                    "squared log-ratio",
                    many.squared_log_ratio,
                    square(log_ratio.into()),
                ),
                ("k3", many.k3, one.k3),
                ("ratio", many.ratio, one.ratio),
                // Not that of one token, which is rounded once more.
                ("squared ratio", many.squared_ratio, square(one.ratio)),
                (
                    "rollout log-ratio",
                    many.rollout_log_ratio,
                    one.rollout_log_ratio,
                ),
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
        for estimator in [Estimator::K1, Estimator::K2, Estimator::K3, Estimator::Abs] {
            let objective = Objective {
                penalty: Some(Penalty {
                    estimator,
                    coefficient: 0.1,
                    gradient: PenaltyGradient::ImportanceCorrected,
                }),
                ..TOKEN
            };
            for log_ratio in log_ratios() {
                let many = run(arch, &objective, log_ratio, TOKENS);
                let one = run(arch, &objective, log_ratio, 1);
                check(arch, log_ratio, &[("kl", many.kl, one.kl)]);
            }
        }
    }
}

/// What is gathered over the tokens of a row before they are visited.
fn gathered(arch: Arch, log_ratio: f32, tokens: usize) -> Row {
    let objective = Objective {
        surrogate: Surrogate::GeometricMean {
            low: 0.2,
            high: 0.28,
        },
        ..WEIGHTED
    };
    with_batch(log_ratio, tokens, |batch| {
        let mut rows = [Row {
            valid: tokens,
            ..Row::default()
        }];
        let mut scratch = Scratch::new();
        let mut place = Place {
            rows: &mut rows,
            row_length: tokens,
            tokens: 0..tokens,
        };
        let difference = Difference {
            minuend: batch.log_probs.into(),
            subtrahend: batch.old_log_probs,
            bounded: false,
            field: |row| &mut row.log_ratio,
        };
        add_differences(arch, &mut scratch, &mut place, &difference, None);
        add_clipped(arch, &mut scratch, &mut place, &objective, batch);
        let rollout = batch.rollout_log_probs.expect("a rollout");
        let terms = (batch.old_log_probs, rollout);
        add_gaps(arch, &mut scratch, &mut place, terms, None, true);
        place.rows[0].derive::<f32>(&objective, 1.0);
        add_kept_weights(arch, &mut scratch, &mut place, &objective, batch);
        rows[0]
    })
}

#[test]
fn sums_of_a_row() {
    for arch in levels() {
        for log_ratio in log_ratios() {
            let many = gathered(arch, log_ratio, TOKENS);
            let one = gathered(arch, log_ratio, 1);
            let half_square = square(one.gaps.sum) / 2.0;
            let sums = [
                ("log-ratio", many.log_ratio, one.log_ratio),
                (
                    "bounded log-ratio",
                    many.bounded_log_ratio,
                    one.bounded_log_ratio,
                ),
                ("advantage", many.advantage, one.advantage),
                ("gap", many.gaps.sum, one.gaps.sum),
                ("half square of a gap", many.gaps.half_squares, half_square),
                ("k3 of a gap", many.gaps.k3, one.gaps.k3),
                ("weight", many.kept_weight, one.kept_weight),
            ];
            check(arch, log_ratio, &sums);
        }
    }
}

#[test]
fn the_gradient_that_a_sequence_shares() {
    let objective = Objective {
        ratio_level: RatioLevel::Sequence,
        scale: Some(1.0),
        ..TOKEN
    };
    let tokens = TOKENS;
    let columns = vec![0.0_f32; tokens];
    for arch in levels() {
        for advantage in log_ratios() {
            let advantages = vec![advantage; tokens];
            let batch = Batch {
                sequences: 1,
                tokens,
                log_probs: &columns,
                old_log_probs: columns.as_slice().into(),
                rollout_log_probs: None,
                weights: None,
                ref_log_probs: None,
                advantages: Advantages::PerToken(advantages.as_slice().into()),
                mask: None,
            };
            let mut gradient = Box::new_uninit_slice(tokens);
            drive::run(
                arch,
                &objective,
                &batch,
                OutputKind::Gradient,
                &mut gradient,
            )
            .expect("a batch");
            #[allow(unsafe_code)]
            // SAFETY: `run` was successful, so that it has written all of it.
            let gradient: Box<[f32]> = unsafe { gradient.assume_init() };
            // The ratio is 1, and the gradient the mean of the advantages.
            let error = f64::from(gradient[0]) / -f64::from(advantage) - 1.0;
            // The gradient itself is an f32.
            let bound = bound(arch) + f64::powi(2.0, -24);
            assert!(error.abs() <= bound, "{advantage}: {error:e}, {arch:?}");
        }
    }
}

/// The sums of exponentials of a row whose first logit is 0: `exp(z)`, and `exp(z) * z`.
fn exponentials(arch: Arch, logit: f32, others: usize) -> [f64; 2] {
    let softmax = Softmax {
        scale: 1.0,
        entropy: true,
    };
    let mut logits = vec![logit; others + 1];
    logits[0] = 0.0;
    let mut moments = Moments::new();
    moments.visit(arch, softmax, &logits, Some(0));
    let statistics = moments.statistics(softmax);
    let sum = statistics.log_sum.exp();
    [sum, (statistics.log_sum - statistics.entropy) * sum]
}

#[test]
fn sums_of_a_softmax() {
    for arch in levels() {
        for logit in log_ratios().map(|value| -value) {
            let [sum, weighted] = exponentials(arch, logit, TOKENS);
            let [of_two, _] = exponentials(arch, logit, 1);
            let exponential = of_two - 1.0;
            let sums = [
                // The one is that of the first logit.
                ("exponential", sum - 1.0, exponential),
                (
                    "weighted exponential",
                    weighted,
                    exponential * f64::from(logit),
                ),
            ];
            check(arch, logit, &sums);
        }
    }
}

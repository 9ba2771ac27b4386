//! Every combination of parts, over shapes around the widths of vectors and blocks.

use pulp::Arch;

use crate::cpu::kernel::OutputKind;
use crate::{Objective, RatioLevel, Summary};

use super::oracle::{Expected, expected};
use super::{Column, Data, KINDS, Kind, Random, levels, objectives};

/// Fields of a summary: name, value, and whether it is a count.
fn fields(summary: &Summary) -> [(&'static str, f64, bool); 19] {
    [
        ("loss", summary.loss, false),
        ("valid_tokens", summary.valid_tokens, true),
        ("valid_sequences", summary.valid_sequences, true),
        ("clipped_above", summary.clipped_above, true),
        ("clipped_below", summary.clipped_below, true),
        ("dual_clipped", summary.dual_clipped, true),
        ("negative_log_ratio", summary.negative_log_ratio, false),
        ("squared_log_ratio", summary.squared_log_ratio, false),
        ("k3", summary.k3, false),
        ("ratio", summary.ratio, false),
        ("squared_ratio", summary.squared_ratio, false),
        ("min_ratio", summary.min_ratio, false),
        ("max_ratio", summary.max_ratio, false),
        ("rollout_log_ratio", summary.rollout_log_ratio, false),
        ("weight", summary.weight, false),
        ("squared_weight", summary.squared_weight, false),
        ("truncated", summary.truncated, true),
        ("zeroed", summary.zeroed, true),
        ("non_finite", summary.non_finite, true),
    ]
}

fn close(got: f64, expected: f64, relative: f64, absolute: f64) -> bool {
    (got - expected).abs() <= relative * expected.abs() + absolute
}

/// Compares a run on each of the vector units with the loop.
fn check(data: &Data, objective: &Objective, archs: &[Arch]) {
    let expected = expected(data, objective);
    for &arch in archs {
        check_run(data, objective, arch, &expected);
    }
}

/// Compares one run with the loop.
fn check_run(data: &Data, objective: &Objective, arch: Arch, expected: &Expected) {
    let &Expected {
        summary: ref wanted,
        ref gradient,
        ref token_losses,
        ref gradient_sizes,
        margin,
    } = expected;
    let f64s = matches!(data.log_probs, Column::F64(_));
    // A decision this close may go the other way in f32; such draws are few.
    if margin < if f64s { 1e-12 } else { 3e-6 } {
        return;
    }
    let context = || {
        format!(
            "{arch:?}, {}x{}, {objective:?}",
            data.sequences, data.tokens
        )
    };
    // One rounding of the gradient's type, on top of the arithmetic's.
    let (relative, rounding) = match data.log_probs {
        Column::F64(_) => (1e-12, 0.0),
        Column::F32(_) => (4e-6, 0.0),
        Column::F16(_) => (4e-6, f64::powi(2.0, -11)),
        Column::Bf16(_) => (4e-6, f64::powi(2.0, -8)),
    };
    // Half precision underflows gradually, and ends early.
    let (tiny, largest) = match data.log_probs {
        Column::F16(_) => (f64::powi(2.0, -25), 65504.0),
        _ => (0.0, f64::INFINITY),
    };

    for (kind, outputs) in [
        (OutputKind::Nothing, &[][..]),
        (OutputKind::Gradient, gradient),
    ] {
        let (summary, output) = data.run(arch, objective, kind);
        // Sums cancel: their error is relative to the terms, not to the sum.
        let n = wanted.valid_tokens;
        let size = |name: &str| match name {
            "loss" => {
                let scale = objective.scale.map_or(1.0, |scale| scale * n);
                let largest = token_losses.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
                let sum: f64 = token_losses.iter().map(|loss| loss.abs()).sum();
                scale * largest.min(sum)
            }
            "negative_log_ratio" | "rollout_log_ratio" => {
                n.sqrt() * wanted.squared_log_ratio.sqrt() + 4.0 * n
            }
            "ratio" | "weight" => n,
            "squared_ratio" | "squared_weight" => n,
            _ => 0.0,
        };
        for ((name, got, is_count), (_, want, _)) in
            fields(&summary).into_iter().zip(fields(wanted))
        {
            // The loop adds one by one: its own error grows with the number of terms.
            let relative = relative + 2e-16 * n;
            let tolerance = if is_count { 0.0 } else { relative };
            assert!(
                close(got, want, tolerance, tolerance * size(name)),
                "{name}: got {got:e}, expected {want:e}; {kind:?}, {}",
                context()
            );
        }
        for (index, (&got, &want)) in output.iter().zip(outputs).enumerate() {
            let size = gradient_sizes[index];
            let overflows = want.abs() > largest && got.abs() >= largest;
            assert!(
                overflows || close(got, want, 4.0 * relative + rounding, relative * size + tiny),
                "output {index}: got {got:e}, expected {want:e}; {kind:?}, {}",
                context()
            );
            // A tiny negative number may have been rounded to -0.
            let is_zero = got == 0.0 && want == 0.0;
            assert!(!is_zero || got.is_sign_positive(), "-0; {}", context());
        }
        assert_eq!(output.len(), outputs.len());
    }
}

#[test]
fn every_combination_of_parts() {
    let mut random = Random::new(1);
    for arch in levels() {
        for objective in objectives() {
            for kind in [Kind::F32, Kind::F64] {
                for masked in [false, true] {
                    let shape = (1 + random.below(5), 1 + random.below(70));
                    let per_sequence = random.below(2) == 0;
                    let data = Data::random(&mut random, shape, [kind; 4], per_sequence, masked);
                    check(&data, &objective, &[arch]);
                }
            }
        }
    }
}

#[test]
fn every_length_around_vectors_and_blocks() {
    let mut random = Random::new(2);
    let objectives = objectives();
    let lengths = (1..=70)
        .chain(127..=130)
        .chain(1023..=1025)
        .chain(4095..=4097);
    for tokens in lengths {
        for arch in levels() {
            for kind in [Kind::F32, Kind::F64] {
                let objective = objectives[random.below(objectives.len())];
                let rows = 1 + random.below(3);
                let masked = random.below(2) == 0;
                let data = Data::random(&mut random, (rows, tokens), [kind; 4], false, masked);
                check(&data, &objective, &[arch]);
            }
        }
    }
}

#[test]
fn every_mixture_of_types() {
    let mut random = Random::new(3);
    let objectives = objectives();
    for log_probs in KINDS {
        for old_log_probs in KINDS {
            for rollout_log_probs in KINDS {
                for advantages in KINDS {
                    let kinds = [log_probs, old_log_probs, rollout_log_probs, advantages];
                    let objective = objectives[random.below(objectives.len())];
                    let per_sequence = random.below(2) == 0;
                    let shape = (3, 1 + random.below(200));
                    let data = Data::random(&mut random, shape, kinds, per_sequence, true);
                    check(&data, &objective, &levels());
                }
            }
        }
    }
}

#[test]
fn many_short_rows_and_few_long_ones() {
    let mut random = Random::new(4);
    let levels = levels();
    for shape in [
        (100_000, 1),
        (30_000, 3),
        (7, 20_000),
        (2, 70_001),
        (1, 150_000),
    ] {
        for objective in objectives() {
            if random.below(16) == 0 {
                let masked = random.below(3) > 0;
                let data = Data::random(&mut random, shape, [Kind::F64; 4], false, masked);
                let arch = levels[random.below(levels.len())];
                check(&data, &objective, &[arch]);
            }
        }
    }
}

#[test]
fn batches_without_a_token() {
    for shape in [(0, 0), (0, 5), (5, 0)] {
        for per_sequence in [false, true] {
            for masked in [false, true] {
                for objective in objectives() {
                    let mut random = Random::new(5);
                    let kinds = [Kind::F32; 4];
                    let data = Data::random(&mut random, shape, kinds, per_sequence, masked);
                    for arch in levels() {
                        let (summary, gradient) = data.run(arch, &objective, OutputKind::Gradient);
                        assert_eq!(summary, Summary::default());
                        assert!(summary.loss.is_sign_positive());
                        assert!(gradient.is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn sequence_ratios_reach_the_bounds() {
    let mut random = Random::new(6);
    for objective in objectives()
        .into_iter()
        .filter(|objective| objective.ratio_level == RatioLevel::Sequence)
    {
        let mut data = Data::random(&mut random, (4, 33), [Kind::F64; 4], false, true);
        let mut log_probs = data.log_probs.to_f64();
        for value in &mut log_probs[..33] {
            *value += 25.0;
        }
        for value in &mut log_probs[33..66] {
            *value -= 25.0;
        }
        data.log_probs = Column::new(Kind::F64, &log_probs);
        check(&data, &objective, &levels());
    }
}

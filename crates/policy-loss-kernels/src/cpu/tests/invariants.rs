//! What must be the same bit for bit.

use rayon::ThreadPoolBuilder;

use crate::Summary;
use crate::cpu::kernel::OutputKind;
use crate::cpu::{
    BatchError, Mask, forward, forward_with_gradient, forward_with_gradient_into, scale_in_place,
};

use super::{Column, Data, KINDS, Kind, Random, TOKEN, levels, objectives};

fn bits(summary: &Summary, output: &[f64]) -> Vec<u64> {
    // Every field is an f64: the debug output names them all, with all their digits.
    let fields = format!("{summary:?}").into_bytes();
    let output = output.iter().map(|value| value.to_bits());
    fields.into_iter().map(u64::from).chain(output).collect()
}

/// Replaces what stands at masked positions.
fn with_garbage(data: &Data, random: &mut Random) -> Data {
    let mask = data.mask.as_ref().expect("a mask");
    let mut spoil = |column: &Column| {
        let kind = match column {
            Column::F64(_) => Kind::F64,
            Column::F32(_) => Kind::F32,
            Column::F16(_) => Kind::F16,
            Column::Bf16(_) => Kind::Bf16,
        };
        let mut values = column.to_f64();
        for (value, _) in values.iter_mut().zip(mask).filter(|(_, valid)| !**valid) {
            let garbage = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e30, 7.0];
            *value = garbage[random.below(garbage.len())];
        }
        Column::new(kind, &values)
    };
    Data {
        log_probs: spoil(&data.log_probs),
        old_log_probs: spoil(&data.old_log_probs),
        rollout_log_probs: spoil(&data.rollout_log_probs),
        advantages: if data.per_sequence {
            data.advantages.clone()
        } else {
            spoil(&data.advantages)
        },
        ..data.clone()
    }
}

#[test]
fn masked_positions_change_nothing() {
    let mut random = Random::new(1);
    for arch in levels() {
        for objective in objectives() {
            let kind = KINDS[random.below(4)];
            let shape = (1 + random.below(4), 1 + random.below(100));
            let per_sequence = random.below(2) == 0;
            let data = Data::random(&mut random, shape, [kind; 4], per_sequence, true);
            let spoilt = with_garbage(&data, &mut random);
            for output in [OutputKind::Nothing, OutputKind::Gradient] {
                let (clean_summary, clean) = data.run(arch, &objective, output);
                let (summary, values) = spoilt.run(arch, &objective, output);
                assert_eq!(
                    bits(&clean_summary, &clean),
                    bits(&summary, &values),
                    "{clean_summary:?} {summary:?} {arch:?} {objective:?}"
                );
                let mask = data.mask.as_ref().expect("a mask");
                for (value, _) in values.iter().zip(mask).filter(|(_, valid)| !**valid) {
                    assert_eq!(value.to_bits(), 0);
                }
            }
        }
    }
}

#[test]
fn masked_positions_stay_zero_beside_nan() {
    let mut random = Random::new(2);
    for objective in objectives() {
        let mut data = Data::random(&mut random, (2, 50), [Kind::F32; 4], false, true);
        let mask = data.mask.as_mut().expect("a mask");
        (mask[3], mask[4]) = (true, false);
        let mut log_probs = data.log_probs.to_f64();
        log_probs[3] = f64::NAN;
        data.log_probs = Column::new(Kind::F32, &log_probs);
        for arch in levels() {
            let (summary, values) = data.run(arch, &objective, OutputKind::Gradient);
            assert!(summary.loss.is_nan(), "{objective:?}");
            assert_eq!(summary.non_finite, 1.0);
            let mask = data.mask.as_ref().expect("a mask");
            for (value, _) in values.iter().zip(mask).filter(|(_, valid)| !**valid) {
                assert_eq!(value.to_bits(), 0, "{objective:?}");
            }
        }
    }
}

#[test]
fn any_number_of_threads() {
    let mut random = Random::new(3);
    let levels = levels();
    for shape in [(30, 4096), (3, 40_000), (100_000, 1)] {
        let per_sequence = random.below(2) == 0;
        let data = Data::random(&mut random, shape, [Kind::F32; 4], per_sequence, true);
        for objective in objectives() {
            if random.below(16) != 0 {
                continue;
            }
            let arch = levels[random.below(levels.len())];
            let mut seen: Option<Vec<u64>> = None;
            for threads in [1, 2, 3] {
                let pool = ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("a thread pool");
                let (summary, gradient) =
                    pool.install(|| data.run(arch, &objective, OutputKind::Gradient));
                let bits = bits(&summary, &gradient);
                assert_eq!(*seen.get_or_insert_with(|| bits.clone()), bits);
            }
        }
    }
}

#[test]
fn entry_points_agree() {
    let mut random = Random::new(4);
    let data = Data::random(&mut random, (3, 77), [Kind::F32; 4], false, true);
    let Column::F32(log_probs) = &data.log_probs else {
        panic!("f32");
    };
    let batch = data.batch(log_probs);
    let summary = forward(&TOKEN, &batch).expect("a batch");
    let (with_gradient, gradient) = forward_with_gradient(&TOKEN, &batch).expect("a batch");
    let mut memory = Box::new_uninit_slice(log_probs.len());
    let into = forward_with_gradient_into(&TOKEN, &batch, &mut memory).expect("a batch");
    assert_eq!(summary, with_gradient);
    assert_eq!(summary, into);
    assert_eq!(gradient.len(), log_probs.len());

    // Bytes and booleans are the same mask.
    let mask = data.mask.as_ref().expect("a mask");
    let bytes: Vec<u8> = mask.iter().map(|&valid| u8::from(valid)).collect();
    let mut batch = batch;
    batch.mask = Some(Mask::from(bytes.as_slice()));
    assert_eq!(summary, forward(&TOKEN, &batch).expect("a batch"));
}

#[test]
fn scaling() {
    let gradient: Vec<f32> = (0..200_000).map(|index| index as f32 - 1e5).collect();
    let mut scaled = gradient.clone();
    scale_in_place(&mut scaled, 1.0);
    assert_eq!(scaled, gradient);
    scale_in_place(&mut scaled, -0.5);
    assert!(scaled.iter().zip(&gradient).all(|(a, b)| *a == b * -0.5));
    let mut halves = [half::bf16::from_f32(3.0); 5];
    scale_in_place(&mut halves, 2.0);
    assert_eq!(halves, [half::bf16::from_f32(6.0); 5]);
}

#[test]
fn wrong_batches_are_refused() {
    let mut random = Random::new(5);
    let data = Data::random(&mut random, (3, 7), [Kind::F32; 4], false, true);
    let Column::F32(log_probs) = &data.log_probs else {
        panic!("f32");
    };
    let batch = data.batch(log_probs);
    let short = super::Batch {
        log_probs: &log_probs[1..],
        ..batch
    };
    let error = forward(&TOKEN, &short).expect_err("a length");
    assert_eq!(
        error.to_string(),
        "`log_probs` has 20 elements, the batch's shape asks for 21"
    );
    let without = super::Batch {
        rollout_log_probs: None,
        weights: None,
        ref_log_probs: None,
        ..batch
    };
    assert!(forward(&TOKEN, &without).is_ok());
    let objective = crate::Objective {
        ratio_base: crate::RatioBase::Rollout,
        ..TOKEN
    };
    assert_eq!(
        forward(&objective, &without),
        Err(BatchError::Missing {
            name: "rollout_log_probs"
        })
    );
    let huge = super::Batch {
        sequences: usize::MAX,
        ..batch
    };
    assert_eq!(forward(&TOKEN, &huge), Err(BatchError::TooLarge));
    let result = forward_with_gradient_into(&TOKEN, &batch, &mut []);
    assert!(matches!(
        result,
        Err(BatchError::Length { name: "output", .. })
    ));
}

//! What must be the same bit for bit, and what is refused.

use policy_loss_kernels::cpu::{
    Arithmetic, Batch, BatchError, Evaluated, Mask, evaluate, evaluate_on, scale_in_place,
};
use policy_loss_kernels::objective::{
    Behavior, CovarianceClip, CovariancePenalty, KlBase, RatioLevel, Reduction, SecondMomentClip,
    SecondMomentMask, Surrogate,
};
use policy_loss_kernels::{Columns, Objective};
use policy_loss_oracle::Random;
use rayon::ThreadPoolBuilder;

use crate::data::{Column, Data, Form, KINDS, Kind};
use crate::levels;
use crate::objectives::{any, objectives, of, token};

/// Every bit of a result.
fn bits<T: Arithmetic>(evaluated: &Evaluated<T>) -> Vec<u64> {
    let gradients = [
        &evaluated.gradient,
        &evaluated.entropy_gradient,
        &evaluated.segment_gradient,
    ];
    let gradients = gradients.into_iter().flatten().map(|value| value.to_f64());
    std::iter::once(evaluated.loss)
        .chain(evaluated.sums.to_row())
        .chain(gradients)
        .map(f64::to_bits)
        .collect()
}

/// Replaces what stands at masked positions.
fn with_garbage(data: &Data, random: &mut Random) -> Data {
    let mut spoilt = data.clone();
    for (_, column) in spoilt.columns.as_mut().named() {
        column.edit(|values| {
            // Not the advantages of sequences.
            let of_tokens = values.len() == data.length();
            for (index, value) in values.iter_mut().enumerate() {
                if of_tokens && !data.is_valid(index) {
                    let infinity = f64::INFINITY;
                    *value = random.pick(&[f64::NAN, infinity, -infinity, 1e30, -1e30, 7.0]);
                }
            }
        });
    }
    spoilt
}

fn assert_ignores_garbage<T: Arithmetic>(random: &mut Random, objective: &Objective, form: Form) {
    let data = Data::random(random, form);
    let spoilt = with_garbage(&data, random);
    for arch in levels() {
        let clean = data.run::<T>(arch, objective, None);
        let found = spoilt.run::<T>(arch, objective, None);
        assert_eq!(
            bits(&clean),
            bits(&found),
            "{:?} {:?} {arch:?} {objective:?}",
            clean.sums,
            found.sums
        );
    }
}

#[test]
fn masked_positions_change_nothing() {
    let mut random = Random(1);
    for objective in objectives() {
        let kind = random.pick(&KINDS);
        let form = Form {
            // One advantage for each of several tokens, so that it is told from a column.
            per_sequence: random.below(2) == 0,
            masked: true,
            ..Form::of(kind, (1 + random.below(4), 2 + random.below(100)))
        };
        assert_ignores_garbage::<f32>(&mut random, &objective, form);
        assert_ignores_garbage::<f64>(&mut random, &objective, form);
    }
}

#[test]
fn masked_positions_stay_zero_beside_nan() {
    let mut random = Random(2);
    for objective in objectives() {
        let form = Form {
            masked: true,
            ..Form::of(Kind::F32, (2, 50))
        };
        let mut data = Data::random(&mut random, form);
        let mask = data.mask.as_mut().expect("a mask");
        (mask[3], mask[4]) = (true, false);
        let mask = mask.clone();
        data.columns.log_probs.edit(|values| values[3] = f64::NAN);
        // Some surrogates leave a token out whose advantage is 0, and a mask one of low entropy.
        data.columns.advantages.edit(|values| values[3] = 1.0);
        data.columns.entropies.edit(|values| values[3] = 9.0);
        for arch in levels() {
            let found = data.run::<f32>(arch, &objective, None);
            assert!(found.loss.is_nan(), "{objective:?}");
            assert_eq!(found.sums.non_finite, 1.0);
            for gradient in [&found.gradient, &found.entropy_gradient] {
                for (value, _) in gradient.iter().zip(&mask).filter(|(_, valid)| !**valid) {
                    assert_eq!(value.to_bits(), 0, "{objective:?}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads() {
    let mut random = Random(3);
    for shape in [(30, 4096), (3, 40_000), (100_000, 1)] {
        let form = Form {
            per_sequence: random.below(2) == 0,
            masked: true,
            ..Form::of(Kind::F32, shape)
        };
        let data = Data::random(&mut random, form);
        for _ in 0..12 {
            let objective = any(&mut random);
            for arch in levels() {
                let mut seen: Option<Vec<u64>> = None;
                for threads in [1, 2, 3] {
                    let pool = ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .expect("a thread pool");
                    let found = pool.install(|| data.run::<f32>(arch, &objective, None));
                    let bits = bits(&found);
                    assert!(
                        *seen.get_or_insert_with(|| bits.clone()) == bits,
                        "{threads} threads, {arch:?}, {objective:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_machine_chooses_one_of_its_units() {
    let mut random = Random(4);
    let data = Data::random(&mut random, Form::of(Kind::F32, (3, 77)));
    let told = data.told::<f32>(&token());
    let chosen = evaluate::<f32>(&token(), &data.batch(&told), None, true).expect("a batch");
    let is_same = |arch| bits(&data.run::<f32>(arch, &token(), None)) == bits(&chosen);
    assert!(levels().into_iter().any(is_same));
}

#[test]
fn bytes_and_booleans_are_the_same_mask() {
    let mut random = Random(5);
    let form = Form {
        masked: true,
        ..Form::of(Kind::F32, (3, 77))
    };
    let data = Data::random(&mut random, form);
    let mask = data.mask.as_ref().expect("a mask");
    // Any byte but 0 is valid.
    let bytes: Vec<u8> = mask.iter().map(|&valid| u8::from(valid) * 3).collect();
    for objective in objectives() {
        let told = data.told::<f32>(&objective);
        let batch = data.batch(&told);
        let of_bytes = Batch {
            mask: Some(Mask::from(bytes.as_slice())),
            ..batch
        };
        for arch in levels() {
            let found = |batch| {
                let found = evaluate_on::<f32>(arch, &objective, batch, None, true);
                bits(&found.expect("a batch"))
            };
            assert_eq!(found(&batch), found(&of_bytes));
        }
    }
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
    // What has no gradient keeps none.
    for factor in [f64::INFINITY, f64::NAN] {
        let mut gradient = [0.0_f32, 2.0, -0.0];
        scale_in_place(&mut gradient, factor);
        assert_eq!((gradient[0], gradient[2]), (0.0, 0.0));
        assert!(!gradient[1].is_finite());
    }
}

fn of_reduction(reduction: Reduction) -> Objective {
    let mut objective = token();
    objective.reduction = reduction;
    objective
}

/// Why a batch is refused.
fn refusal(objective: &Objective, batch: &Batch<'_>) -> BatchError {
    evaluate::<f32>(objective, batch, None, true).expect_err("it is refused")
}

#[test]
fn wrong_batches_are_refused() {
    let mut random = Random(6);
    let data = Data::random(&mut random, Form::of(Kind::F32, (3, 7)));
    let told = data.told::<f32>(&token());
    let batch = data.batch(&told);
    let Column::F32(log_probs) = &data.columns.log_probs else {
        panic!("f32");
    };
    let short = Batch {
        columns: Columns {
            log_probs: Some(log_probs[1..].into()),
            ..batch.columns
        },
        ..batch
    };
    assert_eq!(
        refusal(&token(), &short).to_string(),
        "`log_probs` has 20 elements, the batch's shape asks for 21"
    );
    let short = Batch {
        mask: Some(Mask::from(&[1_u8; 3][..])),
        ..batch
    };
    assert_eq!(
        refusal(&token(), &short),
        BatchError::Length {
            name: "mask",
            expected: 21,
            got: 3
        }
    );
    let without = Batch {
        columns: Columns {
            rollout_log_probs: None,
            ..batch.columns
        },
        ..batch
    };
    assert!(evaluate::<f32>(&token(), &without, None, true).is_ok());
    let mut objective = token();
    objective.ratio.against = Behavior::Rollout;
    assert_eq!(
        refusal(&objective, &without),
        BatchError::Missing {
            name: "rollout_log_probs"
        }
    );
    let weighed = of_reduction(Reduction::PromptMean);
    let without = Batch {
        sequence_weights: None,
        ..batch
    };
    let name = "sequence_weights";
    assert_eq!(refusal(&weighed, &without), BatchError::Missing { name });
    assert!(evaluate::<f32>(&token(), &without, None, true).is_ok());
    let short = Batch {
        sequence_weights: Some((&[0.5_f32; 2][..]).into()),
        ..batch
    };
    assert_eq!(
        refusal(&weighed, &short),
        BatchError::Length {
            name,
            expected: 3,
            got: 2
        }
    );
    let huge = Batch {
        sequences: usize::MAX,
        ..batch
    };
    assert_eq!(refusal(&token(), &huge), BatchError::TooLarge);
    for surrogate in [
        Surrogate::from(CovarianceClip::default()),
        CovariancePenalty::default().into(),
        SecondMomentMask::default().into(),
        SecondMomentClip::default().into(),
    ] {
        assert_eq!(refusal(&of(surrogate), &batch), BatchError::NoKernel);
    }
}

#[test]
fn every_column_that_an_objective_reads_has_to_be_there() {
    let mut random = Random(7);
    let data = Data::random(&mut random, Form::of(Kind::F32, (3, 7)));
    for objective in objectives() {
        let told = data.told::<f32>(&objective);
        let batch = data.batch(&told);
        let filters = objective.rollout_correction.map(|it| it.filters);
        let reads_reference = objective
            .kl_penalty
            .is_some_and(|penalty| penalty.against == KlBase::Reference);
        let is_read = [
            ("log_probs", true),
            ("old_log_probs", true),
            ("rollout_log_probs", objective.reads_rollout()),
            ("ref_log_probs", reads_reference),
            ("entropies", objective.reads_entropies()),
            ("advantages", true),
            ("future_weights", objective.future_weight.is_some()),
            (
                "segment_log_ratios",
                objective.ratio.level == RatioLevel::Segment,
            ),
            (
                "segment_rejections",
                filters.is_some_and(|filters| filters.of_segments()),
            ),
        ];
        for (name, is_read) in is_read {
            let mut columns = batch.columns;
            for (column_name, column) in columns.as_mut().named() {
                if column_name == name {
                    *column = None;
                }
            }
            let without = Batch { columns, ..batch };
            let found = evaluate::<f32>(&objective, &without, None, true);
            match is_read {
                true => assert_eq!(found, Err(BatchError::Missing { name })),
                false => assert!(found.is_ok(), "{name}, {objective:?}"),
            }
        }
    }
}

//! What a batch can be refused for, each time naming the tensor or field.

use burn::tensor::Tensor;
use policy_loss::{
    Advantages, BatchError, Behavior, EntropyBonus, GlobalTotals, Implementation, KlPenalty,
    PolicyBatch, PolicyLossConfig, Ratio, Reduction, RolloutCorrection, presets,
};

use crate::compare::assert_names;
use crate::runner::Runner;

const TIS: RolloutCorrection = presets::tis(0.5, 5.0);

fn zeros(runner: &Runner, shape: [usize; 2]) -> Tensor<2> {
    Tensor::zeros(shape, &runner.device)
}

fn batch(runner: &Runner) -> PolicyBatch {
    let zeros = || zeros(runner, [2, 3]);
    PolicyBatch::new(zeros(), zeros(), zeros())
}

/// Refused alike with and without a reduction.
fn refused(runner: &Runner, config: PolicyLossConfig, batch: PolicyBatch) -> BatchError {
    let loss = runner.init(&config);
    let unreduced = loss.forward_no_reduction(batch.clone());
    let reduced = loss.forward(batch).expect_err("the batch is refused");
    assert_eq!(unreduced.err(), Some(reduced.clone()), "{runner}");
    reduced
}

/// Shapes that differ from that of `log_probs`.
pub fn shapes(runner: &Runner) {
    let config = PolicyLossConfig::new();
    let (right, wrong) = (zeros(runner, [2, 3]), zeros(runner, [3, 2]));
    let new = |old: &Tensor<2>, advantages: Advantages| {
        PolicyBatch::new(right.clone(), old.clone(), advantages)
    };
    let sound = || new(&right, right.clone().into());
    let cases = [
        ("old_log_probs", new(&wrong, right.clone().into())),
        ("advantages", new(&right, wrong.clone().into())),
        (
            "rollout_log_probs",
            sound().with_rollout_log_probs(wrong.clone()),
        ),
        ("ref_log_probs", sound().with_ref_log_probs(wrong.clone())),
        ("segment_ids", sound().with_segment_ids(wrong.clone().int())),
        ("action_mask", sound().with_action_mask(wrong.equal_elem(0))),
    ];
    for (name, batch) in cases {
        let error = refused(runner, config, batch);
        assert_names(&error, &[name, "[3, 2]", "[2, 3]"]);
        match error {
            BatchError::Shape { tensor, got, .. } => {
                assert_eq!((tensor, got), (name, vec![3, 2]), "{runner}");
            }
            other => panic!("{runner}: {name}: {other:?}"),
        }
    }
    // Nothing is broadcast that is not documented.
    for shape in [[1, 3], [1, 1], [2, 1], [2, 4]] {
        let batch = new(&zeros(runner, shape), right.clone().into());
        let error = refused(runner, config, batch);
        let is_shape = matches!(error, BatchError::Shape { .. });
        assert!(is_shape, "{runner}: {error:?}");
    }
    for shape in [[1, 3], [1, 1], [2, 2]] {
        let error = refused(runner, config, new(&right, zeros(runner, shape).into()));
        assert_names(&error, &["advantages", "[2, 3], [2, 1] or [2]"]);
    }
    let per_token = Tensor::<1>::zeros([3], &runner.device);
    let error = refused(runner, config, new(&right, per_token.into()));
    assert_names(&error, &["advantages", "[3]"]);
}

/// What the objective reads must be there; what it does not read need not.
pub fn missing(runner: &Runner) {
    let against_rollout = Ratio::TOKEN.against(Behavior::Rollout);
    let new = PolicyLossConfig::new;
    let zeros = || zeros(runner, [2, 3]);
    let rollout = batch(runner).with_rollout_log_probs(zeros());
    for (config, tensor, needed_by, given) in [
        (
            new().with_rollout_correction(TIS),
            "rollout_log_probs",
            "rollout_correction",
            rollout.clone(),
        ),
        (
            new().with_ratio(against_rollout),
            "rollout_log_probs",
            "ratio.against",
            rollout,
        ),
        (
            new().with_kl_penalty(KlPenalty::new(0.1)),
            "ref_log_probs",
            "kl_penalty",
            batch(runner).with_ref_log_probs(zeros()),
        ),
        (
            new().with_entropy_bonus(EntropyBonus::new(0.1)),
            "entropies",
            "entropy_bonus",
            batch(runner).with_entropies(zeros()),
        ),
    ] {
        let error = refused(runner, config, batch(runner));
        assert_names(&error, &[tensor, needed_by, &format!("with_{tensor}")]);
        match error {
            BatchError::Missing { tensor: named, .. } => assert_eq!(named, tensor, "{runner}"),
            other => panic!("{runner}: {other:?}"),
        }
        assert!(runner.init(&config).forward(given).is_ok(), "{runner}");
    }
}

/// A mean over prompts needs to know of them, one for each sequence; of a part of a batch, how many
/// tokens of the whole answer them.
pub fn prompts(runner: &Runner) {
    let config = PolicyLossConfig::new().with_reduction(Reduction::PromptMean);
    let new = GlobalTotals::new;
    let ids = |ids: &[i64]| batch(runner).with_prompt_ids(ids);
    let of_part = |totals: GlobalTotals| batch(runner).with_totals(totals);
    let of_whole = of_part(new().with_prompts(5).with_tokens(12));
    let no_prompts = [
        "`totals.prompts` is missing",
        "`prompt_tokens`",
        "with_totals",
    ];
    for (batch, named) in [
        (
            batch(runner),
            &["`prompt_ids` is missing", "with_prompt_ids"][..],
        ),
        (
            ids(&[1]),
            &["`prompt_ids`", "[1]", "[2], one for each sequence"],
        ),
        (
            of_whole.clone().with_prompt_ids([1, 2]),
            &[
                "`prompt_tokens` is missing",
                "`totals`",
                "with_prompt_tokens",
            ],
        ),
        (batch(runner).with_prompt_tokens([7, 7]), &no_prompts),
        (ids(&[1, 2]).with_prompt_tokens([7, 7]), &no_prompts),
        (
            of_whole
                .clone()
                .with_prompt_ids([4, 4])
                .with_prompt_tokens([7, 8]),
            &[
                "`prompt_tokens` is 7 for sequence 0 and 8 for sequence 1",
                "the prompt 4",
                "one number for each prompt",
            ],
        ),
        (
            of_whole.clone().with_prompt_tokens([1, 2, 3]),
            &["`prompt_tokens`", "[3]", "[2], one for each sequence"],
        ),
        (
            of_part(new().with_world_size(2)),
            &["`totals.prompts` is missing", "`prompt_mean`"],
        ),
        (
            of_part(new().with_prompts(0)),
            &["`totals.prompts` is 0", "above 0"],
        ),
    ] {
        assert_names(refused(runner, config, batch), named);
    }
    let error = refused(runner, PolicyLossConfig::new(), ids(&[1, 2, 3]));
    assert_names(&error, &["`prompt_ids`"]);
    for known in [
        ids(&[1, 1]),
        of_whole.clone().with_prompt_tokens([7, 8]),
        of_whole.with_prompt_ids([4, 5]).with_prompt_tokens([7, 8]),
    ] {
        assert!(runner.init(&config).forward(known).is_ok(), "{runner}");
    }
}

/// Totals that are 0, or without the one that the reduction counts.
pub fn totals(runner: &Runner) {
    let new = GlobalTotals::new;
    let (token, sequence) = (Reduction::TokenMean, Reduction::SequenceMean);
    let length = Reduction::FixedLength { length: 5 };
    let of_three = || new().with_tokens(3);
    for (reduction, totals, field) in [
        (token, new().with_world_size(4), "totals.tokens"),
        (sequence, new().with_world_size(4), "totals.sequences"),
        (token, new(), "totals.tokens"),
        (token, new().with_sequences(3), "totals.tokens"),
        (sequence, of_three(), "totals.sequences"),
        (token, new().with_tokens(0), "totals.tokens"),
        (sequence, new().with_sequences(0), "totals.sequences"),
        (token, of_three().with_sequences(0), "totals.sequences"),
        (token, of_three().with_world_size(0), "totals.world_size"),
        (length, new().with_tokens(10), "totals.sequences"),
    ] {
        let config = PolicyLossConfig::new().with_reduction(reduction);
        let error = refused(runner, config, batch(runner).with_totals(totals));
        assert_names(&error, &[field, "above 0", reduction.name()]);
        match error {
            BatchError::Totals { field: named, .. } => {
                assert_eq!(named, field, "{runner}, {reduction:?}")
            }
            other => panic!("{runner}: {other:?}"),
        }
    }
}

/// Tensors of another backend, in every place.
pub fn devices(runner: &Runner) {
    let elsewhere = runner.elsewhere();
    let (here, there) = (zeros(runner, [2, 3]), Tensor::zeros([2, 3], &elsewhere));
    let new = |old: &Tensor<2>, advantages: Advantages| {
        PolicyBatch::new(here.clone(), old.clone(), advantages)
    };
    let sound = || new(&here, here.clone().into());
    let per_sequence = Tensor::<1>::zeros([2], &elsewhere);
    for (name, batch) in [
        ("old_log_probs", new(&there, here.clone().into())),
        ("advantages", new(&here, there.clone().into())),
        ("advantages", new(&here, per_sequence.into())),
        (
            "rollout_log_probs",
            sound().with_rollout_log_probs(there.clone()),
        ),
        ("ref_log_probs", sound().with_ref_log_probs(there.clone())),
        ("segment_ids", sound().with_segment_ids(there.clone().int())),
        (
            "action_mask",
            sound().with_action_mask(there.clone().equal_elem(0)),
        ),
    ] {
        let error = refused(runner, PolicyLossConfig::new(), batch);
        assert_names(&error, &[name, "to_device"]);
        match error {
            BatchError::Device { tensor, .. } => assert_eq!(tensor, name, "{runner}"),
            other => panic!("{runner}: {name}: {other:?}"),
        }
    }
}

/// Types that the device does not compute, whatever its driver claims; before anything is
/// launched. NdArray cannot even hold a half-width type, so there the answer is all there is.
pub fn dtypes(runner: &Runner) {
    for dtype in runner.refused_dtypes() {
        let computes = policy_loss::device::computes(&runner.device, dtype);
        assert!(!computes, "{runner}: {dtype:?}");
        if runner.backend == "ndarray" {
            continue;
        }
        let right = zeros(runner, [2, 3]);
        let wrong = Tensor::<2>::empty([2, 3], (&runner.device, dtype));
        let new = |three: [&Tensor<2>; 3]| {
            let [log_probs, old, advantages] = three.map(Tensor::clone);
            PolicyBatch::new(log_probs, old, advantages)
        };
        for (name, batch) in [
            ("log_probs", new([&wrong, &right, &right])),
            ("old_log_probs", new([&right, &wrong, &right])),
            ("advantages", new([&right, &right, &wrong])),
            (
                "rollout_log_probs",
                new([&right; 3]).with_rollout_log_probs(wrong.clone()),
            ),
        ] {
            let error = refused(runner, PolicyLossConfig::new(), batch);
            assert_names(&error, &[name, &format!("{dtype:?}"), "f32"]);
            match error {
                BatchError::Dtype { tensor, got, .. } => assert_eq!((tensor, got), (name, dtype)),
                other => panic!("{runner}: {name}: {other:?}"),
            }
        }
    }
}

/// The fused implementation is an error where there is none, and `auto` takes it where there is.
pub fn implementations(runner: &Runner) {
    let available = crate::implementations(&runner.device);
    let forward = |implementation| {
        let config = PolicyLossConfig::new().with_implementation(implementation);
        config.init().expect("it is valid").forward(batch(runner))
    };
    let auto = forward(Implementation::Auto).expect("there is always one");
    match available.contains(&Implementation::Fused) {
        true => assert_eq!(auto.implementation, Implementation::Fused, "{runner}"),
        false => {
            assert_eq!(auto.implementation, Implementation::Composed, "{runner}");
            let error = forward(Implementation::Fused).expect_err("there is none");
            let is_not_fused = matches!(error, BatchError::NotFused { .. });
            assert!(is_not_fused, "{runner}: {error:?}");
        }
    }
}

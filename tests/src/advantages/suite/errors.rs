//! What a batch can be refused for, each time naming the tensor.

use burn::tensor::Tensor;
use policy_loss::{
    AdvantageBatch, AdvantageEstimatorConfig as Config, BatchError, KlReward, KlRewardBatch,
    Whitening,
};

use crate::compare::assert_names;
use crate::runner::Runner;

fn refused(config: Config, batch: AdvantageBatch, parts: &[&str]) -> BatchError {
    let estimator = config.init().expect("sound");
    let error = estimator.forward(batch).expect_err("the batch is refused");
    assert_names(&error, parts);
    error
}

fn zeros<const D: usize>(runner: &Runner, shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &runner.device)
}

/// Shapes that do not belong together.
pub fn shapes(runner: &Runner) {
    let new = || AdvantageBatch::new(zeros(runner, [2, 3]));
    let grpo = Config::grpo();
    let cases = [
        ("values", "[3, 2]", new().with_values(zeros(runner, [3, 2]))),
        (
            "log_probs",
            "[3, 2]",
            new().with_log_probs(zeros(runner, [3, 2])),
        ),
        (
            "sums_of_squares",
            "[2, 1]",
            new().with_sums_of_squares(zeros(runner, [2, 1])),
        ),
        (
            "importance_weights",
            "[1, 3]",
            new().with_importance_weights(zeros(runner, [1, 3])),
        ),
        ("baselines", "[3]", new().with_baselines(zeros(runner, [3]))),
        ("group_ids", "[3]", new().with_group_ids([1, 2, 3])),
        (
            "action_mask",
            "[2, 2]",
            new().with_action_mask(zeros(runner, [2, 2]).equal_elem(0)),
        ),
    ];
    for (name, got, batch) in cases {
        let error = refused(grpo, batch, &[name, got, "[2", "`rewards`"]);
        assert!(
            matches!(error, BatchError::Shape { tensor, .. } if tensor == name),
            "{runner}: {error:?}"
        );
    }
    // The mask says how large a batch of sequence rewards is.
    let batch = AdvantageBatch::new(zeros(runner, [3]))
        .with_action_mask(zeros(runner, [2, 3]).equal_elem(0));
    refused(grpo, batch, &["rewards", "[3]", "[2]", "`action_mask`"]);
    let whitening = Whitening::new();
    let mask = zeros(runner, [3, 2]).equal_elem(0);
    let error = whitening.forward(zeros(runner, [2, 3]), Some(mask));
    let error = error.expect_err("the mask is refused");
    assert_names(&error, &["action_mask", "[3, 2]", "[2, 3]"]);
}

/// Tensors that an estimator needs, empty batches included.
pub fn missing(runner: &Runner) {
    for shape in [[2, 3], [0, 3]] {
        let batch = || AdvantageBatch::new(zeros(runner, shape));
        for (config, name) in [
            (Config::gae(), "values"),
            (Config::remax(), "baselines"),
            (Config::grpo(), "group_ids"),
            (Config::opo(), "group_ids"),
            (Config::optimal_token_baseline(), "log_probs"),
        ] {
            let add = format!("AdvantageBatch::with_{name}");
            let error = refused(config, batch(), &[name, &add]);
            assert!(
                matches!(error, BatchError::Missing { tensor, .. } if tensor == name),
                "{runner}: {error:?}"
            );
        }
    }
    // One by one.
    let log_probs =
        AdvantageBatch::new(zeros(runner, [2, 3])).with_log_probs(zeros(runner, [2, 3]));
    let squares = log_probs
        .clone()
        .with_sums_of_squares(zeros(runner, [2, 3]));
    for (name, batch) in [("sums_of_squares", log_probs), ("group_ids", squares)] {
        let config = Config::optimal_token_baseline();
        refused(config, batch, &[name, "token_baseline"]);
    }
    // Without a mask nobody knows how long a sequence is.
    let batch = AdvantageBatch::new(zeros(runner, [2])).with_group_ids([0, 0]);
    refused(Config::opo(), batch, &["action_mask", "length_weighted"]);
}

/// Types that the device does not compute; Flex computes all of them, and NdArray cannot even make a
/// tensor of the others.
pub fn dtypes(runner: &Runner) {
    if runner.backend == "ndarray" {
        return;
    }
    let here = || zeros(runner, [2, 3]);
    for dtype in runner.refused_dtypes() {
        let odd = Tensor::<2>::empty([2, 3], (&runner.device, dtype));
        for (name, config, batch) in [
            ("rewards", Config::grpo(), AdvantageBatch::new(odd.clone())),
            (
                "values",
                Config::gae(),
                AdvantageBatch::new(here()).with_values(odd.clone()),
            ),
        ] {
            let batch = batch.with_group_ids([0, 0]);
            let error = refused(config, batch, &[name, &format!("{dtype:?}"), "f32"]);
            assert!(
                matches!(error, BatchError::Dtype { tensor, .. } if tensor == name),
                "{runner}: {error:?}"
            );
        }
    }
}

/// Tensors on two devices.
pub fn devices(runner: &Runner) {
    let elsewhere = runner.elsewhere();
    let there = Tensor::<2>::zeros([2, 3], &elsewhere);
    let new = || AdvantageBatch::new(zeros(runner, [2, 3])).with_group_ids([0, 0]);
    for (name, batch) in [
        ("values", new().with_values(there.clone())),
        (
            "baselines",
            new().with_baselines(Tensor::zeros([2], &elsewhere)),
        ),
        (
            "action_mask",
            new().with_action_mask(there.clone().equal_elem(0)),
        ),
    ] {
        let error = refused(Config::grpo(), batch, &[name, "`rewards`", "to_device"]);
        assert!(
            matches!(error, BatchError::Device { tensor, .. } if tensor == name),
            "{runner}: {error:?}"
        );
    }
}

/// The KL in the reward: coefficients and shapes.
pub fn kl_reward(runner: &Runner) {
    let batch = |reference: [usize; 2]| {
        let log_probs = zeros(runner, [2, 3]);
        KlRewardBatch::new(zeros(runner, [2]), log_probs, zeros(runner, reference))
    };
    for coefficient in [-0.1, f64::NAN, f64::INFINITY] {
        let error = KlReward::default().forward(batch([2, 3]), coefficient);
        let error = error.expect_err("the coefficient is refused");
        assert_names(&error, &["coefficient", &coefficient.to_string()]);
    }
    let error = KlReward::default().forward(batch([3, 2]), 0.1);
    let error = error.expect_err("the shape is refused");
    assert_names(&error, &["ref_log_probs", "[3, 2]", "[2, 3]"]);
    let log_probs = zeros(runner, [2, 3]);
    let batch = KlRewardBatch::new(zeros(runner, [3]), log_probs.clone(), log_probs);
    let error = KlReward::default().forward(batch, 0.1);
    let error = error.expect_err("the rewards are refused");
    assert_names(&error, &["rewards", "[3]", "[2]"]);
}

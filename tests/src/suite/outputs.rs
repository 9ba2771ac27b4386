//! What comes out: loss, metrics and sums, and the loss as a module.

use burn::module::{Module, Param};
use burn::tensor::{Bool, DType, Device, Tensor};
use policy_loss::{MetricValues, PolicyLoss};

use crate::busy::busy;
use crate::case::Case;
use crate::compare::{Tolerance, assert_near};
use crate::configs::describe;
use crate::runner::{Runner, values};

/// Metrics that are read without the loss are those that are read with it, and both are formulas of
/// the sums; loss and sums are in the type of the arithmetic, and no metric is tracked.
pub fn read_in_parts(runner: &Runner) {
    for config in runner.some_configs() {
        let case = busy(0).with_config(config);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let batch = runner.batch(&case, runner.leaf(&case, dtype), dtype);
            let output = runner.forward(&case.name, &runner.init(&config), batch);
            let whole = output.read().expect("the output can be read");
            let metrics = output.metrics.read().expect("metrics can be read");
            assert_eq!(whole.metrics, metrics, "{what}");
            let sums = output.metrics.sums().expect("sums can be read");
            assert_eq!(
                MetricValues::of(&sums, &config.objective),
                metrics,
                "{what}"
            );
            let loss = sums.mean_loss(&config.objective);
            assert_near(Tolerance::value(dtype), &what, loss, whole.loss);
            assert_eq!(output.loss.dims(), [1], "{what}");
            assert_eq!(output.loss.dtype(), dtype, "{what}");
            assert_eq!(output.loss.is_tracked(), runner.is_tracked(), "{what}");
        }
    }
}

/// The divergence estimates of a policy that has hardly moved keep their digits: what a naive
/// `exp(d) - 1 - d` returns there is noise.
pub fn small_divergences(runner: &Runner) {
    for size in [1e-4, 1e-3, 1e-2, 0.1, 0.4, 0.6] {
        let mut case = Case::new(format!("differences of {size}"), [1, 7]);
        let differences = [1.0, -0.9, 0.8, -0.7, 0.6, -0.5, 0.4];
        case.log_probs = differences.map(|d| d * size).to_vec();
        for dtype in runner.exact_dtypes() {
            let expected = case.rounded(dtype, dtype).answer().metrics;
            let actual = runner.outcome(&case, dtype).metrics;
            let tolerance = Tolerance {
                // The oracle's own subtraction loses digits, too.
                relative: if dtype == DType::F64 { 1e-9 } else { 1e-5 },
                absolute: 0.0,
            };
            for (name, actual) in [
                ("kl_k1", actual.kl_k1),
                ("kl_k2", actual.kl_k2),
                ("kl_k3", actual.kl_k3),
            ] {
                let what = format!("{runner}, {dtype:?}, {}: {name}", case.name);
                let expected = expected.get(name).expect("there always is one");
                assert_near(tolerance, &what, actual, expected);
            }
        }
    }
}

/// What is told of each token adds up to the sums of the batch, and is 0 or false where none is
/// valid.
pub fn details_add_up(runner: &Runner) {
    for config in runner.configs() {
        let case = busy(3).with_config(config);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let loss = runner.init(&config);
            let batch = runner.batch(&case, runner.leaf(&case, dtype), dtype);
            let output = runner.forward(&what, &loss, batch.clone());
            let sums = output.metrics.sums().expect("sums can be read");
            let details = loss.token_details(batch).expect(&what);
            assert!(!details.token_loss.is_tracked(), "{what}");
            let valid: Vec<bool> = (0..case.log_probs.len())
                .map(|i| case.is_valid(i))
                .collect();
            let read = |x: Tensor<2>| {
                assert_eq!(x.dims(), [case.sequences, case.tokens], "{what}");
                let values = values(x);
                let masked = values.iter().zip(&valid).filter(|(_, valid)| !**valid);
                assert!(masked.into_iter().all(|(value, _)| *value == 0.0), "{what}");
                values
            };
            let condition = |x: Tensor<2, Bool>| read(x.float());
            let near = |name: &str, values: Vec<f64>, expected: f64| {
                let what = format!("{what}: {name}");
                let sum = values.iter().sum();
                assert_near(Tolerance::value(dtype), &what, sum, expected);
            };
            near("valid", condition(details.valid), sums.valid_tokens);
            near("log_ratio", read(details.log_ratio), sums.log_ratio);
            near("ratio", read(details.ratio), sums.ratio);
            let advantages = read(details.advantages);
            let clipped = condition(details.clipped).into_iter().zip(&advantages);
            let clipped = clipped.filter(|(_, advantage)| **advantage != 0.0);
            let clipped = clipped.map(|(clipped, _)| clipped).collect();
            near("clipped", clipped, sums.clipped_above + sums.clipped_below);
            for (name, values, expected) in [
                (
                    "dual_clipped",
                    details.dual_clipped.map(condition),
                    sums.dual_clipped,
                ),
                ("gap", details.rollout_gap.map(read), sums.rollout_gap),
                ("weight", details.weight.map(read), sums.weight),
                (
                    "truncated",
                    details.weight_truncated.map(condition),
                    sums.truncated_weights,
                ),
                (
                    "zeroed",
                    details.weight_zeroed.map(condition),
                    sums.rejected_weights,
                ),
                (
                    "off_policy",
                    details.off_policy_dropped.map(condition),
                    sums.off_policy_dropped,
                ),
                (
                    "low_entropy",
                    details.low_entropy_dropped.map(condition),
                    sums.low_entropy_dropped,
                ),
                (
                    "missing",
                    details.missing_rollout_log_probs.map(condition),
                    sums.missing_rollout_log_probs,
                ),
            ] {
                near(name, values.unwrap_or_default(), expected);
            }
            let unreduced = runner.token_losses(&case, dtype);
            assert_eq!(read(details.token_loss), unreduced, "{what}");
        }
    }
}

#[derive(Module, Debug)]
struct Policy {
    log_probs: Param<Tensor<2>>,
    loss: PolicyLoss,
}

/// A loss can sit in a model: it has no parameters, is cloned, moved and trained with it.
pub fn in_a_model(runner: &Runner) {
    let case = busy(0);
    let dtype = DType::F32;
    let config = case.config.with_implementation(runner.implementation);
    let policy = Policy {
        log_probs: Param::from_tensor(runner.tensor(&case.log_probs, [4, 6], dtype)),
        loss: runner.init(&config),
    };
    assert_eq!(policy.num_params(), case.log_probs.len(), "{runner}");
    assert_eq!(policy.loss.num_params(), 0, "{runner}");

    let elsewhere: Device = policy_loss_flex::device().expect("every machine has it");
    let elsewhere = match runner.is_tracked() {
        true => elsewhere.autodiff(),
        false => elsewhere,
    };
    let moved = policy.loss.clone().to_device(&elsewhere);
    assert_eq!(moved.config(), &config, "{runner}");
    // Unlike a moved parameter, a forked one starts a new graph.
    let forked = policy.clone().fork(&elsewhere).fork(&runner.device);
    let expected = runner.outcome(&case, dtype);
    for (name, model) in [
        ("cloned", policy.clone()),
        ("built", policy),
        ("forked", forked),
    ] {
        assert_eq!(model.loss.config(), &config, "{runner}");
        let batch = runner.batch(&case, model.log_probs.val(), dtype);
        let output = runner.forward(&case.name, &model.loss, batch);
        let read = output.read().expect("the output can be read");
        assert_eq!(read.loss.to_bits(), expected.loss.to_bits(), "{runner}");
        if let Some(expected) = &expected.gradient {
            let gradients = output.loss.backward();
            let gradient = model.log_probs.val().grad(&gradients);
            let gradient = values(gradient.expect(name));
            assert_eq!(&gradient, expected, "{runner}");
        }
    }
}

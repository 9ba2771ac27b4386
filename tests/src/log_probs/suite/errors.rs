//! What is refused, and how it is said.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, Entropy, HalfProducts, Implementation, LinearHead, LogProbsTokens, PolicyBatch,
    PolicyLossConfig,
};

use super::{HeadCase, config, indices, init, is_of_cubecl, mask};
use crate::runner::Runner;

/// Shapes that do not fit, each named with what would.
pub fn shapes(runner: &Runner) {
    let case = HeadCase::new(31, [4, 3, 5]);
    let log_probs = init(runner, &case, Entropy::None);
    let floats = |shape: [usize; 2]| runner.zeros(shape);
    let targets = |count: usize| indices(runner, &vec![0; count], [count]);
    let refused = |result: Result<_, BatchError>, tensor: &str, expected: &str| {
        let error: BatchError = match result {
            Err(error) => error,
            Ok(()) => panic!("{runner}: {tensor} was accepted"),
        };
        let message = error.to_string();
        let starts = format!("`{tensor}` has shape");
        assert!(
            message.starts_with(&starts) && message.contains(expected),
            "{message}"
        );
    };
    let logits = |logits, targets| log_probs.forward(logits, targets).map(drop);
    refused(logits(floats([4, 5]), targets(3)), "targets", "[4]");
    refused(logits(floats([4, 0]), targets(4)), "logits", "above 0");

    let linear = |head: LinearHead, count: usize, valid: usize| {
        let valid = mask(runner, &vec![true; valid], [valid]);
        log_probs
            .forward_linear(
                floats([4, 3]),
                &head,
                LogProbsTokens::new(targets(count)).with_action_mask(valid),
            )
            .map(drop)
    };
    let head = LinearHead::new(floats([3, 5]));
    assert_eq!(linear(head.clone(), 4, 4), Ok(()));
    refused(linear(head.clone(), 5, 4), "targets", "[4]");
    refused(linear(head.clone(), 4, 3), "action_mask", "[4]");
    refused(
        linear(LinearHead::new(floats([5, 3])), 4, 4),
        "weight",
        "[3, V]",
    );
    refused(
        linear(LinearHead::tied(floats([3, 5])), 4, 4),
        "weight",
        "[V, 3]",
    );
    refused(
        linear(LinearHead::new(floats([3, 0])), 4, 4),
        "weight",
        "above 0",
    );
    let biased = head.clone().with_bias(runner.zeros([4]));
    refused(linear(biased, 4, 4), "bias", "[5]");

    let loss = PolicyLossConfig::new().init().expect("valid");
    let no_log_probs = || PolicyBatch::without_log_probs(floats([2, 2]), floats([2, 2]));
    let policy = |hidden: [usize; 3], rows: usize| {
        let hidden = runner.zeros(hidden);
        let batch = no_log_probs();
        let targets = indices(runner, &vec![0; rows * 2], [rows, 2]);
        loss.forward_linear(&log_probs, hidden, &head, targets, batch)
            .map(drop)
    };
    assert_eq!(policy([2, 2, 3], 2), Ok(()));
    refused(policy([2, 2, 3], 3), "targets", "[2, 2]");
    refused(policy([2, 3, 3], 2), "hidden", "[2, 2, H]");

    // Hidden states on another device than the batch, before anything is multiplied.
    let there = runner.elsewhere();
    let hidden = Tensor::<3>::zeros([2, 2, 3], &there);
    let batch = no_log_probs();
    let targets = indices(runner, &[0; 4], [2, 2]);
    let result = loss.forward_linear(&log_probs, hidden, &head, targets, batch);
    let message = result.map(drop).expect_err("refused").to_string();
    assert!(message.starts_with("`hidden` is on"), "{message}");

    // A mask comes once.
    let twice = |in_batch: bool, in_tokens: bool| {
        let all = || mask(runner, &[true; 4], [2, 2]);
        let mut batch = no_log_probs();
        if in_batch {
            batch = batch.with_action_mask(all());
        }
        let tokens = LogProbsTokens::new(indices(runner, &[0; 4], [2, 2]));
        let tokens = tokens.with_action_mask(in_tokens.then(all));
        loss.forward_linear(&log_probs, runner.zeros([2, 2, 3]), &head, tokens, batch)
            .map(drop)
    };
    assert_eq!(twice(true, false), Ok(()));
    assert_eq!(twice(false, true), Ok(()));
    let message = twice(true, true).expect_err("refused").to_string();
    assert!(
        message.starts_with("`action_mask` is given twice") && message.contains("with_action_mask"),
        "{message}"
    );
}

/// Halves that cannot be multiplied as they are.
pub fn native_half_products(runner: &Runner) {
    let case = HeadCase::new(32, [4, 3, 5]);
    let config = config(runner, &case, Entropy::None).with_half_products(HalfProducts::Native);
    for dtype in runner.half_dtypes() {
        let run = |implementation: Implementation, weight: DType| {
            let hidden = runner.tracked(&case.hidden, [4, 3], dtype);
            let head = LinearHead::new(runner.tracked(&case.weight, [3, 5], weight));
            let targets = indices(runner, &case.targets, [4]);
            let log_probs = config.with_implementation(implementation).init();
            let result = log_probs
                .expect("valid")
                .forward_linear(hidden, &head, targets);
            result.map(drop)
        };
        let refused = |result: Result<(), BatchError>, why: &str| {
            let error = result.expect_err("refused").to_string();
            assert!(
                error.contains("accepted: auto, widened"),
                "{runner}, {why}: {error}"
            );
        };
        refused(run(Implementation::Auto, DType::F32), "two types");
        refused(run(Implementation::Composed, dtype), "composed");
        match is_of_cubecl(runner) {
            true => assert_eq!(run(Implementation::Auto, dtype), Ok(())),
            false => refused(run(Implementation::Auto, dtype), "a CPU"),
        }
    }
}

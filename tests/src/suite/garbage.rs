//! What stands at a masked position changes no bit.

use burn::tensor::DType;
use policy_loss::{GlobalTotals, PolicyLossConfig};

use crate::busy::{MASKED_ROW, busy};
use crate::case::{Case, HostAdvantages};
use crate::compare::bits;
use crate::configs::describe;
use crate::runner::Runner;

const KINDS: [f64; 5] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e30];

/// The inputs that garbage is put into.
const INPUTS: [&str; 7] = [
    "log_probs",
    "old_log_probs",
    "advantages",
    "rollout_log_probs",
    "ref_log_probs",
    "entropies",
    "segment_ids",
];

/// Every kind of garbage, every input, every configuration: each input alone with all kinds, and
/// all inputs together.
pub fn in_every_input(runner: &Runner) {
    let mut patterns = INPUTS.map(|input| (vec![input], KINDS.to_vec())).to_vec();
    patterns.push((INPUTS.to_vec(), KINDS.to_vec()));
    for config in runner.configs() {
        assert_unseen(runner, &runner.exact_dtypes(), config, &patterns);
    }
}

/// One kind of garbage at a time.
pub fn of_each_kind(runner: &Runner) {
    let patterns = KINDS.map(|kind| (INPUTS.to_vec(), vec![kind]));
    for config in runner.some_configs() {
        assert_unseen(runner, &runner.exact_dtypes(), config, &patterns);
    }
}

fn assert_unseen(
    runner: &Runner,
    dtypes: &[DType],
    config: PolicyLossConfig,
    patterns: &[(Vec<&str>, Vec<f64>)],
) {
    let clean = busy(2).with_config(config);
    for &dtype in dtypes {
        let expected = bits(&runner.outcome(&clean, dtype));
        for (inputs, kinds) in patterns {
            let case = polluted(&clean, inputs, kinds);
            let what = format!("{runner}, {dtype:?}, {inputs:?}, {kinds:?}");
            let outcome = runner.outcome(&case, dtype);
            assert_eq!(bits(&outcome), expected, "{what}, {}", describe(&config));
            for gradients in [&outcome.gradient, &outcome.entropy_gradient] {
                for (i, gradient) in gradients.iter().flatten().enumerate() {
                    let zero = case.is_valid(i) || *gradient == 0.0;
                    assert!(zero, "{what}: gradient[{i}] is {gradient}");
                }
            }
        }
    }
}

/// A case with garbage of these kinds at its masked tokens.
pub(super) fn polluted(clean: &Case, inputs: &[&str], kinds: &[f64]) -> Case {
    let tokens = 0..clean.log_probs.len();
    let masked: Vec<usize> = tokens.filter(|i| !clean.is_valid(*i)).collect();
    let mut case = clean.clone();
    for (offset, (name, column)) in case.columns_mut().into_iter().enumerate() {
        // One advantage for each sequence has no masked tokens.
        if !inputs.contains(&name) || column.len() != clean.log_probs.len() {
            continue;
        }
        for (nth, &i) in masked.iter().enumerate() {
            // Another offset for each input, so that unlike kinds meet.
            column[i] = kinds[(nth + offset) % kinds.len()];
        }
    }
    if let (true, Some(ids)) = (inputs.contains(&"segment_ids"), &mut case.segment_ids) {
        for i in masked {
            ids[i] = 1000 + i as i64;
        }
    }
    case
}

/// Token losses are 0 at masked positions, and as without garbage elsewhere.
pub fn in_token_losses(runner: &Runner) {
    for config in runner.configs() {
        let clean = busy(2).with_config(config);
        let case = polluted(&clean, &INPUTS, &KINDS);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let expected = runner.token_losses(&clean, dtype);
            let actual = runner.token_losses(&case, dtype);
            for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                assert_eq!(actual.to_bits(), expected.to_bits(), "{what}: [{i}]");
                assert!(case.is_valid(i) || *actual == 0.0, "{what}: [{i}]");
            }
        }
    }
}

/// One advantage per sequence: that of a row without a valid token.
pub fn in_advantages_of_masked_rows(runner: &Runner) {
    for config in runner.some_configs() {
        for form in [HostAdvantages::Column, HostAdvantages::Sequence] {
            let mut case = busy(2).with_config(config);
            case.advantages = form(vec![1.0, -0.5, 0.0, 2.0]);
            for dtype in runner.exact_dtypes() {
                let expected = bits(&runner.outcome(&case, dtype));
                for kind in KINDS {
                    let mut case = case.clone();
                    case.advantages.values_mut()[MASKED_ROW] = kind;
                    let what = format!("{runner}, {dtype:?}, {kind}, {}", describe(&config));
                    assert_eq!(bits(&runner.outcome(&case, dtype)), expected, "{what}");
                }
            }
        }
    }
}

/// A batch of nothing but garbage, with and without what a part of a batch is told.
pub fn everywhere(runner: &Runner) {
    let totals = GlobalTotals::new()
        .with_tokens(7)
        .with_sequences(3)
        .with_prompts(2)
        .with_world_size(2);
    for config in runner.configs() {
        let mut alone = busy(2).with_config(config);
        alone.action_mask = Some(vec![false; 24]);
        let alone = polluted(&alone, &INPUTS, &KINDS);
        let part = Case {
            totals: Some(totals),
            prompt_tokens: Some(vec![5, 2, 0, 5]),
            entropy_threshold: Some(0.4),
            second_moment_limit: Some(0.1),
            ..alone.clone()
        };
        for case in [alone, part] {
            for dtype in runner.exact_dtypes() {
                let what = format!(
                    "{runner}, {dtype:?}, {:?}, {}",
                    case.totals,
                    describe(&config)
                );
                for bits in bits(&runner.outcome(&case, dtype)) {
                    assert_eq!(f64::from_bits(bits), 0.0, "{what}");
                }
            }
        }
    }
}

/// Half-width types, where 1e30 is an infinity.
pub fn in_half_types(runner: &Runner) {
    let patterns = [(INPUTS.to_vec(), KINDS.to_vec())];
    for config in runner.configs() {
        assert_unseen(runner, &runner.half_dtypes(), config, &patterns);
    }
}

/// What the objective does not read may be anything at valid tokens, too: it is as if it were not
/// there, and has no metric.
pub fn in_what_is_not_read(runner: &Runner) {
    let without = Case {
        rollout_log_probs: None,
        ref_log_probs: None,
        entropies: None,
        ..busy(2)
    };
    for dtype in runner.exact_dtypes() {
        let expected = bits(&runner.outcome(&without, dtype));
        for kind in KINDS {
            let case = Case {
                rollout_log_probs: Some(vec![kind; 24]),
                ref_log_probs: Some(vec![kind; 24]),
                entropies: Some(vec![kind; 24]),
                ..without.clone()
            };
            let outcome = runner.outcome(&case, dtype);
            let what = format!("{runner}, {dtype:?}, {kind}");
            assert_eq!(outcome.metrics.rollout_kl, None, "{what}");
            assert_eq!(bits(&outcome), expected, "{what}");
        }
    }
}

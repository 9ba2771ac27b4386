//! What the parts of an objective need, and the forms that a batch can have.

use burn::tensor::{DType, Tensor};
use policy_loss::{BatchError, Clip, Implementation, PolicyBatch, PolicyLossConfig, Surrogate};

use crate::busy::busy;
use crate::case::Case;
use crate::compare::{
    Tolerance, assert_agrees_with_oracle, assert_all_near, assert_metrics, assert_names,
    assert_near, bits,
};
use crate::configs::{self, describe};
use crate::runner::{Runner, values};
use policy_loss_oracle::Metrics;

/// The fused implementation covers every objective whose surrogate has a kernel, `auto` takes it exactly
/// there, and elsewhere the error names the part.
pub fn fused_coverage(runner: &Runner) {
    if runner.implementation != Implementation::Fused {
        return;
    }
    let configs = match runner.is_slow() {
        true => runner.share(configs::covering()),
        false => configs::all(),
    };
    for config in configs {
        let what = format!("{runner}, {}", describe(&config));
        let covered = runner.covers(&config);
        let has_kernel = config.objective.surrogate.kind().is_some();
        assert_eq!(covered, has_kernel, "{what}");
        let case = busy(0).with_config(config);
        let dtype = runner.exact_dtypes()[0];
        let batch = || runner.batch(&case, runner.leaf(&case, dtype), dtype);
        let automatic = config.with_implementation(Implementation::Auto);
        let output = automatic.init().expect(&what).forward(batch());
        let chosen = output.expect(&what).implementation;
        match covered {
            true => assert_eq!(chosen, Implementation::Fused, "{what}"),
            false => {
                assert_eq!(chosen, Implementation::Composed, "{what}");
                let refused = runner.init(&config).forward(batch());
                let error = refused.expect_err(&what);
                let named = matches!(error, BatchError::PartNotFused { .. });
                assert!(named, "{what}: {error}");
                assert!(error.to_string().contains("composed"), "{what}: {error}");
            }
        }
    }
}

/// Loss, metrics, token losses and gradients of every objective, on a batch in which everything
/// happens.
pub fn every_objective(runner: &Runner) {
    for config in runner.objectives() {
        let mut case = busy(0).with_config(config);
        case.name = describe(&config);
        assert_agrees_with_oracle(runner, &case);
    }
}

/// Without `old_log_probs` every ratio against them is 1, with a gradient.
pub fn on_policy(runner: &Runner) {
    for config in runner.configs() {
        let mut case = busy(1).with_config(config);
        case.on_policy = true;
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, on policy, {}", describe(&config));
            let outcome = runner.outcome(&case, dtype);
            let mut same = case.clone();
            same.on_policy = false;
            same.old_log_probs = same.log_probs.clone();
            assert_eq!(
                bits(&outcome),
                bits(&runner.outcome(&same, dtype)),
                "{what}"
            );
            assert_eq!(outcome.metrics.ppo_kl, 0.0, "{what}");
            if let Some(gradient) = &outcome.gradient {
                let expected = case.rounded(dtype, dtype).answer().gradient;
                assert_all_near(Tolerance::gradient(dtype), &what, gradient, &expected);
            }
        }
    }
}

/// Sequences one behind the other in a row give what the padded batch gives.
pub fn packed_sequences(runner: &Runner) {
    for config in runner.configs() {
        // Its lot falls on positions, which are others.
        if matches!(config.objective.surrogate, Surrogate::CovarianceClip(_)) {
            continue;
        }
        let case = busy(3).with_config(config);
        let (packed, ids, sources) = pack(&case);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, packed, {}", describe(&config));
            let expected = runner.outcome(&case, dtype);
            let leaf = runner.leaf(&packed, dtype);
            let batch = runner.batch(&packed, leaf.clone(), dtype);
            let batch = batch.with_sequence_ids(ids.clone());
            let loss = runner.init(&config);
            let unreduced = loss.forward_no_reduction(batch.clone()).expect(&what);
            assert_eq!(unreduced.dims(), [1, ids.len()], "{what}");
            let padded = runner.token_losses(&case, dtype);
            let padded: Vec<f64> = sources.iter().map(|i| padded[*i]).collect();
            let value = Tolerance::value(dtype);
            assert_all_near(value, &what, &values(unreduced), &padded);
            let details = loss.token_details(batch.clone()).expect(&what);
            assert_eq!(details.clipped.dims(), [1, ids.len()], "{what}");
            assert_all_near(value, &what, &values(details.token_loss), &padded);
            let valid: Vec<bool> = sources.iter().map(|i| case.is_valid(*i)).collect();
            let told = values(details.valid.float());
            assert!(told.iter().map(|told| *told != 0.0).eq(valid), "{what}");
            let outcome = runner.read(&runner.forward(&what, &loss, batch), &leaf, None);
            assert_near(value, &what, outcome.loss, expected.loss);
            let metrics = Metrics(expected.metrics.named());
            assert_metrics(value, &what, &outcome.metrics, &metrics);
            if let (Some(actual), Some(expected)) = (&outcome.gradient, &expected.gradient) {
                let expected: Vec<f64> = sources.iter().map(|i| expected[*i]).collect();
                assert_all_near(Tolerance::gradient(dtype), &what, actual, &expected);
            }
        }
    }
}

/// The rows of a case in one, without leading and trailing padding, and with a token of no
/// sequence at the end; the number of each token's sequence, and where it came from.
fn pack(case: &Case) -> (Case, Vec<usize>, Vec<usize>) {
    let (mut ids, mut sources) = (Vec::new(), Vec::new());
    for row in 0..case.sequences {
        let tokens = row * case.tokens..(row + 1) * case.tokens;
        let first = tokens.clone().find(|i| case.is_valid(*i));
        let last = tokens.rev().find(|i| case.is_valid(*i));
        if let (Some(first), Some(last)) = (first, last) {
            sources.extend(first..=last);
            ids.extend((first..=last).map(|_| row));
        }
    }
    let masked = (0..case.log_probs.len()).find(|i| !case.is_valid(*i));
    sources.push(masked.expect("busy has padding"));
    ids.push(0);
    let mut packed = case.clone();
    packed.sequences = 1;
    packed.tokens = sources.len();
    for (_, column) in packed.columns_mut() {
        *column = sources.iter().map(|i| column[*i]).collect();
    }
    let turns = case.segment_ids.as_ref().expect("busy has some");
    packed.segment_ids = Some(sources.iter().map(|i| turns[*i]).collect());
    packed.action_mask = Some(sources.iter().map(|i| case.is_valid(*i)).collect());
    (packed, ids, sources)
}

/// The numbers of packed sequences are checked.
pub fn sequence_ids(runner: &Runner) {
    let loss = PolicyLossConfig::new()
        .with_surrogate(Clip::default())
        .init()
        .expect("it is valid");
    let row = || Tensor::<2>::zeros([1, 3], &runner.device);
    let packed = |ids: Vec<usize>| {
        let per_sequence = Tensor::<1>::zeros([2], &runner.device);
        loss.forward(PolicyBatch::new(row(), row(), per_sequence).with_sequence_ids(ids))
    };
    assert!(packed(vec![0, 1, 1]).is_ok(), "{runner}");
    for (ids, name) in [
        (vec![0, 1], "sequence_ids"),
        (vec![0, 1, 3], "sequence_ids"),
        (vec![0, 0, 0], "advantages"),
    ] {
        assert_names(packed(ids).expect_err("the numbers are wrong"), &[name]);
    }
    let zeros = || Tensor::<2>::zeros([2, 3], &runner.device);
    let rows = PolicyBatch::new(zeros(), zeros(), zeros()).with_sequence_ids(vec![0; 3]);
    assert_names(loss.forward(rows).expect_err("two rows"), &["[1, N]"]);
}

/// The diagnostics of a batch without a valid token are 0; without `rollout_log_probs` there are
/// none.
pub fn rollout_diagnostics_of_nothing(runner: &Runner) {
    let mut nothing = busy(0);
    nothing.action_mask = Some(vec![false; 24]);
    let dtype = runner.exact_dtypes()[0];
    for (name, value) in runner.diagnostics(&nothing, dtype).named() {
        assert_eq!(value, 0.0, "{runner}: {name} of nothing");
    }
    nothing.rollout_log_probs = None;
    let batch = runner.batch(&nothing, runner.leaf(&nothing, dtype), dtype);
    let error = batch.rollout_diagnostics().expect_err("missing");
    assert!(error.to_string().contains("rollout_log_probs"), "{error}");
}

/// The divergence of one token, from one part in a million to one that never comes up elsewhere, with
/// all of its digits.
pub fn jensen_shannon(runner: &Runner) {
    // In the forms in which nothing cancels: what is added is small against what it is added to.
    let part = |p: f64, q: f64| {
        let m = (p + q) / 2.0;
        let of = |p: f64| {
            if p > 0.0 {
                p * ((p - m) / m).ln_1p()
            } else {
                0.0
            }
        };
        (of(p) + of(q)) / 2.0
    };
    for dtype in runner.exact_dtypes() {
        for [log_p, log_q] in [
            [-0.7, -0.2],
            [-0.2, -0.7],
            [-1e-4, -3.0],
            [-2.0, -2.4],
            [-0.05, -9.0],
            [-12.0, -0.5],
            [0.0, -19.0],
            [-1.0, -1.0],
            [0.0, 0.0],
        ] {
            let mut case = Case::new("one token", [1, 1]);
            case.old_log_probs = vec![log_p];
            case.rollout_log_probs = Some(vec![log_q]);
            let actual = runner.diagnostics(&case, dtype).jensen_shannon;
            let case = case.rounded(dtype, dtype);
            let logs = [
                case.old_log_probs[0],
                case.rollout_log_probs.expect("given")[0],
            ];
            let [p, q] = logs.map(f64::exp);
            let [rest_of_p, rest_of_q] = logs.map(|log_prob| -log_prob.exp_m1());
            let expected = part(p, q) + part(rest_of_p, rest_of_q);
            let tolerance = match dtype {
                DType::F64 => Tolerance::of(1e-12),
                _ => Tolerance {
                    relative: 2e-5,
                    absolute: 1e-9,
                },
            };
            let what = format!("{runner}, {dtype:?}, {log_p} and {log_q}");
            assert_near(tolerance, &what, actual, expected);
            assert!(
                (0.0..=std::f64::consts::LN_2 + 1e-6).contains(&actual),
                "{what}"
            );
        }
        // What is left of the difference of two that are nearly the same: (p - q)^2 / (8 p (1 - p)).
        let mut case = Case::new("near", [1, 1]);
        case.old_log_probs = vec![-0.5];
        case.rollout_log_probs = Some(vec![-0.5 - 2f64.powi(-12)]);
        let actual = runner.diagnostics(&case, dtype).jensen_shannon;
        let [p, q] = [-0.5f64, -0.5 - 2f64.powi(-12)].map(f64::exp);
        let mean = (p + q) / 2.0;
        let expected = (p - q).powi(2) / (8.0 * mean * (1.0 - mean));
        let tolerance = Tolerance {
            relative: 1e-4,
            absolute: 0.0,
        };
        assert_near(tolerance, &format!("{runner}, {dtype:?}"), actual, expected);
    }
}

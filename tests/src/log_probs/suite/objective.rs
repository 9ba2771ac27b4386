//! The policy loss of hidden states: the same as log-probs first and the loss afterwards.

use burn::tensor::{DType, Tensor};
use policy_loss::{Entropy, LogProbsConfig, PolicyBatch, PolicyLossConfig, PolicyLossOutput};

use super::{HeadCase, Layout, Leaves, config, indices, mask, of_products, sound};
use crate::busy::busy;
use crate::compare::{Tolerance, assert_all_near, assert_metrics, assert_names, assert_near};
use crate::configs::describe;
use crate::runner::{Runner, gradient};
use policy_loss_oracle::Metrics;
use policy_loss_oracle::Random;

/// A batch of 4 x 6 tokens around the busy case, whose log-probs are those of a head.
struct Setup {
    head: HeadCase,
    batch: crate::case::Case,
}

impl Setup {
    fn new() -> Self {
        Self::of(HeadCase::new(41, [24, 5, 29]))
    }

    fn of(mut head: HeadCase) -> Self {
        let mut batch = busy(3);
        let valid = batch.action_mask.clone().expect("busy has a mask");
        // Log-probs of a size that ratios are made of.
        for weight in &mut head.weight {
            *weight *= 0.25;
        }
        let log_probs = head.answer().log_probs;
        let mut random = Random(9);
        for (i, log_prob) in log_probs.into_iter().enumerate() {
            let log_ratio = batch.log_probs[i] - batch.old_log_probs[i];
            let reference = batch.ref_log_probs.as_mut().expect("busy has some");
            reference[i] += log_prob - batch.log_probs[i];
            let old = log_prob - log_ratio + random.between(-0.05, 0.05);
            let rollout = batch.rollout_log_probs.as_mut().expect("busy has some");
            let gap = batch.old_log_probs[i] - rollout[i];
            (batch.old_log_probs[i], rollout[i]) = (old, old - gap);
            if !valid[i] {
                head.hidden[i * 5..(i + 1) * 5].fill(f64::NAN);
                head.targets[i] = -100;
                if let Some(temperatures) = &mut head.temperatures {
                    temperatures[i] = f64::NAN;
                }
                batch.old_log_probs[i] = f64::INFINITY;
            }
        }
        // Those of the head take their place.
        batch.entropies = None;
        batch.segment_ids = None;
        Self { head, batch }
    }

    fn batch(&self, runner: &Runner, log_probs: Option<Tensor<2>>, dtype: DType) -> PolicyBatch {
        runner.batch_of(&self.batch, log_probs, |_, values, shape| {
            runner.tensor(values, shape, dtype)
        })
    }
}

/// Hidden states and a head.
struct Parameters {
    hidden: Tensor<3>,
    of_head: Leaves,
}

impl Parameters {
    fn new(runner: &Runner, setup: &Setup, dtype: DType) -> Self {
        let bias: Vec<f64> = (0..29).map(|i| f64::from(i % 5) * 0.25).collect();
        let given = (&setup.head.weight[..], Some(&bias[..]));
        Self {
            hidden: runner.tracked(&setup.head.hidden, [4, 6, 5], dtype),
            of_head: Leaves::new(runner, given, [5, 29], Layout::Linear, dtype),
        }
    }

    fn gradients(&self, loss: Tensor<1>) -> [Vec<f64>; 3] {
        let gradients = loss.backward();
        let of_head = self.of_head.gradients(&gradients);
        let [weight, bias] = of_head.map(|gradient| gradient.expect("tracked"));
        [gradient(&self.hidden, &gradients), weight, bias]
    }
}

fn both(
    runner: &Runner,
    setup: &Setup,
    config: &PolicyLossConfig,
    log_probs: LogProbsConfig,
    dtype: DType,
) -> [(PolicyLossOutput, Parameters); 2] {
    let loss = config.init().expect("valid");
    let mut with_entropies = log_probs;
    if config.objective.entropy_bonus.is_some() {
        with_entropies.entropy = Entropy::Tracked;
    } else if config.objective.reads_entropies() {
        with_entropies.entropy = Entropy::Metric;
    }
    let with_entropies = with_entropies.init().expect("valid");
    let log_probs = log_probs.init().expect("valid");
    let tokens = super::tokens(runner, &setup.head, [4, 6], dtype);
    let one = Parameters::new(runner, setup, dtype);
    let batch = setup.batch(runner, None, dtype);
    let (hidden, head) = (one.hidden.clone(), &one.of_head.head);
    let direct = loss.forward_linear(&log_probs, hidden, head, tokens.clone(), batch);
    let what = format!("{runner}, {}", describe(config));
    let direct = sound(&what, direct);
    let two = Parameters::new(runner, setup, dtype);
    let valid = setup.batch.action_mask.as_ref().expect("busy has one");
    let tokens = tokens.with_action_mask(mask(runner, valid, [4, 6]));
    let (hidden, head) = (two.hidden.clone(), &two.of_head.head);
    let first = sound(&what, with_entropies.forward_linear(hidden, head, tokens));
    let mut batch = setup.batch(runner, Some(first.log_probs), dtype);
    if let Some(entropies) = first.entropies {
        batch = batch.with_entropies(entropies);
    }
    let after = sound(&what, loss.forward(batch));
    [(direct, one), (after, two)]
}

/// Loss, metrics and gradients of every weighted, with chunks of several lengths.
pub fn agrees_with_the_long_way(runner: &Runner) {
    let kept = HeadCase::new(41, [24, 5, 29]).with_kept();
    let mut on_policy = Setup::new();
    on_policy.batch.on_policy = true;
    let setups = [Setup::new(), Setup::of(kept.with_temperatures()), on_policy];
    let dtype = runner.exact_dtypes()[0];
    let policies = runner.some_configs();
    // A filter may leave no token of so small a batch.
    let mut compared = 0;
    for (i, policy) in policies.iter().enumerate() {
        let setup = &setups[i % 3];
        let mut log_probs = config(runner, &setup.head, Entropy::None);
        log_probs.chunk_tokens = [Some(1), Some(5), None][i / 3 % 3];
        let [(direct, one), (after, two)] = both(runner, setup, policy, log_probs, dtype);
        let what = format!("{runner}, {}", describe(policy));
        let [direct_read, after_read] =
            [&direct, &after].map(|output| output.read().expect("can be read"));
        let value = Tolerance::value(dtype).at_least(match dtype {
            DType::F64 => 1e-11,
            _ => 2e-5,
        });
        let of_loss = format!("{what}: loss");
        assert_near(value, &of_loss, direct_read.loss, after_read.loss);
        let metrics = Metrics(after_read.metrics.named());
        assert_metrics(value, &what, &direct_read.metrics, &metrics);
        assert_eq!(direct.loss.is_tracked(), runner.is_tracked(), "{what}");
        if runner.is_tracked() {
            // A factor behind the loss scales what was made before.
            let actual = one.gradients(direct.loss * 3.0);
            let expected = two.gradients(after.loss * 3.0);
            compared += usize::from(expected.iter().flatten().any(|x| *x != 0.0));
            for (actual, expected) in actual.iter().zip(&expected) {
                assert_all_near(of_products(runner, dtype), &what, actual, expected);
            }
        }
    }
    if runner.is_tracked() {
        assert!(
            2 * compared > policies.len(),
            "{runner}: {compared} gradients"
        );
    }
}

/// Nothing valid: loss 0, and every gradient exactly 0.
pub fn nothing_valid(runner: &Runner) {
    let mut setup = Setup::new();
    setup.batch.action_mask = Some(vec![false; 24]);
    let log_probs = config(runner, &setup.head, Entropy::None);
    let policy = PolicyLossConfig::new();
    let [(direct, leaves), _] = both(runner, &setup, &policy, log_probs, DType::F32);
    assert_eq!(direct.read().expect("can be read").loss, 0.0, "{runner}");
    if runner.is_tracked() {
        for gradient in leaves.gradients(direct.loss) {
            assert!(gradient.iter().all(|x| *x == 0.0), "{runner}");
        }
    }
}

/// A batch without log-probs, given to a method that needs them, is refused.
pub fn without_log_probs_is_seen(runner: &Runner) {
    let setup = Setup::new();
    let batch = setup.batch(runner, None, DType::F32);
    let loss = PolicyLossConfig::new().init().expect("valid");
    let leaves = Parameters::new(runner, &setup, DType::F32);
    let log_probs = LogProbsConfig::new().init().expect("valid");
    let zeros = runner.tensor(&[0.0; 24], [4, 6], DType::F32);
    let given = setup.batch(runner, Some(zeros), DType::F32);
    let targets = indices(runner, &[0; 24], [4, 6]);
    let head = &leaves.of_head.head;
    let result = loss.forward_linear(&log_probs, leaves.hidden.clone(), head, targets, given);
    let error = result.expect_err("log-probs twice");
    assert_names(error, &["`log_probs`", "on_policy_without_log_probs"]);
    for error in [
        loss.forward(batch.clone()).err(),
        loss.forward_no_reduction(batch).err(),
    ] {
        let names = ["log_probs", "forward_linear", "PolicyBatch::new"];
        assert_names(error.expect("there are no log-probs"), &names);
    }
}

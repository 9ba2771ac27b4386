//! The on-policy strategy in Burn's training: what it updates on, and when it ends.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::exponential::ExponentialLrSchedulerConfig;
use burn::module::{Module, Param};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor};
use burn_train::checkpoint::KeepLastNCheckpoints;
use burn_train::logger::FileMetricLogger;
use burn_train::metric::store::{Aggregate, Direction, Split};
use burn_train::{
    InferenceStep, Learner, LearningResult, MetricEarlyStoppingStrategy, StoppingCondition,
    SupervisedTraining, TrainOutput, TrainStep, TrainingStrategy,
};
use policy_loss::{PolicyBatch, PolicyLoss, PolicyLossConfig};
use policy_loss_train::{
    JsonLines, OnPolicyStrategy, PolicyLossItem, PolicyLossMetric, RewardInput, RewardMetric,
    RolloutError,
};

const UPDATES: usize = 3;

/// The log-probs themselves are the parameters.
#[derive(Module, Debug)]
struct Policy {
    log_probs: Param<Tensor<2>>,
    loss: PolicyLoss,
}

#[derive(Clone, Debug)]
struct Rollout {
    old_log_probs: Tensor<2>,
    advantages: Tensor<1>,
}

impl TrainStep for Policy {
    type Input = Rollout;
    type Output = PolicyLossItem;

    fn step(&self, rollout: Rollout) -> TrainOutput<PolicyLossItem> {
        let log_probs = self.log_probs.val();
        let batch = PolicyBatch::new(log_probs, rollout.old_log_probs, rollout.advantages);
        let output = self.loss.forward(batch).expect("a batch that fits");
        let item = PolicyLossItem::new(output.metrics).with_rewards([0.25, 0.75]);
        TrainOutput::new(self, output.loss.backward(), item)
    }
}

impl InferenceStep for Policy {
    type Input = f32;
    type Output = RewardInput;

    fn step(&self, reward: f32) -> RewardInput {
        RewardInput::new([f64::from(reward)])
    }
}

struct Mean;

impl Batcher<f32, f32> for Mean {
    fn batch(&self, items: Vec<f32>, _: &Device) -> f32 {
        items.iter().sum::<f32>() / items.len() as f32
    }
}

/// Two items an epoch.
fn loader() -> Arc<dyn DataLoader<f32>> {
    let items = InMemDataset::new(vec![0.5, 1.0]);
    DataLoaderBuilder::new(Mean).batch_size(1).build(items)
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn learner() -> Learner<Policy> {
    let log_probs = Tensor::from_floats([[-0.5, -1.0], [-1.5, -0.2]], &device());
    let policy = Policy {
        log_probs: Param::from_tensor(log_probs),
        loss: PolicyLossConfig::ppo().init().expect("a valid objective"),
    };
    let scheduler = ExponentialLrSchedulerConfig::new(0.01, 0.9).init();
    let scheduler = scheduler.expect("a valid scheduler");
    Learner::new(policy, AdamConfig::new().init(), scheduler)
}

fn values(policy: &Policy) -> Vec<f32> {
    policy.log_probs.val().try_into_vec_as().expect("numbers")
}

/// Rollouts whose old log-probs are those of the policy that collects them.
fn rollouts(policy: &Policy, advantage: f32) -> Result<Vec<Rollout>, RolloutError> {
    let old_log_probs = policy.log_probs.val();
    assert!(!old_log_probs.device().is_autodiff());
    let device = old_log_probs.device();
    let old_log_probs = Tensor::from_data(old_log_probs.into_data(), &device.autodiff());
    let advantages = Tensor::from_floats([advantage, -advantage], &old_log_probs.device());
    let rollout = Rollout {
        old_log_probs,
        advantages,
    };
    Ok(vec![rollout; UPDATES])
}

fn training(
    directory: &Path,
    rollout: impl Fn(&Policy, f32) -> Result<Vec<Rollout>, RolloutError> + 'static,
) -> SupervisedTraining<Policy> {
    OnPolicyStrategy::new(&device(), loader(), rollout)
        .training(directory, loader())
        .with_application_logger(None)
        .metrics((RewardMetric::new(),))
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

fn error_of(result: &LearningResult<Policy>) -> String {
    assert_eq!(result.interrupted, None);
    result.error.as_ref().expect("an error").to_string()
}

/// Rollouts are collected with the policy as it is after all updates before, which start at ratio 1
/// and leave it; Burn's logs hold every metric of every update.
#[test]
fn every_rollout_is_of_the_present_policy() {
    let directory = directory();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let policies = seen.clone();
    let mut training = training(directory.path(), move |policy, advantage| {
        policies.lock().expect("no panic").push(values(policy));
        rollouts(policy, advantage)
    })
    .num_epochs(2);
    let objective = PolicyLossConfig::ppo().objective;
    let file = std::fs::File::create(directory.path().join("steps.jsonl")).expect("a file");
    let kept = FileMetricLogger::new(directory.path());
    training = training.with_metric_logger(JsonLines::new(file, kept));
    for metric in PolicyLossMetric::all(&objective) {
        training = training.metric_train_numeric(metric);
    }
    let result = training.launch(learner());
    assert!(result.error.is_none() && result.interrupted.is_none());

    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0], values(&learner().model()));
    for pair in seen.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
    assert_ne!(seen[3], values(&result.model));

    for epoch in ["epoch-1", "epoch-2"] {
        let log = |name: &str| {
            let name = format!("{name}.log");
            lines(&directory.path().join("train").join(epoch).join(name))
        };
        let ratios: Vec<f64> = log("ratio_max")
            .iter()
            .map(|line| {
                line.split(',')
                    .next()
                    .expect("a value")
                    .parse()
                    .expect("a number")
            })
            .collect();
        assert_eq!(ratios.len(), 2 * UPDATES + 1);
        for rollout in ratios[..2 * UPDATES].chunks(UPDATES) {
            assert_eq!(rollout[0], 1.0);
            assert!(rollout[1..].iter().all(|ratio| *ratio > 1.0));
        }
        let largest = ratios[..2 * UPDATES].iter().copied().fold(0.0, f64::max);
        assert_eq!(ratios[2 * UPDATES], largest);
        assert_eq!(log("valid_tokens").last().expect("a line"), "24,final");
        assert_eq!(log("reward").last().expect("a line"), "0.5,final");
        for metric in PolicyLossMetric::all(&objective) {
            let name = burn_train::metric::Metric::name(&metric);
            assert_eq!(log(&name).len(), 2 * UPDATES + 1, "{name}");
        }
    }
    let json = lines(&directory.path().join("steps.jsonl"));
    let json: Vec<serde_json::Value> = json
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(json.len(), 2 * (2 * UPDATES + 1 + 2 + 1));
    assert_eq!(json[1]["iteration"], 2);
    assert_eq!(json[0]["ratio_max"], 1.0);
    assert!(json[1]["ratio_max"].as_f64() > Some(1.0));
    assert_eq!(json[2 * UPDATES]["train_epoch"]["valid_tokens"], 24.0);
    let last = serde_json::json!({"epoch": 2, "valid_epoch": {"reward": 0.75}});
    assert_eq!(json.last(), Some(&last));

    let reward = directory.path().join("valid/epoch-2/reward.log");
    assert_eq!(lines(&reward), ["0.5,1", "1,1", "0.75,final"]);
}

#[test]
fn a_resumed_training_is_the_same_training() {
    let run = |directory: &Path, epochs: usize, checkpoint: Option<usize>| {
        let mut training = training(directory, rollouts)
            .num_epochs(epochs)
            .with_default_checkpointers()
            .with_checkpointing_strategy(KeepLastNCheckpoints::new(1));
        if let Some(checkpoint) = checkpoint {
            training = training.checkpoint(checkpoint);
        }
        let result = training.launch(learner());
        assert!(result.error.is_none());
        values(&result.model)
    };
    let (straight, resumed) = (directory(), directory());
    let expected = run(straight.path(), 4, None);
    let half = run(resumed.path(), 2, None);
    assert_ne!(half, expected);
    assert_eq!(run(resumed.path(), 4, Some(2)), expected);
}

#[test]
fn a_stop_ends_it_after_the_update_that_is_under_way() {
    let directory = directory();
    let interrupter = burn_train::Interrupter::new();
    let (stop, collected) = (interrupter.clone(), Arc::new(AtomicUsize::new(0)));
    let count = collected.clone();
    let result = training(directory.path(), move |policy, advantage| {
        if count.fetch_add(1, Ordering::SeqCst) == 2 {
            stop.stop(Some("enough"));
        }
        rollouts(policy, advantage)
    })
    .with_interrupter(interrupter)
    .num_epochs(5)
    .launch(learner());
    let interruption = result.interrupted.expect("an interruption");
    assert_eq!(interruption.reason.as_deref(), Some("enough"));
    assert_eq!(collected.load(Ordering::SeqCst), 3);
    let log = directory.path().join("train/epoch-2/reward.log");
    assert_eq!(
        lines(&log)
            .iter()
            .filter(|line| !line.ends_with("final"))
            .count(),
        1
    );
}

#[test]
fn early_stopping_ends_it_where_nothing_improves() {
    let directory = directory();
    let collected = Arc::new(AtomicUsize::new(0));
    let count = collected.clone();
    let result = training(directory.path(), move |policy, advantage| {
        count.fetch_add(1, Ordering::SeqCst);
        rollouts(policy, advantage)
    })
    .early_stopping(MetricEarlyStoppingStrategy::new(
        &RewardMetric::new(),
        Aggregate::Mean,
        Direction::Highest,
        Split::Train,
        StoppingCondition::NoImprovementSince { n_epochs: 2 },
    ))
    .num_epochs(10)
    .launch(learner());
    assert!(result.error.is_none());
    // The first epoch is the best; two more are as good and not better.
    assert_eq!(collected.load(Ordering::SeqCst), 3 * 2);
}

#[test]
fn gradients_are_accumulated_within_a_rollout() {
    let run = |accumulation: usize, updates: usize| {
        let directory = directory();
        let result = training(directory.path(), move |policy, advantage| {
            let mut batches = rollouts(policy, advantage)?;
            batches.truncate(updates);
            Ok(batches)
        })
        .grads_accumulation(accumulation)
        .launch(learner());
        assert!(result.error.is_none());
        values(&result.model)
    };
    // Adam does not see the scale of a gradient: twice the same one is one of it.
    let (once, twice) = (run(1, 1), run(2, 2));
    for (once, twice) in once.iter().zip(&twice) {
        assert!((once - twice).abs() < 1e-5, "{once} {twice}");
    }
    // Of three, the last makes an update of its own.
    assert_ne!(run(2, 3), twice);
}

#[test]
fn an_error_of_a_rollout_ends_it() {
    let directory = directory();
    let result = training(directory.path(), |_, _| Err("the sampler is gone".into()))
        .num_epochs(3)
        .launch(learner());
    let error = error_of(&result);
    assert_eq!(error, "Dataset error: no rollouts: the sampler is gone");
    assert_eq!(values(&result.model), values(&learner().model()));
}

#[test]
fn batches_of_another_loader_are_not_ignored() {
    struct Recorded;
    impl Batcher<f32, Rollout> for Recorded {
        fn batch(&self, _: Vec<f32>, device: &Device) -> Rollout {
            Rollout {
                old_log_probs: Tensor::zeros([2, 2], device),
                advantages: Tensor::zeros([2], device),
            }
        }
    }
    let directory = directory();
    let recorded = DataLoaderBuilder::new(Recorded)
        .batch_size(1)
        .build(InMemDataset::new(vec![0.0]));
    let strategy = OnPolicyStrategy::new(&device(), loader(), rollouts);
    let result = SupervisedTraining::new(directory.path(), recorded, loader())
        .with_application_logger(None)
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)))
        .launch(learner());
    assert!(error_of(&result).contains("OnPolicyStrategy::training"));
}

//! Several devices give the model that one device gives: with Burn's own strategy, and on-policy; in one process,
//! and over servers.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::constant::ConstantLr;
use burn::module::{Module, Param};
use burn::optim::SgdConfig;
use burn::remote::RemoteHost;
use burn::server::{RemoteServer, WebSocketTransport};
use burn::tensor::distributed::{DistributedConfig, ReduceOperation};
use burn::tensor::{Bool, Device, Tensor};
use burn_train::{
    ExecutionStrategy, InferenceStep, Learner, LearningResult, MultiDeviceOptim,
    SupervisedTraining, TrainOutput, TrainStep, TrainingStrategy,
};
use policy_loss::{
    GlobalTotals, Implementation, PolicyBatch, PolicyLoss, PolicyLossConfig, Reduction,
};
use policy_loss_train::{
    OnPolicyStrategy, PolicyLossItem, PolicyLossMetric, RewardInput, RewardMetric, RolloutError,
    ddp,
};

const ROWS: usize = 6;
const TOKENS: usize = 4;
const STEPS: usize = 3;
/// Valid tokens of each sequence; the last one has none.
const VALID: [usize; ROWS] = [1, 4, 2, 3, 4, 0];
/// The prompt that each sequence answers.
const PROMPTS: [i64; ROWS] = [0, 1, 0, 1, 2, 2];
/// How many valid tokens of all answer it.
const PROMPT_TOKENS: [usize; ROWS] = [3, 7, 3, 7, 4, 4];
/// Uneven, and a shard without a valid token.
const SHARDS: [Range<usize>; 3] = [0..1, 1..5, 5..6];

/// The log-probs themselves are the parameters.
#[derive(Module, Debug)]
struct Policy {
    log_probs: Param<Tensor<2>>,
    loss: PolicyLoss,
}

/// The sequences that one device is given in one step.
#[derive(Clone, Debug)]
struct Shard {
    step: usize,
    rows: Range<usize>,
    totals: Option<GlobalTotals>,
}

/// Numbers that differ from token to token and from step to step.
fn number(step: usize, index: usize) -> f32 {
    ((step * 31 + index * 17 + 5) % 23) as f32 / 23.0 - 0.5
}

impl TrainStep for Policy {
    type Input = Shard;
    type Output = PolicyLossItem;

    fn step(&self, shard: Shard) -> TrainOutput<PolicyLossItem> {
        let device = self.log_probs.val().device();
        let of_all = |values: Vec<f32>| {
            let values = Tensor::<1>::from_floats(values.as_slice(), &device);
            values
                .reshape([ROWS, TOKENS])
                .slice([shard.rows.clone(), 0..TOKENS])
        };
        let old = (0..ROWS * TOKENS).map(|index| -1.0 + 0.4 * number(shard.step, index));
        let advantages = (0..ROWS * TOKENS).map(|index| 2.0 * number(shard.step + 7, index));
        // Padding holds what would be seen.
        let old =
            old.enumerate().map(
                |(index, value)| match index % TOKENS < VALID[index / TOKENS] {
                    true => value,
                    false => f32::NAN,
                },
            );
        let mask: Vec<bool> = (0..ROWS * TOKENS)
            .map(|index| index % TOKENS < VALID[index / TOKENS])
            .collect();
        let mask = Tensor::<1, Bool>::from_data(mask.as_slice(), &device).reshape([ROWS, TOKENS]);
        let log_probs = self.log_probs.val().slice([shard.rows.clone(), 0..TOKENS]);
        let mut batch = PolicyBatch::new(
            log_probs,
            of_all(old.collect()),
            of_all(advantages.collect()),
        )
        .with_action_mask(mask.slice([shard.rows.clone(), 0..TOKENS]))
        .with_prompt_ids(&PROMPTS[shard.rows.clone()]);
        if let Some(totals) = shard.totals {
            batch = batch
                .with_prompt_tokens(&PROMPT_TOKENS[shard.rows.clone()])
                .with_totals(totals);
        }
        let output = self.loss.forward(batch).expect("a batch that fits");
        let item = PolicyLossItem::new(output.metrics).with_rewards([0.5]);
        TrainOutput::new(self, output.loss.backward(), item)
    }
}

impl InferenceStep for Policy {
    type Input = Shard;
    type Output = RewardInput;

    fn step(&self, _: Shard) -> RewardInput {
        RewardInput::new([0.0])
    }
}

struct One;

impl Batcher<Shard, Shard> for One {
    fn batch(&self, mut items: Vec<Shard>, _: &Device) -> Shard {
        items.remove(0)
    }
}

fn loader(items: Vec<Shard>) -> Arc<dyn DataLoader<Shard>> {
    DataLoaderBuilder::new(One)
        .batch_size(1)
        .build(InMemDataset::new(items))
}

fn learner(reduction: Reduction) -> Learner<Policy> {
    let device = Device::flex().autodiff();
    let log_probs = Tensor::<2>::full([ROWS, TOKENS], -1.0, &device);
    let mut config = PolicyLossConfig::ppo();
    config.objective.reduction = reduction;
    let policy = Policy {
        log_probs: Param::from_tensor(log_probs),
        loss: config.init().expect("a valid objective"),
    };
    Learner::new(policy, SgdConfig::new().init(), ConstantLr::new(0.3))
}

fn totals() -> GlobalTotals {
    GlobalTotals::new()
        .with_tokens(VALID.iter().sum())
        .with_sequences(VALID.iter().filter(|valid| **valid > 0).count())
        .with_prompts(3)
}

fn shards(step: usize, totals: Option<GlobalTotals>) -> Vec<Shard> {
    let shard = |rows| Shard { step, rows, totals };
    SHARDS.map(shard).to_vec()
}

fn whole(step: usize) -> Shard {
    Shard {
        step,
        rows: 0..ROWS,
        totals: None,
    }
}

/// What a training leaves: the parameters, and the epoch's metrics in Burn's log.
struct Left {
    log_probs: Vec<f32>,
    metrics: Vec<(String, String)>,
}

fn run(
    training: impl FnOnce(&std::path::Path) -> SupervisedTraining<Policy>,
    reduction: Reduction,
) -> Left {
    let directory = tempfile::tempdir().expect("a directory");
    let mut training = training(directory.path())
        .with_application_logger(None)
        .metrics((RewardMetric::new(),))
        .num_epochs(1);
    let mut names = Vec::new();
    for metric in PolicyLossMetric::all(&PolicyLossConfig::ppo().objective) {
        names.push(burn_train::metric::Metric::name(&metric).to_string());
        training = training.metric_train_numeric(metric);
    }
    let result: LearningResult<Policy> = training.launch(learner(reduction));
    assert!(
        result.error.is_none(),
        "{:?}",
        result.error.map(|error| error.to_string())
    );
    let metrics = names.into_iter().map(|name| {
        let file = directory
            .path()
            .join("train/epoch-1")
            .join(format!("{name}.log"));
        let text = std::fs::read_to_string(file).expect("a log");
        (name, text.lines().last().expect("a line").to_owned())
    });
    Left {
        metrics: metrics.collect(),
        log_probs: result
            .model
            .log_probs
            .val()
            .try_into_vec_as()
            .expect("numbers"),
    }
}

fn one_device(reduction: Reduction) -> Left {
    let items = (0..STEPS).map(whole).collect();
    run(
        |directory| {
            SupervisedTraining::new(directory, loader(items), loader(vec![whole(0)]))
                .with_training_strategy(TrainingStrategy::Default(ExecutionStrategy::single(
                    Device::flex().autodiff(),
                )))
        },
        reduction,
    )
}

/// Burn gives each device a slice of the items: all of the first device, then all of the second.
fn burns_strategy(
    reduction: Reduction,
    totals: Option<GlobalTotals>,
    strategy: ExecutionStrategy,
) -> Left {
    let steps: Vec<_> = (0..STEPS).map(|step| shards(step, totals)).collect();
    let items = (0..SHARDS.len())
        .flat_map(|device| steps.iter().map(move |shards| shards[device].clone()))
        .collect();
    run(
        |directory| {
            SupervisedTraining::new(directory, loader(items), loader(vec![whole(0)]))
                .with_training_strategy(TrainingStrategy::Default(strategy))
        },
        reduction,
    )
}

fn multi(devices: &[Device]) -> ExecutionStrategy {
    let devices = devices.iter().map(|device| device.clone().autodiff());
    ExecutionStrategy::multi(devices.collect(), MultiDeviceOptim::OptimMainDevice)
}

fn on_policy(reduction: Reduction, totals: Option<GlobalTotals>, devices: &[Device]) -> Left {
    let prompts = (0..STEPS).map(whole).collect();
    let rollout = move |_: &Policy, prompt: Shard| -> Result<Vec<Shard>, RolloutError> {
        Ok(shards(prompt.step, totals))
    };
    run(
        |directory| {
            OnPolicyStrategy::new(&devices[0], loader(prompts), rollout)
                .with_devices(&devices[1..])
                .training(directory, loader(vec![whole(0)]))
        },
        reduction,
    )
}

fn largest_difference(a: &Left, b: &Left) -> f32 {
    let pairs = a.log_probs.iter().zip(&b.log_probs);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Trains on `devices` with both strategies, and compares with one device.
fn are_one_device(devices: &[Device], reductions: &[Reduction]) {
    for reduction in reductions.iter().copied() {
        let one = one_device(reduction);
        let untrained = learner(reduction).model().log_probs.val();
        let untrained: Vec<f32> = untrained.try_into_vec_as().expect("numbers");
        assert_ne!(one.log_probs, untrained);
        assert!(one.log_probs.iter().all(|value| value.is_finite()));
        for several in [
            burns_strategy(reduction, Some(totals()), multi(devices)),
            on_policy(reduction, Some(totals()), devices),
        ] {
            let difference = largest_difference(&one, &several);
            assert!(difference < 1e-6, "{reduction:?}: {difference}");
            for ((name, one), (_, several)) in one.metrics.iter().zip(&several.metrics) {
                let [one, several] = [one, several].map(|line| {
                    let value = line.strip_suffix(",final").expect("an epoch's value");
                    value.parse::<f64>().expect("a number")
                });
                assert!(
                    (one - several).abs() <= 1e-6 * one.abs().max(1.0),
                    "{reduction:?}, {name}: {one}, {several}"
                );
            }
        }
    }
}

#[test]
fn several_devices_give_the_model_and_the_metrics_of_one() {
    are_one_device(
        &[Device::flex(), Device::flex(), Device::flex()],
        &[
            Reduction::TokenMean,
            Reduction::SequenceMean,
            Reduction::PromptMean,
            Reduction::SequenceSumMean,
            Reduction::FixedLength { length: 5 },
            Reduction::TokenSum,
        ],
    );
}

/// What the totals are for: each shard's own mean is of fewer tokens.
#[test]
fn without_totals_several_devices_are_another_training() {
    let reduction = Reduction::TokenMean;
    let devices = [Device::flex(), Device::flex(), Device::flex()];
    let one = one_device(reduction);
    assert!(largest_difference(&one, &burns_strategy(reduction, None, multi(&devices))) > 1e-2);
    assert!(largest_difference(&one, &on_policy(reduction, None, &devices)) > 1e-2);
}

#[test]
fn devices_without_collective_operations_are_refused() {
    let refused = |devices: &[Device]| {
        let config = DistributedConfig {
            all_reduce_op: ReduceOperation::Sum,
        };
        let strategy = ddp(devices, config);
        strategy.err().expect("refused").to_string()
    };
    let said = refused(&[]);
    assert!(said.contains("`devices` is empty"), "{said}");
    let server = Server::start();
    for device in [Device::flex(), Device::flex().autodiff(), server.device()] {
        let name = format!("{:?}", device.clone().without_autodiff());
        let said = refused(&[device]);
        assert!(
            said.contains("`devices[0]`") && said.contains(&name),
            "{said}"
        );
        assert!(said.contains("CUDA"), "{said}");
    }
}

/// Where there is CUDA.
#[cfg(feature = "cuda")]
mod cuda {
    use burn::tensor::DeviceType;

    use super::*;

    #[test]
    fn a_device_is_refused_twice_and_beside_others() {
        let config = || DistributedConfig {
            all_reduce_op: ReduceOperation::Sum,
        };
        for (other, said) in [
            (Device::cuda(0), "again"),
            (Device::cuda(0).autodiff(), "again"),
            (Device::flex(), "no collective"),
        ] {
            let strategy = ddp(&[Device::cuda(0), other], config());
            let error = strategy.err().expect("refused").to_string();
            assert!(
                error.contains("`devices[1]`") && error.contains(said),
                "{error}"
            );
        }
    }

    #[test]
    #[ignore = "needs three NVIDIA GPUs and NCCL"]
    fn collective_operations_give_the_model_of_one_device() {
        let devices: Vec<Device> = Device::enumerate(DeviceType::Cuda).into_iter().collect();
        let devices = devices.get(..SHARDS.len()).expect("three devices");
        for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
            let one = one_device(reduction);
            for (all_reduce_op, totals) in [
                (ReduceOperation::Sum, totals()),
                (
                    ReduceOperation::Mean,
                    totals().with_world_size(SHARDS.len()),
                ),
            ] {
                let strategy = ddp(devices, DistributedConfig { all_reduce_op });
                let strategy = strategy.expect("they have collective operations");
                let several = burns_strategy(reduction, Some(totals), strategy);
                let difference = largest_difference(&one, &several);
                assert!(difference < 1e-5, "{reduction:?}: {difference}");
            }
        }
    }
}

/// A process of its own that serves a Flex device on this machine; it ends with the value.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "serve_until_killed", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let address = output.lines().map_while(Result::ok).find_map(|line| {
            line.split_once("ws://")
                .map(|(_, rest)| format!("ws://{rest}"))
        });
        let address = address.expect("the address of the server");
        Self { process, address }
    }

    fn device(&self) -> Device {
        let host = RemoteHost::websocket(&self.address);
        Device::remote_options(&host)
            .init()
            .expect("a device of the server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "runs in the processes that the test over servers starts"]
fn serve_until_killed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("ws://{}", listener.local_addr().expect("an address"));
    RemoteServer::new([Device::flex()])
        .serve(WebSocketTransport::from_listener(listener))
        .expect("a server");
}

#[test]
fn devices_of_two_servers_give_the_model_of_one_device() {
    let (first, second) = (Server::start(), Server::start());
    let devices = [first.device(), second.device(), second.device()];
    are_one_device(&devices, &[Reduction::TokenMean, Reduction::SequenceMean]);
}

/// There are no kernels for a remote device: asking for them is refused.
#[test]
fn the_loss_on_a_server_is_composed() {
    let server = Server::start();
    let values = Tensor::<2>::full([2, 3], -1.0, &server.device());
    let batch = PolicyBatch::new(values.clone(), values.clone(), values);
    let config = PolicyLossConfig::ppo();
    let output = config.init().expect("an objective").forward(batch.clone());
    let implementation = output.expect("a batch that fits").implementation;
    assert_eq!(implementation, Implementation::Composed);
    let fused = config.with_implementation(Implementation::Fused).init();
    let refused = fused.expect("an objective").forward(batch);
    let refused = refused.expect_err("no kernels").to_string();
    assert!(refused.contains("Remote"), "{refused}");
}

#[test]
fn what_a_device_says_when_it_fails_is_the_error_of_the_training() {
    let directory = tempfile::tempdir().expect("a directory");
    let device = Device::flex();
    let rollout = |_: &Policy, _: Shard| -> Result<Vec<Shard>, RolloutError> {
        let refused = Shard {
            totals: Some(GlobalTotals::new().with_tokens(0)),
            ..whole(0)
        };
        Ok(vec![whole(0), refused])
    };
    let result = OnPolicyStrategy::new(&device, loader(vec![whole(0)]), rollout)
        .with_devices(std::slice::from_ref(&device))
        .training(directory.path(), loader(vec![whole(0)]))
        .with_application_logger(None)
        .metrics((RewardMetric::new(),))
        .num_epochs(1)
        .launch(learner(Reduction::TokenMean));
    let error = result.error.expect("an error").to_string();
    assert!(error.contains("device 1"), "{error}");
    assert!(error.contains("totals.tokens"), "{error}");
}

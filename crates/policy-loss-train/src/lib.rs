//! policy-loss in Burn's training loop: every metric of a policy loss in the dashboard and the logs of
//! [`burn_train`], from one read-back a step.
//!
//! - [`PolicyLossItem`] is what a step returns. All of it is read back in one transfer, on the thread
//!   of the metrics, while the next step is under way.
//! - [`PolicyLossMetric`] is the loss, or one of the [metrics](policy_loss::MetricValues), by its name:
//!   ratio, clip fraction, KL, entropy, mismatch between sampler and trainer. Over an epoch it is
//!   exactly what it would be of all sequences in one batch.
//! - [`RewardMetric`] is the mean reward.
//! - [`JsonLines`] writes a run as lines of JSON.
//! - [`OnPolicyStrategy`] collects rollouts with the present policy, and trains on them.
//! - [`ddp`] is Burn's strategy with collective operations, on devices that have them.
//!
//! ```
//! use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
//! use burn::data::dataset::InMemDataset;
//! use burn::lr_scheduler::constant::ConstantLr;
//! use burn::module::Module;
//! use burn::nn::{Embedding, EmbeddingConfig};
//! use burn::optim::AdamConfig;
//! use burn::tensor::{Device, Int, Tensor, activation::log_softmax};
//! use burn_train::{InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
//! use policy_loss::{PolicyBatch, PolicyLoss, PolicyLossConfig, PolicyLossOutput};
//! use policy_loss_train::{PolicyLossItem, PolicyLossMetric, RewardMetric};
//!
//! /// A symbol that was answered with another, and what came of it.
//! #[derive(Clone, Debug)]
//! struct Answer {
//!     prompt: i32,
//!     answer: i32,
//!     log_prob: f32,
//!     reward: f64,
//! }
//!
//! #[derive(Clone, Debug)]
//! struct Batch {
//!     prompts: Tensor<2, Int>,
//!     answers: Tensor<2, Int>,
//!     old_log_probs: Tensor<2>,
//!     advantages: Tensor<1>,
//!     rewards: Vec<f64>,
//! }
//!
//! struct Answers;
//!
//! impl Batcher<Answer, Batch> for Answers {
//!     fn batch(&self, items: Vec<Answer>, device: &Device) -> Batch {
//!         let column = |of: fn(&Answer) -> i32| {
//!             let values: Vec<i32> = items.iter().map(of).collect();
//!             Tensor::<1, Int>::from_ints(values.as_slice(), device).unsqueeze_dim(1)
//!         };
//!         let floats = |of: fn(&Answer) -> f32| {
//!             let values: Vec<f32> = items.iter().map(of).collect();
//!             Tensor::<1>::from_floats(values.as_slice(), device)
//!         };
//!         Batch {
//!             prompts: column(|item| item.prompt),
//!             answers: column(|item| item.answer),
//!             old_log_probs: floats(|item| item.log_prob).unsqueeze_dim(1),
//!             advantages: floats(|item| item.reward as f32 - 0.5),
//!             rewards: items.iter().map(|item| item.reward).collect(),
//!         }
//!     }
//! }
//!
//! #[derive(Module, Debug)]
//! struct Policy {
//!     logits: Embedding,
//!     loss: PolicyLoss,
//! }
//!
//! impl Policy {
//!     fn forward(&self, batch: Batch) -> PolicyLossOutput {
//!         let log_probs = log_softmax(self.logits.forward(batch.prompts), 2);
//!         let log_probs = log_probs.gather(2, batch.answers.unsqueeze_dim(2)).squeeze_dim(2);
//!         let batch = PolicyBatch::new(log_probs, batch.old_log_probs, batch.advantages);
//!         // A step returns no error, so that what a loader gives has to fit.
//!         self.loss.forward(batch).expect("a batch that fits the objective")
//!     }
//! }
//!
//! impl TrainStep for Policy {
//!     type Input = Batch;
//!     type Output = PolicyLossItem;
//!
//!     fn step(&self, batch: Batch) -> TrainOutput<PolicyLossItem> {
//!         let rewards = batch.rewards.clone();
//!         let output = self.forward(batch);
//!         let item = PolicyLossItem::new(output.metrics).with_rewards(rewards);
//!         TrainOutput::new(self, output.loss.backward(), item)
//!     }
//! }
//!
//! impl InferenceStep for Policy {
//!     type Input = Batch;
//!     type Output = PolicyLossItem;
//!
//!     fn step(&self, batch: Batch) -> PolicyLossItem {
//!         PolicyLossItem::new(self.forward(batch).metrics)
//!     }
//! }
//!
//! let device = policy_loss_flex::device()?.autodiff();
//! let answers: Vec<Answer> = (0..32)
//!     .map(|i| Answer { prompt: i % 4, answer: i % 3, log_prob: -1.4, reward: f64::from(i % 2) })
//!     .collect();
//! let loader = || {
//!     DataLoaderBuilder::new(Answers).batch_size(8).build(InMemDataset::new(answers.clone()))
//! };
//!
//! let loss = PolicyLossConfig::dapo().init()?;
//! let metrics = PolicyLossMetric::all(&loss.config().objective);
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let mut training = SupervisedTraining::new(directory, loader(), loader())
//! #   .with_application_logger(None)
//!     .metric_train_numeric(RewardMetric::new())
//!     .num_epochs(2);
//! for metric in metrics {
//!     training = training.metric_train_numeric(metric);
//! }
//! let logits = EmbeddingConfig::new(4, 4).init(&device);
//! let policy = Policy { logits, loss };
//! let result = training.launch(Learner::new(policy, AdamConfig::new().init(), ConstantLr::new(0.1)));
//! assert!(result.error.is_none());
//! assert!(directory.join("train/epoch-2/clip_ratio.log").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Checkpoints and early stopping by a metric take it from its type:
//! `MetricEarlyStoppingStrategy::new(&RewardMetric::new(), Aggregate::Mean, Direction::Highest,
//! Split::Train, ..)`. Burn's default keeps the checkpoint with the lowest `Loss` of validation besides
//! the last two; a policy loss says little about how good a policy is.
//!
//! # Features
//!
//! `tui` turns on Burn's dashboard in the terminal. Without it, a run writes lines of text. `cuda` lets [`ddp`]
//! train on NVIDIA GPUs; `policy-loss-cuda` says what building it needs. burn-train itself computes on the CPU, so
//! that Burn's Flex backend is always built.

mod ddp;
mod item;
mod json_lines;
mod metric;
mod on_policy;
mod reward;

pub use ddp::{DdpError, ddp};
pub use item::{PolicyLossInput, PolicyLossItem, ReadMetrics};
pub use json_lines::JsonLines;
pub use metric::{PolicyLossMetric, UnknownMetric};
pub use on_policy::{OnPolicyStrategy, RolloutError};
pub use reward::{RewardInput, RewardMetric};

//! Training on what the policy itself has just sampled.

use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{
    BatchDataLoader, DataLoader, DataLoaderIterator, FixBatchStrategy, Progress,
};
use burn::data::dataset::{DatasetError, InMemDataset};
use burn::optim::GradientsAccumulator;
use burn::tensor::Device;
use burn_train::train::{MultiDeviceStepError, MultiDevicesTrainStep, MultiTrainOutput};
use burn_train::{
    EventProcessorTraining, InferenceStep, Interrupter, Learner, LearnerEvent, LearnerModel,
    SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader,
    TrainOutput, TrainStep, TrainingComponents, TrainingItem, TrainingStrategy, ValidLoader,
};

/// Why no rollouts could be collected.
pub type RolloutError = Box<dyn std::error::Error + Send + Sync>;

/// On-policy training in Burn's [`SupervisedTraining`]: for each item of a loader of prompts, collects
/// rollouts with the present policy, and makes one update on each batch that they come in.
///
/// `rollout` is given the policy, without autodiff, and what the loader gives: usually prompts. It
/// samples, grades, estimates advantages, and returns the batches in the order of their updates; a batch
/// that is to be used several times is returned several times. An epoch is one pass over the loader.
/// Its errors end the training as [`TrainingError`](burn_train::TrainingError) of its
/// [result](burn_train::LearningResult), as a dataset's do.
///
/// Metrics, checkpoints, learning rate schedulers, interruption, early stopping and validation work as
/// in Burn's training on one device; for more of them see [`with_devices`](Self::with_devices). Gradients
/// are accumulated within the batches of one rollout: the last update before the next rollout may be of
/// fewer. A checkpoint holds the model, the optimizer and the scheduler, and not the state of a sampler
/// or of a shuffling loader.
///
/// ```
/// use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
/// use burn::data::dataset::InMemDataset;
/// use burn::lr_scheduler::constant::ConstantLr;
/// use burn::module::Module;
/// use burn::nn::{Embedding, EmbeddingConfig};
/// use burn::optim::AdamConfig;
/// use burn::tensor::{Device, Distribution, Int, Tensor, activation::log_softmax};
/// use burn_train::metric::store::{Aggregate, Direction, Split};
/// use burn_train::{
///     InferenceStep, Learner, MetricEarlyStoppingStrategy, StoppingCondition, TrainOutput, TrainStep,
/// };
/// use policy_loss::{AdvantageBatch, AdvantageEstimatorConfig, PolicyBatch, PolicyLoss, PolicyLossConfig};
/// use policy_loss_train::{
///     OnPolicyStrategy, PolicyLossItem, PolicyLossMetric, RewardInput, RewardMetric, RolloutError,
/// };
///
/// const SYMBOLS: usize = 8;
/// const GROUP: usize = 32; // answers to each prompt
///
/// /// Answers a symbol with a symbol. Right is the next one in the alphabet.
/// #[derive(Module, Debug)]
/// struct Policy {
///     logits: Embedding,
///     loss: PolicyLoss,
/// }
///
/// /// Answers that the policy has sampled, `[N, 1]`.
/// #[derive(Clone)]
/// struct Rollout {
///     prompts: Tensor<2, Int>,
///     answers: Tensor<2, Int>,
///     log_probs: Tensor<2>,
///     rewards: Vec<f64>,
///     advantages: Tensor<2>,
/// }
///
/// impl Policy {
///     fn log_probs(&self, prompts: Tensor<2, Int>) -> Tensor<3> {
///         log_softmax(self.logits.forward(prompts), 2)
///     }
///
///     fn sample(&self, prompts: Tensor<2, Int>) -> Result<Rollout, RolloutError> {
///         let groups = prompts.dims()[0];
///         let prompts = prompts.repeat_dim(0, GROUP);
///         // The largest of log-probs with Gumbel noise is a draw from them.
///         let log_probs = self.log_probs(prompts.clone());
///         let uniform = log_probs.random_like(Distribution::Default);
///         let answers = (log_probs.clone() - (-uniform.log()).log()).argmax(2);
///         let log_probs = log_probs.gather(2, answers.clone()).squeeze_dim(2);
///         let answers = answers.squeeze_dim::<2>(2);
///         let right = answers.clone().equal((prompts.clone() + 1) % SYMBOLS as i32);
///         let rewards = right.float().squeeze_dim::<1>(1);
///         let group_ids: Vec<i64> = (0..GROUP).flat_map(|_| 0..groups as i64).collect();
///         let graded = AdvantageBatch::new(rewards.clone()).with_group_ids(group_ids);
///         let advantages = AdvantageEstimatorConfig::grpo().init()?.forward(graded)?.advantages;
///         let rewards = rewards.try_into_vec_as()?;
///         Ok(Rollout { prompts, answers, log_probs, rewards, advantages })
///     }
/// }
///
/// impl TrainStep for Policy {
///     type Input = Rollout;
///     type Output = PolicyLossItem;
///
///     fn step(&self, rollout: Rollout) -> TrainOutput<PolicyLossItem> {
///         let log_probs = self.log_probs(rollout.prompts);
///         let log_probs = log_probs.gather(2, rollout.answers.unsqueeze_dim(2)).squeeze_dim(2);
///         let batch = PolicyBatch::new(log_probs, rollout.log_probs, rollout.advantages);
///         let output = self.loss.forward(batch).expect("a batch that fits the objective");
///         let item = PolicyLossItem::new(output.metrics).with_rewards(rollout.rewards);
///         TrainOutput::new(self, output.loss.backward(), item)
///     }
/// }
///
/// /// Validation: the reward of answers to prompts that are kept for it.
/// impl InferenceStep for Policy {
///     type Input = Tensor<2, Int>;
///     type Output = RewardInput;
///
///     fn step(&self, prompts: Tensor<2, Int>) -> RewardInput {
///         RewardInput::new(self.sample(prompts).expect("an answer to each prompt").rewards)
///     }
/// }
///
/// struct Prompts;
///
/// impl Batcher<i32, Tensor<2, Int>> for Prompts {
///     fn batch(&self, items: Vec<i32>, device: &Device) -> Tensor<2, Int> {
///         Tensor::<1, Int>::from_ints(items.as_slice(), device).unsqueeze_dim(1)
///     }
/// }
///
/// let device = policy_loss_flex::device()?.autodiff();
/// device.seed(1);
/// let prompts = InMemDataset::new((0..SYMBOLS as i32).collect());
/// let prompts = DataLoaderBuilder::new(Prompts).batch_size(4).shuffle(1).build(prompts);
/// # let directory = tempfile::tempdir()?;
///
/// // Four updates on each rollout, so that the ratio leaves 1 and there is something to clip.
/// let strategy = OnPolicyStrategy::new(&device, prompts.clone(), |policy: &Policy, prompts| {
///     Ok(vec![policy.sample(prompts)?; 4])
/// });
/// let loss = PolicyLossConfig::grpo().init()?;
/// let mut training = strategy
///     .training(directory.path(), prompts)
///     .num_epochs(15)
/// #   .with_application_logger(None)
///     .metrics((RewardMetric::new(),))
///     .early_stopping(MetricEarlyStoppingStrategy::new(
///         &RewardMetric::new(),
///         Aggregate::Mean,
///         Direction::Highest,
///         Split::Valid,
///         StoppingCondition::NoImprovementSince { n_epochs: 5 },
///     ));
/// for metric in PolicyLossMetric::all(&loss.config().objective) {
///     training = training.metric_train_numeric(metric);
/// }
/// let logits = EmbeddingConfig::new(SYMBOLS, SYMBOLS).init(&device);
/// let policy = Policy { logits, loss };
/// let result = training.launch(Learner::new(policy, AdamConfig::new().init(), ConstantLr::new(0.1)));
/// assert!(result.error.is_none());
///
/// let prompts = Tensor::from_ints([[0], [1], [2], [3], [4], [5], [6], [7]], &device.inner());
/// let rewards = result.model.sample(prompts)?.rewards;
/// let reward = rewards.iter().sum::<f64>() / rewards.len() as f64;
/// assert!(reward > 0.9, "{reward}");
/// # Ok::<(), RolloutError>(())
/// ```
pub struct OnPolicyStrategy<P, R> {
    devices: Vec<Device>,
    prompts: Arc<dyn DataLoader<P>>,
    rollout: R,
}

impl<P: Send + 'static, R> OnPolicyStrategy<P, R> {
    /// Trains on `device`, with autodiff: to checkpoint gradients, give it a device that does.
    pub fn new<M>(device: &Device, prompts: Arc<dyn DataLoader<P>>, rollout: R) -> Self
    where
        M: LearnerModel,
        R: Fn(&M, P) -> Result<Vec<<M as TrainStep>::Input>, RolloutError>,
    {
        Self {
            devices: vec![tracked(device)],
            prompts,
            rollout,
        }
    }

    /// Trains on `devices` besides the one of [`new`](Self::new), each in a thread of its own.
    ///
    /// With `N` devices in all, an update is made of `N` batches that the rollout returns one after the
    /// other, one on each device and the first on the device of `new`, which collects the rollouts, holds the
    /// optimizer and validates. A batch is to be on its device, or the training step moves it there. Of the
    /// last update of a rollout there may be fewer; a batch without a valid token is welcome.
    ///
    /// Gradients are **added up**, as in Burn's
    /// [`ExecutionStrategy::multi`](burn_train::ExecutionStrategy::multi). The sum is the gradient of the
    /// undivided batch if each batch carries the [`GlobalTotals`](policy_loss::GlobalTotals) of all batches
    /// of its update, without a world size. Rounding may differ from run to run with three devices or
    /// more, since gradients are added in the order in which they come.
    #[must_use]
    pub fn with_devices(mut self, devices: &[Device]) -> Self {
        self.devices.extend(devices.iter().map(tracked));
        self
    }

    /// A training with this strategy. It has no training loader beside that of the prompts.
    pub fn training<M>(
        self,
        directory: impl AsRef<Path>,
        dataloader_valid: ValidLoader<M>,
    ) -> SupervisedTraining<M>
    where
        M: LearnerModel,
        R: Fn(&M, P) -> Result<Vec<<M as TrainStep>::Input>, RolloutError> + 'static,
    {
        let no_batches = BatchDataLoader::new(
            Box::new(FixBatchStrategy::new(1)),
            Arc::new(InMemDataset::new(Vec::new())),
            Arc::new(NoBatches),
            self.devices[0].clone(),
            None,
        );
        SupervisedTraining::new(directory, Arc::new(no_batches), dataloader_valid)
            .with_training_strategy(TrainingStrategy::Custom(Arc::new(self)))
    }
}

fn tracked(device: &Device) -> Device {
    match device.is_autodiff() {
        true => device.clone(),
        false => device.clone().autodiff(),
    }
}

impl<M, P, R> SupervisedLearningStrategy<M> for OnPolicyStrategy<P, R>
where
    M: LearnerModel,
    P: Send + 'static,
    R: Fn(&M, P) -> Result<Vec<<M as TrainStep>::Input>, RolloutError>,
{
    fn fit(
        &self,
        components: TrainingComponents<M>,
        mut learner: Learner<M>,
        dataloader_train: TrainLoader<M>,
        dataloader_valid: ValidLoader<M>,
        starting_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let TrainingComponents {
            num_epochs,
            grad_accumulation,
            interrupter,
            event_store,
            mut event_processor,
            mut checkpointer,
            mut early_stopping,
            ..
        } = components;
        if dataloader_train.num_items() > 0 {
            interrupter.fail(DatasetError::new(OnPolicyError::UnusedLoader));
            return (learner.model(), event_processor);
        }
        let main_device = &self.devices[0];
        learner.fork(main_device);
        let updates = Updates {
            devices: &self.devices,
            workers: (self.devices.len() > 1).then(|| MultiDevicesTrainStep::new(&self.devices)),
            interrupter: &interrupter,
            grad_accumulation: grad_accumulation.unwrap_or(1),
        };
        let prompts = self.prompts.to_device(&main_device.clone().inner());
        let validation = dataloader_valid.to_device(&main_device.clone().inner());

        for epoch in starting_epoch..=num_epochs {
            interrupter.fail_on_error(event_processor.process_train(LearnerEvent::StartSplit {
                epoch_number: epoch,
                total_items: prompts.num_items(),
            }));
            updates.epoch(&mut learner, &*prompts, &self.rollout, &mut event_processor);
            interrupter.fail_on_error(event_processor.process_train(LearnerEvent::EndSplit(epoch)));
            if interrupter.should_stop() {
                break;
            }

            interrupter.fail_on_error(event_processor.process_valid(LearnerEvent::StartSplit {
                epoch_number: epoch,
                total_items: validation.num_items(),
            }));
            validate(&learner, &*validation, &mut event_processor, &interrupter);
            interrupter.fail_on_error(event_processor.process_valid(LearnerEvent::EndSplit(epoch)));
            interrupter.fail_on_error(event_processor.process_train(LearnerEvent::EndEpoch(epoch)));
            // What decides about checkpoints and stopping has to be in the store.
            interrupter.fail_on_error(event_processor.flush());
            if interrupter.should_stop() {
                break;
            }

            if let Some(checkpointer) = &mut checkpointer {
                checkpointer.checkpoint(&learner, epoch, &event_store);
            }
            if let Some(early_stopping) = &mut early_stopping
                && early_stopping.should_stop(epoch, &event_store)
            {
                break;
            }
        }
        (learner.model(), event_processor)
    }
}

/// How updates are made.
struct Updates<'a, M: LearnerModel> {
    devices: &'a [Device],
    /// Where there are several devices.
    workers: Option<MultiDevicesTrainStep<M>>,
    interrupter: &'a Interrupter,
    grad_accumulation: usize,
}

impl<M: LearnerModel> Updates<'_, M> {
    /// Rollouts and updates for each item of the loader.
    fn epoch<P>(
        &self,
        learner: &mut Learner<M>,
        prompts: &dyn DataLoader<P>,
        rollout: impl Fn(&M, P) -> Result<Vec<<M as TrainStep>::Input>, RolloutError>,
        processor: &mut SupervisedTrainingEventProcessor<M>,
    ) {
        let mut iterator = prompts.iter();
        let mut iteration = 0;
        while let Some(prompts) = iterator.next() {
            let batches = prompts.and_then(|prompts| {
                rollout(&learner.model().valid(), prompts)
                    .map_err(|error| DatasetError::new(OnPolicyError::Rollout(error)))
            });
            let batches = match batches {
                Ok(batches) => batches,
                Err(error) => return self.interrupter.fail(error),
            };
            self.rollout(
                learner,
                batches,
                &iterator.progress(),
                &mut iteration,
                processor,
            );
            if self.interrupter.should_stop() {
                return;
            }
        }
    }

    /// Updates on the batches of one rollout.
    fn rollout(
        &self,
        learner: &mut Learner<M>,
        batches: Vec<<M as TrainStep>::Input>,
        progress: &Progress,
        iteration: &mut usize,
        processor: &mut SupervisedTrainingEventProcessor<M>,
    ) {
        let mut accumulator = GradientsAccumulator::new();
        let mut batches = batches.into_iter().peekable();
        let mut accumulated = 0;
        while batches.peek().is_some() {
            let outputs = match self.step(learner, batches.by_ref().take(self.devices.len())) {
                Ok(outputs) => outputs,
                Err(error) => return self.interrupter.fail(error),
            };
            let mut items = Vec::with_capacity(outputs.len());
            for output in outputs {
                accumulator.accumulate(&learner.model(), output.grads);
                items.push(output.item);
            }
            accumulated += 1;
            if accumulated >= self.grad_accumulation || batches.peek().is_none() {
                learner.lr_step();
                learner.optimizer_step(accumulator.grads());
                accumulated = 0;
            }
            for item in items {
                *iteration += 1;
                let item = TrainingItem::new(
                    item,
                    progress.clone(),
                    Some(*iteration),
                    Some(learner.lr_current()),
                );
                self.interrupter
                    .fail_on_error(processor.process_train(LearnerEvent::ProcessedItem(item)));
            }
            if self.interrupter.should_stop() {
                return;
            }
        }
    }

    /// Loss and gradients of a batch for each device, the gradients on the first device.
    fn step(
        &self,
        learner: &Learner<M>,
        batches: impl Iterator<Item = <M as TrainStep>::Input>,
    ) -> Result<Vec<TrainOutput<<M as TrainStep>::Output>>, MultiDeviceStepError> {
        let Some(workers) = &self.workers else {
            return Ok(batches.map(|batch| learner.train_step(batch)).collect());
        };
        let model = learner.model();
        let mut batches = batches;
        let mut iterators: Vec<Box<dyn DataLoaderIterator<_>>> = (self.devices.iter())
            .map(|_| Box::new(OneBatch(batches.next())) as Box<_>)
            .collect();
        let (outputs, _) = workers.step(&mut iterators, &model)?;
        let on_main_device = |output: MultiTrainOutput<<M as TrainStep>::Output>| TrainOutput {
            grads: output.output.grads.to_device(&self.devices[0], &model),
            item: output.output.item,
        };
        Ok(outputs.into_iter().map(on_main_device).collect())
    }
}

fn validate<M: LearnerModel>(
    learner: &Learner<M>,
    dataloader: &dyn DataLoader<<M as InferenceStep>::Input>,
    processor: &mut SupervisedTrainingEventProcessor<M>,
    interrupter: &Interrupter,
) {
    let model = learner.model().valid();
    let mut iterator = dataloader.iter();
    let mut iteration = 0;
    while let Some(item) = iterator.next() {
        let item = match item {
            Ok(item) => item,
            Err(error) => return interrupter.fail(error),
        };
        iteration += 1;
        let item = InferenceStep::step(&model, item);
        let item = TrainingItem::new(item, iterator.progress(), Some(iteration), None);
        interrupter.fail_on_error(processor.process_valid(LearnerEvent::ProcessedItem(item)));
        if interrupter.should_stop() {
            return;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum OnPolicyError {
    #[error("no rollouts: {0}")]
    Rollout(#[source] RolloutError),
    #[error(
        "an on-policy strategy trains on its own rollouts, and the training loader holds other \
         batches; make the training by OnPolicyStrategy::training"
    )]
    UnusedLoader,
}

/// For the training loader, which holds nothing: the training makes its batches itself.
struct NoBatches;

impl<B> Batcher<(), B> for NoBatches {
    fn batch(&self, _: Vec<()>, _: &Device) -> B {
        unreachable!("there is nothing to batch")
    }
}

/// A loader's iterator with what one device is given in one step.
struct OneBatch<B>(Option<B>);

impl<B> Iterator for OneBatch<B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl<B> DataLoaderIterator<B> for OneBatch<B> {
    fn progress(&self) -> Progress {
        Progress::new(1, 1, None)
    }
}

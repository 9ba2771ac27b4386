//! What all metrics together cost a run: an epoch without any, and with every one that the objective
//! has, each logged at every step.

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::constant::ConstantLr;
use burn::module::{Module, Param};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor};
use burn_train::{InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
use divan::counter::ItemsCount;
use policy_loss::{PolicyBatch, PolicyLoss, PolicyLossConfig, PolicyLossOutput};
use policy_loss_train::{PolicyLossItem, PolicyLossMetric};

const STEPS: usize = 500;
const SEQUENCES: usize = 4;
const TOKENS: usize = 16;

#[derive(Clone, Debug)]
struct Batch(Tensor<2>);

struct Zeros;

impl Batcher<(), Batch> for Zeros {
    fn batch(&self, items: Vec<()>, device: &Device) -> Batch {
        Batch(Tensor::zeros([items.len(), TOKENS], device))
    }
}

/// The log-prob of every token is a weight of its own.
#[derive(Module, Debug)]
struct Policy {
    log_probs: Param<Tensor<1>>,
    loss: PolicyLoss,
}

impl Policy {
    fn forward(&self, Batch(zeros): Batch) -> PolicyLossOutput {
        let advantages = Tensor::<1>::ones([zeros.dims()[0]], &zeros.device());
        let log_probs = self.log_probs.val().unsqueeze::<2>() + zeros.clone();
        let batch = PolicyBatch::new(log_probs, zeros - 1.0, advantages);
        self.loss.forward(batch).expect("a batch that fits")
    }
}

impl TrainStep for Policy {
    type Input = Batch;
    type Output = PolicyLossItem;

    fn step(&self, batch: Batch) -> TrainOutput<PolicyLossItem> {
        let output = self.forward(batch);
        let item = PolicyLossItem::new(output.metrics);
        TrainOutput::new(self, output.loss.backward(), item)
    }
}

impl InferenceStep for Policy {
    type Input = Batch;
    type Output = PolicyLossItem;

    fn step(&self, batch: Batch) -> PolicyLossItem {
        PolicyLossItem::new(self.forward(batch).metrics)
    }
}

#[divan::bench(args = ["none", "all"], sample_count = 10, sample_size = 1)]
fn steps(bencher: divan::Bencher, metrics: &str) {
    let device = policy_loss_flex::device().expect("the CPU").autodiff();
    let loader = |steps: usize| {
        let items = InMemDataset::new(vec![(); steps * SEQUENCES]);
        DataLoaderBuilder::new(Zeros)
            .batch_size(SEQUENCES)
            .set_device(device.clone())
            .build(items)
    };
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let loss = PolicyLossConfig::dapo().init().expect("a preset");
        let mut training = SupervisedTraining::new(directory.path(), loader(STEPS), loader(1))
            .with_application_logger(None)
            .num_epochs(1);
        if metrics == "all" {
            for metric in PolicyLossMetric::all(&loss.config().objective) {
                training = training.metric_train_numeric(metric);
            }
        }
        let log_probs = Param::from_tensor(Tensor::full([TOKENS], -1.0, &device));
        let policy = Policy { log_probs, loss };
        let learner = Learner::new(policy, AdamConfig::new().init(), ConstantLr::new(0.01));
        let result = training.launch(learner);
        assert!(result.error.is_none(), "{:?}", result.error);
    });
}

fn main() {
    divan::main();
}

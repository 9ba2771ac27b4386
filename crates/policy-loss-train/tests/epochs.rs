//! An epoch of steps is one batch, however it is split.

use burn::data::dataloader::Progress;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_train::metric::{
    Adaptor, ItemLazy, Metric, MetricMetadata, Numeric, NumericEntry, SerializedEntry,
};
use policy_loss::{
    EntropyBonus, EntropyMask, GlobalTotals, KlPenalty, Objective, OffPolicyMask, PolicyBatch,
    PolicyLoss, PolicyLossConfig, Reduction, presets,
};
use policy_loss_train::{PolicyLossInput, PolicyLossItem, PolicyLossMetric, RewardMetric};
use proptest::prelude::*;

const SEQUENCES: usize = 7;
const TOKENS: usize = 5;

fn metadata() -> MetricMetadata {
    MetricMetadata {
        progress: Progress::new(1, 1, None),
        iteration: Some(1),
        lr: None,
    }
}

/// Every part that metrics belong to.
fn with_all_parts(reduction: Reduction) -> PolicyLoss {
    PolicyLossConfig::dapo()
        .with_rollout_correction(presets::tis(0.5, 2.0))
        .with_kl_penalty(KlPenalty::new(0.1))
        .with_entropy_bonus(EntropyBonus::new(0.01))
        .with_off_policy_mask(OffPolicyMask::new(0.1))
        .with_entropy_mask(EntropyMask::new(0.5))
        .with_reduction(reduction)
        .init()
        .expect("a valid objective")
}

/// `[SEQUENCES, TOKENS]` numbers for each column, the mask, and advantages.
#[derive(Debug, Clone)]
struct Columns {
    floats: Vec<Vec<f64>>,
    mask: Vec<bool>,
    advantages: Vec<f64>,
}

impl Columns {
    fn any() -> impl Strategy<Value = Self> {
        let plane = prop::collection::vec(-2.0..-0.1, SEQUENCES * TOKENS);
        let planes = prop::collection::vec(plane, 5);
        let mask = prop::collection::vec(prop::bool::weighted(0.7), SEQUENCES * TOKENS);
        let advantages = prop::collection::vec(-1.0..1.0, SEQUENCES);
        (planes, mask, advantages).prop_map(|(floats, mask, advantages)| Self {
            floats,
            mask,
            advantages,
        })
    }

    /// The policy is that of the data, at every token.
    fn alike() -> Self {
        Self {
            floats: vec![vec![-0.5; SEQUENCES * TOKENS]; 5],
            mask: vec![true; SEQUENCES * TOKENS],
            advantages: vec![1.0; SEQUENCES],
        }
    }

    /// The metrics of some of the sequences.
    fn item(&self, loss: &PolicyLoss, sequences: std::ops::Range<usize>) -> PolicyLossItem {
        let device = Device::flex();
        let shape = [sequences.len(), TOKENS];
        let tokens = sequences.start * TOKENS..sequences.end * TOKENS;
        let plane = |index: usize| {
            let values = self.floats[index][tokens.clone()].to_vec();
            Tensor::<2>::from_data(TensorData::new(values, shape), (&device, DType::F64))
        };
        let advantages = self.advantages[sequences.clone()].to_vec();
        let advantages = TensorData::new(advantages, [sequences.len()]);
        let advantages = Tensor::<1>::from_data(advantages, (&device, DType::F64));
        let mask = TensorData::new(self.mask[tokens.clone()].to_vec(), shape);
        let batch = PolicyBatch::new(plane(0), plane(1), advantages)
            .with_action_mask(Tensor::from_data(mask, &device))
            .with_rollout_log_probs(plane(2))
            .with_ref_log_probs(plane(3))
            .with_entropies(-plane(4))
            .with_prompt_tokens(vec![7; sequences.len()])
            .with_entropy_threshold(0.9)
            // Metrics are made of sums, which no total scales.
            .with_totals(
                GlobalTotals::new()
                    .with_tokens(99)
                    .with_sequences(99)
                    .with_prompts(99),
            );
        let output = loss.forward(batch).expect("a batch that fits");
        PolicyLossItem::new(output.metrics)
    }
}

/// The lengths of steps, from where they are cut.
fn cut(cuts: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut ends: Vec<usize> = (1..SEQUENCES).filter(|end| cuts[end - 1]).collect();
    ends.push(SEQUENCES);
    let starts = std::iter::once(0).chain(ends.clone());
    starts
        .zip(ends.iter())
        .map(|(start, end)| start..*end)
        .collect()
}

fn epoch(metric: &mut PolicyLossMetric, items: &[PolicyLossItem]) -> (f64, SerializedEntry) {
    metric.clear();
    for item in items {
        let input: PolicyLossInput = item.adapt();
        metric.update(&input, &metadata()).expect("numbers");
    }
    let entry = metric.compute().expect("numbers");
    (metric.final_value().current(), entry)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_epoch_is_one_batch(
        columns in Columns::any(),
        cuts in prop::collection::vec(any::<bool>(), SEQUENCES - 1),
        reduction in prop::sample::select(Reduction::all(9).to_vec()),
    ) {
        let loss = with_all_parts(reduction);
        let steps: Vec<PolicyLossItem> = cut(&cuts)
            .into_iter()
            .map(|sequences| columns.item(&loss, sequences).sync().expect("numbers"))
            .collect();
        let whole = columns.item(&loss, 0..SEQUENCES);
        let whole_input: PolicyLossInput = whole.adapt();
        let PolicyLossInput::OnDevice(whole) = whole_input else {
            panic!("read back before it was asked for");
        };
        let values = whole.read().expect("numbers").named();
        let mut expected = vec![("loss", whole.sums().expect("numbers").mean_loss(whole.objective()))];
        expected.extend(values.into_iter().map(|(name, value)| (name, value.expect("every part"))));

        let metrics = PolicyLossMetric::all(&loss.config().objective);
        let names: Vec<String> = metrics.iter().map(|metric| metric.name().to_string()).collect();
        prop_assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (mut metric, (name, expected)) in metrics.into_iter().zip(expected) {
            let (value, entry) = epoch(&mut metric, &steps);
            let close = (value - expected).abs() <= 1e-12 * expected.abs().max(1.0);
            prop_assert!(close, "{}: {} of the epoch, {} of the batch", name, value, expected);
            prop_assert_eq!(entry.serialized, format!("{value},final"));
        }
    }
}

/// The steps have 5 and 1 valid tokens: a mean of their means would be another number.
#[test]
fn tokens_weigh_the_same_and_extremes_are_kept() {
    let loss = PolicyLossConfig::ppo().init().expect("a valid objective");
    let mut columns = Columns::alike();
    columns.floats[1][TOKENS] -= 3f64.ln();
    columns.mask = (0..SEQUENCES * TOKENS)
        .map(|token| token <= TOKENS)
        .collect();
    let items = [columns.item(&loss, 0..1), columns.item(&loss, 1..SEQUENCES)];
    let value = |name: &str| epoch(&mut PolicyLossMetric::new(name).expect("a metric"), &items).0;
    assert_eq!(value("valid_tokens"), 6.0);
    assert_eq!(value("valid_sequences"), 2.0);
    assert!((value("ratio_mean") - 8.0 / 6.0).abs() < 1e-12);
    assert!((value("ratio_max") - 3.0).abs() < 1e-12);
    assert_eq!(value("ratio_min"), 1.0);
    assert!((value("clip_ratio") - 1.0 / 6.0).abs() < 1e-12);
}

#[test]
fn a_step_is_logged_with_its_tokens_and_the_epoch_runs_along() {
    let loss = PolicyLossConfig::ppo().init().expect("a valid objective");
    let columns = Columns::alike();
    let mut metric = PolicyLossMetric::new("ratio_mean").expect("a metric");
    assert!(metric.value().is_none() && metric.running_value().is_none());
    for (step, tokens) in [(0..2, 10), (2..5, 25)] {
        let step_tokens = step.len() * TOKENS;
        let input: PolicyLossInput = columns.item(&loss, step).adapt();
        let entry = metric.update(&input, &metadata()).expect("numbers");
        assert_eq!(entry.serialized, format!("1,{step_tokens}"));
        let running = metric.running_value().expect("a value");
        assert!(matches!(running, NumericEntry::Aggregated { count, .. } if count == tokens));
    }
    metric.clear();
    assert!(metric.value().is_none() && metric.running_value().is_none());
}

#[test]
fn after_sync_nothing_is_on_the_device() {
    let columns = Columns::alike();
    let loss = PolicyLossConfig::ppo().init().expect("a valid objective");
    let item = columns.item(&loss, 0..SEQUENCES).with_rewards([0.0, 1.0]);
    let synced = item.sync().expect("numbers");
    // Twice costs nothing.
    for item in [synced.clone(), synced.sync().expect("numbers")] {
        let input: PolicyLossInput = item.adapt();
        assert!(matches!(input, PolicyLossInput::Read(_)));
    }
}

#[test]
fn a_part_that_the_objective_lacks_is_not_logged() {
    let loss = PolicyLossConfig::ppo().init().expect("a valid objective");
    let columns = Columns::alike();
    let all = PolicyLossMetric::all(&loss.config().objective);
    assert!(all.iter().all(|metric| *metric.name() != "entropy"));
    let of_default = PolicyLossMetric::all(&Objective::default());
    assert_eq!(of_default.len(), all.len());

    let mut entropy = PolicyLossMetric::new("entropy").expect("a metric");
    let input: PolicyLossInput = columns.item(&loss, 0..SEQUENCES).adapt();
    let entry = entropy.update(&input, &metadata()).expect("numbers");
    assert!(entry.is_not_available() && entropy.value().is_none());
    assert!(entropy.compute().expect("numbers").is_not_available());
}

#[test]
fn an_unknown_name_is_refused_with_those_that_there_are() {
    let error = PolicyLossMetric::new("clip_fraction").expect_err("no metric");
    let message = error.to_string();
    assert!(message.starts_with("there is no metric `clip_fraction`; there are loss, clip_ratio,"));
    assert!(message.ends_with(", entropy"), "{message}");
}

#[test]
fn rewards_weigh_the_same_whatever_the_step() {
    let loss = PolicyLossConfig::ppo().init().expect("a valid objective");
    let columns = Columns::alike();
    let item = columns.item(&loss, 0..1);
    let mut metric = RewardMetric::new();
    let rewards: [&[f64]; 3] = [&[1.0, 1.0, 0.5], &[], &[0.0]];
    let mut entries = Vec::new();
    for rewards in rewards {
        let item = item.clone().with_rewards(rewards);
        entries.push(metric.update(&item.adapt(), &metadata()).expect("numbers"));
    }
    assert!(entries[0].serialized.ends_with(",3"));
    assert!(entries[1].is_not_available());
    assert_eq!(entries[2].serialized, "0,1");
    assert_eq!(metric.compute().expect("numbers").serialized, "0.625,final");
    metric.clear();
    assert!(metric.compute().expect("numbers").is_not_available());
}

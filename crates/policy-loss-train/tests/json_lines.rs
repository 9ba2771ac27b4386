//! A run as lines of JSON.

use std::io::Write;
use std::sync::{Arc, Mutex};

use burn_train::logger::{InMemoryMetricLogger, MetricLogger};
use burn_train::metric::store::{MetricsUpdate, NumericMetricUpdate, Split};
use burn_train::metric::{
    Metric, MetricDefinition, MetricEntry, MetricId, NumericEntry, SerializedEntry,
};
use policy_loss_train::{JsonLines, PolicyLossMetric, RewardMetric};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn update(values: &[(&str, Option<NumericEntry>)]) -> MetricsUpdate {
    let numeric = |(name, entry): &(&str, Option<NumericEntry>)| {
        let serialized = match entry {
            Some(entry) => SerializedEntry::new(String::new(), entry.serialize()),
            None => SerializedEntry::not_available(None),
        };
        let id = MetricId::new(Arc::new((*name).to_owned()));
        NumericMetricUpdate::new(MetricEntry::new(id, serialized), entry.clone(), None)
    };
    MetricsUpdate::new(Vec::new(), values.iter().map(numeric).collect())
}

#[test]
fn steps_and_epochs_are_lines_and_the_other_logger_has_them_too() {
    let written = Written::default();
    let mut logger = JsonLines::new(written.clone(), InMemoryMetricLogger::new());
    let reward = RewardMetric::new();
    let loss = PolicyLossMetric::new("loss").expect("a metric");
    let entropy = PolicyLossMetric::new("entropy").expect("a metric");
    logger.log_metric_definition(MetricDefinition::new(MetricId::new(reward.name()), &reward));
    logger.log_metric_definition(MetricDefinition::new(MetricId::new(loss.name()), &loss));
    logger.log_metric_definition(MetricDefinition::new(
        MetricId::new(entropy.name()),
        &entropy,
    ));

    let step = |aggregated_value| NumericEntry::Aggregated {
        aggregated_value,
        count: 4,
    };
    let mean = NumericEntry::Final(0.5);
    let of_step = |reward, loss| {
        update(&[
            ("reward", Some(step(reward))),
            ("loss", Some(step(loss))),
            ("entropy", None),
        ])
    };
    logger.log(of_step(0.25, -0.5), 1, &Split::Train);
    logger.log(of_step(0.75, f64::NAN), 1, &Split::Train);
    logger.log(update(&[("reward", Some(mean.clone()))]), 1, &Split::Train);
    logger.log(update(&[("reward", Some(step(1.0)))]), 1, &Split::Valid);
    logger.log(update(&[("reward", Some(mean))]), 1, &Split::Valid);
    logger.log(of_step(1.0, f64::NEG_INFINITY), 2, &Split::Train);

    let bytes = written.0.lock().expect("no panic").clone();
    let lines = String::from_utf8(bytes).expect("text");
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let expected = [
        serde_json::json!({"epoch": 1, "iteration": 1, "reward": 0.25, "loss": -0.5}),
        serde_json::json!({"epoch": 1, "iteration": 2, "reward": 0.75, "loss": "NaN"}),
        serde_json::json!({"epoch": 1, "train_epoch": {"reward": 0.5}}),
        serde_json::json!({"epoch": 1, "iteration": 1, "valid": {"reward": 1.0}}),
        serde_json::json!({"epoch": 1, "valid_epoch": {"reward": 0.5}}),
        serde_json::json!({"epoch": 2, "iteration": 1, "reward": 1.0, "loss": "-inf"}),
    ];
    assert_eq!(lines, expected);

    let kept = logger.read_numeric("reward", 1, &Split::Train);
    assert_eq!(kept.expect("kept").len(), 3);
}

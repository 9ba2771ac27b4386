//! The mean reward of an epoch.

use std::sync::Arc;

use burn::backend::ExecutionError;
use burn::tensor::TensorReadError;
use burn_train::metric::state::{FormatOptions, NumericMetricState};
use burn_train::metric::{
    Adaptor, ItemLazy, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric,
    NumericAttributes, NumericEntry, SerializedEntry,
};

/// Rewards, one a sequence: the input of a [`RewardMetric`].
///
/// By itself it is the output of an [`InferenceStep`](burn_train::InferenceStep) that samples and
/// grades.
#[derive(Debug, Clone)]
pub struct RewardInput {
    rewards: Arc<[f64]>,
}

impl RewardInput {
    /// From the rewards of a step's sequences.
    #[must_use]
    pub fn new(rewards: impl Into<Arc<[f64]>>) -> Self {
        Self {
            rewards: rewards.into(),
        }
    }
}

impl Default for RewardInput {
    /// Of no sequence.
    fn default() -> Self {
        Self::new([])
    }
}

impl ItemLazy for RewardInput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<RewardInput> for RewardInput {
    fn adapt(&self) -> RewardInput {
        self.clone()
    }
}

/// The mean reward: of a step, and of all sequences of an epoch, each of which weighs the same.
///
/// Steps without rewards are not logged.
#[derive(Clone)]
pub struct RewardMetric {
    name: MetricName,
    state: NumericMetricState,
    /// How many sequences the last step had, and the epoch.
    step: usize,
    epoch: usize,
}

impl RewardMetric {
    /// Its name is `reward`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            name: Arc::new("reward".to_owned()),
            state: NumericMetricState::new(),
            step: 0,
            epoch: 0,
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name()).precision(4)
    }
}

impl Default for RewardMetric {
    fn default() -> Self {
        Self::new()
    }
}

impl Metric for RewardMetric {
    type Input = RewardInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some("Mean reward of a sequence.".to_owned())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: true,
        }
        .into()
    }

    fn update(
        &mut self,
        input: &RewardInput,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let count = input.rewards.len();
        self.step = count;
        self.epoch += count;
        if count == 0 {
            return Ok(SerializedEntry::not_available(None));
        }
        let mean = input.rewards.iter().sum::<f64>() / count as f64;
        self.state.update(mean, count);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        match self.epoch {
            0 => Ok(SerializedEntry::not_available(None)),
            _ => Ok(self.state.compute_final(self.format())),
        }
    }

    fn clear(&mut self) {
        *self = Self::new();
    }
}

impl Numeric for RewardMetric {
    fn value(&self) -> Option<NumericEntry> {
        (self.step > 0).then(|| self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        (self.epoch > 0).then(|| self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}

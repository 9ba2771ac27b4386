//! What a step hands to its metrics.

use std::sync::Arc;

use burn::backend::ExecutionError;
use burn::tensor::TensorReadError;
use burn_train::metric::{Adaptor, ItemLazy};
use policy_loss::{Objective, PolicyLossMetrics, Sums};

use crate::RewardInput;

/// What a step of a policy loss hands to its metrics: the output of a
/// [`TrainStep`](burn_train::TrainStep) or an [`InferenceStep`](burn_train::InferenceStep).
///
/// [`sync`](ItemLazy::sync), which Burn calls on the thread of the metrics, reads everything back in
/// one transfer; every [`PolicyLossMetric`](crate::PolicyLossMetric) is then computed from the same
/// numbers. A step whose output holds more than this keeps the item in a field, and passes `sync` and
/// [`adapt`](Adaptor::adapt) on.
#[derive(Debug, Clone)]
pub struct PolicyLossItem {
    input: PolicyLossInput,
    rewards: RewardInput,
}

impl PolicyLossItem {
    /// The metrics of a step, or the [merged](PolicyLossMetrics::merge) ones of its micro-batches.
    #[must_use]
    pub fn new(metrics: PolicyLossMetrics) -> Self {
        Self {
            input: PolicyLossInput::OnDevice(Box::new(metrics)),
            rewards: RewardInput::default(),
        }
    }

    /// Adds the rewards of the step's sequences, for a [`RewardMetric`](crate::RewardMetric).
    #[must_use]
    pub fn with_rewards(mut self, rewards: impl Into<Arc<[f64]>>) -> Self {
        self.rewards = RewardInput::new(rewards);
        self
    }
}

impl ItemLazy for PolicyLossItem {
    fn sync(self) -> Result<Self, ExecutionError> {
        let read = self.input.read().map_err(|error| match error {
            TensorReadError::Execution(error) => error,
            other => ExecutionError::with_context(other.to_string()),
        })?;
        Ok(Self {
            input: PolicyLossInput::Read(Box::new(read)),
            rewards: self.rewards,
        })
    }
}

impl Adaptor<PolicyLossInput> for PolicyLossItem {
    fn adapt(&self) -> PolicyLossInput {
        self.input.clone()
    }
}

impl Adaptor<RewardInput> for PolicyLossItem {
    fn adapt(&self) -> RewardInput {
        self.rewards.clone()
    }
}

/// The input of a [`PolicyLossMetric`](crate::PolicyLossMetric).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PolicyLossInput {
    /// Not read back yet: a metric that is updated with it reads for itself.
    OnDevice(Box<PolicyLossMetrics>),
    /// Numbers.
    Read(Box<ReadMetrics>),
}

/// What the metrics of a step are made of, as numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ReadMetrics {
    /// The row of sums.
    pub sums: Sums,
    /// The objective that they are of.
    pub objective: Objective,
}

impl PolicyLossInput {
    /// The numbers, read back if they are not yet.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<ReadMetrics, TensorReadError> {
        match self {
            Self::OnDevice(metrics) => Ok(ReadMetrics {
                sums: metrics.sums()?,
                objective: *metrics.objective(),
            }),
            Self::Read(read) => Ok(**read),
        }
    }
}

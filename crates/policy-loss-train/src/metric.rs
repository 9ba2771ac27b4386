//! The metrics of a policy loss as metrics of burn-train.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn_train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};
use policy_loss::{MetricValues, Objective};

use crate::{PolicyLossInput, ReadMetrics};

/// The name and the sentence of the one that [`MetricValues`] does not hold.
const LOSS: (&str, &str) = (
    "loss",
    "The loss of all sequences, reduced by their own counts.",
);

/// One metric of a policy loss, by its name: the loss, or a field of [`MetricValues`].
///
/// It adds up the rows of [`Sums`](policy_loss::Sums) of an epoch's steps, and is computed from
/// that. So its value over an epoch is the one of all its steps' sequences as a single batch, whatever
/// the metric is and however long the steps are: a mean over tokens, a least or largest ratio, a count,
/// an effective sample size. Where the objective changes within an epoch, the last one says which
/// metrics there are and how the loss is reduced.
///
/// A step is logged as its value and its number of valid tokens, an epoch as its value. A metric of a
/// part that the objective does not have is not logged.
#[derive(Debug, Clone)]
pub struct PolicyLossMetric {
    name: MetricName,
    sentence: &'static str,
    step: Option<ReadMetrics>,
    epoch: Option<ReadMetrics>,
}

/// There is no metric of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no metric `{name}`; there are {}", names().collect::<Vec<_>>().join(", "))]
pub struct UnknownMetric {
    /// The name.
    pub name: String,
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    std::iter::once(LOSS).chain(MetricValues::SENTENCES.iter().copied())
}

fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| name)
}

impl PolicyLossMetric {
    /// The metric of this name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn new(name: &str) -> Result<Self, UnknownMetric> {
        let (name, sentence) =
            all()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| UnknownMetric {
                    name: name.to_owned(),
                })?;
        Ok(Self {
            name: Arc::new(name.to_owned()),
            sentence: sentence.trim(),
            step: None,
            epoch: None,
        })
    }

    /// The loss, and every metric that an objective has.
    #[must_use]
    pub fn all(objective: &Objective) -> Vec<Self> {
        let of_nothing = ReadMetrics {
            sums: policy_loss::Sums::default(),
            objective: *objective,
        };
        names()
            .filter_map(|name| Self::new(name).ok())
            .filter(|metric| metric.value_of(&of_nothing).is_some())
            .collect()
    }

    fn value_of(&self, read: &ReadMetrics) -> Option<f64> {
        if *self.name == LOSS.0 {
            return Some(read.sums.mean_loss(&read.objective));
        }
        MetricValues::of(&read.sums, &read.objective)
            .named()
            .into_iter()
            .find_map(|(name, value)| (name == *self.name).then_some(value))
            .flatten()
    }

    fn aggregated(&self, read: Option<&ReadMetrics>) -> Option<NumericEntry> {
        let read = read?;
        Some(NumericEntry::Aggregated {
            aggregated_value: self.value_of(read)?,
            count: read.sums.valid_tokens as usize,
        })
    }

    /// The value of the epoch and that of the step, and what is logged of them.
    fn entry(&self, logged: Option<NumericEntry>) -> SerializedEntry {
        let value = |read: &Option<ReadMetrics>| self.value_of(read.as_ref()?);
        match (value(&self.epoch), value(&self.step), logged) {
            (Some(epoch), Some(step), Some(logged)) => {
                let [epoch, step] = [epoch, step].map(|value| format_float(value, 4));
                let formatted = format!("epoch {epoch} - batch {step}");
                SerializedEntry::new(formatted, logged.serialize())
            }
            _ => SerializedEntry::not_available(None),
        }
    }
}

impl Metric for PolicyLossMetric {
    type Input = PolicyLossInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some(self.sentence.to_owned())
    }

    fn attributes(&self) -> MetricAttributes {
        // Burn has no word for a metric that is not a goal: most of them are to stay in a range.
        NumericAttributes {
            unit: None,
            higher_is_better: false,
        }
        .into()
    }

    fn update(
        &mut self,
        input: &PolicyLossInput,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let step = input.read()?;
        let mut epoch = step;
        if let Some(before) = &self.epoch {
            epoch.sums.merge(&before.sums);
        }
        self.step = Some(step);
        self.epoch = Some(epoch);
        Ok(self.entry(self.value()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(Some(self.final_value())))
    }

    fn clear(&mut self) {
        self.step = None;
        self.epoch = None;
    }
}

impl Numeric for PolicyLossMetric {
    fn value(&self) -> Option<NumericEntry> {
        self.aggregated(self.step.as_ref())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.aggregated(self.epoch.as_ref())
    }

    fn final_value(&self) -> NumericEntry {
        let value = self.epoch.as_ref().and_then(|epoch| self.value_of(epoch));
        NumericEntry::Final(value.unwrap_or(f64::NAN))
    }
}

//! `policy-loss compare`: one batch under several objectives, side by side.

use burn::tensor::Tensor;
use policy_loss::{MetricValues, PolicyLossConfig};
use serde::{Serialize, Serializer};

use crate::args::CompareArguments;
use crate::batch_file::{self, BatchFile};
use crate::eval::explain;
use crate::failure::Failure;
use crate::objective::Objective;
use crate::output;
use crate::report::{Number, flush_left, plain};
use crate::tensors::{DeviceBatch, HostBatch};

/// Everything that there is to say about a comparison.
#[derive(Serialize)]
struct Comparison {
    device: &'static str,
    objectives: Vec<Entry>,
}

/// One objective on the batch.
#[derive(Serialize)]
struct Entry {
    /// As it was asked for.
    name: String,
    /// What `--config` takes.
    config: PolicyLossConfig,
    implementation: String,
    loss: Number,
    /// The length of the gradient.
    gradient_norm: Number,
    /// The cosine of the angle to the gradient of each objective, in their order; 0 where one of
    /// the two gradients is 0.
    gradient_cosine: Vec<Number>,
    #[serde(serialize_with = "by_name")]
    metrics: Vec<(&'static str, Option<Number>)>,
}

fn by_name<S: Serializer>(
    metrics: &[(&'static str, Option<Number>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metrics.iter().copied())
}

/// What one forward and backward pass leaves.
struct Computed {
    objective: Objective,
    implementation: String,
    loss: f64,
    metrics: MetricValues,
    gradient: Vec<f64>,
}

/// Evaluates a batch under every objective and prints them side by side.
pub fn run(arguments: &CompareArguments) -> Result<(), Failure> {
    let objectives = Objective::read_all(&arguments.preset, &arguments.config)?;
    let bytes = batch_file::read(&arguments.batch)?;
    let file = BatchFile::parse(&arguments.batch, &bytes)?;
    let host = HostBatch::read(&file)?;
    let device = arguments
        .device
        .device()
        .map_err(|unavailable| Failure::DeviceUnavailable(unavailable.to_string()))?;
    let batch = host.move_to(&file, &device)?;
    let computed = objectives
        .into_iter()
        .map(|objective| compute(objective, &batch, &file))
        .collect::<Result<Vec<_>, Failure>>()?;
    let comparison = Comparison {
        device: arguments.device.name(),
        objectives: computed.iter().map(|one| entry(one, &computed)).collect(),
    };
    match arguments.json {
        true => output::json(&comparison),
        false => output::result(&comparison.table()),
    }
}

fn compute(
    objective: Objective,
    batch: &DeviceBatch,
    file: &BatchFile,
) -> Result<Computed, Failure> {
    let output = objective
        .loss
        .forward(batch.batch.clone())
        .map_err(|error| explain(error, file, &objective))?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Other(format!("the device failed while it computed: {error}"))
    };
    let values = output.read().map_err(|error| failed(&error))?;
    let gradients = output.loss.backward();
    let gradient = batch.log_probs.grad(&gradients);
    let gradient = gradient.map(Tensor::try_into_vec_as::<f64>).transpose();
    Ok(Computed {
        implementation: output.implementation.to_string(),
        loss: values.loss,
        metrics: values.metrics,
        gradient: gradient
            .map_err(|error| failed(&error))?
            .unwrap_or_default(),
        objective,
    })
}

fn entry(one: &Computed, all: &[Computed]) -> Entry {
    Entry {
        name: one.objective.origin.to_string(),
        config: *one.objective.loss.config(),
        implementation: one.implementation.clone(),
        loss: Number(one.loss),
        gradient_norm: Number(norm(&one.gradient)),
        gradient_cosine: all
            .iter()
            .map(|other| Number(cosine(&one.gradient, &other.gradient)))
            .collect(),
        metrics: one
            .metrics
            .named()
            .into_iter()
            .map(|(name, value)| (name, value.map(Number)))
            .collect(),
    }
}

fn norm(gradient: &[f64]) -> f64 {
    gradient.iter().map(|g| g * g).sum::<f64>().sqrt()
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let product: f64 = one.iter().zip(other).map(|(a, b)| a * b).sum();
    match norm(one) * norm(other) {
        0.0 => 0.0,
        // A rounding must not leave the range of a cosine.
        norms => (product / norms).clamp(-1.0, 1.0),
    }
}

impl Comparison {
    /// A column for each objective.
    fn table(&self) -> String {
        let objectives = &self.objectives;
        let mut table = plain();
        let mut row = |name: &str, cell: &dyn Fn(&Entry) -> String| {
            let cells = objectives.iter().map(cell);
            table.add_row(std::iter::once(name.to_owned()).chain(cells));
        };
        row("", &|entry| entry.name.clone());
        row("implementation", &|entry| entry.implementation.clone());
        row("loss", &|entry| number(entry.loss));
        row("gradient norm", &|entry| number(entry.gradient_norm));
        for (index, other) in objectives.iter().enumerate() {
            row(&format!("cosine to {}", other.name), &|entry| {
                number(entry.gradient_cosine[index])
            });
        }
        for (index, (name, _)) in objectives[0].metrics.iter().enumerate() {
            if objectives.iter().any(|e| e.metrics[index].1.is_some()) {
                row(name, &|entry| {
                    entry.metrics[index].1.map_or("-".into(), number)
                });
            }
        }
        flush_left(table)
    }
}

/// Six digits: enough to compare, and narrow enough to stand side by side.
fn number(Number(value): Number) -> String {
    match value == 0.0 || (1e-3..1e6).contains(&value.abs()) {
        true => format!("{:.6}", value + 0.0),
        false => format!("{value:.5e}"),
    }
}

//! `policy-loss compare`: one batch under several objectives, side by side.

use burn::tensor::Tensor;
use policy_loss::{MetricValues, PolicyLossConfig, Warning};
use serde::Serialize;

use crate::args::CompareArguments;
use crate::batch_file::{self, BatchFile};
use crate::beside::Beside;
use crate::eval::explain;
use crate::objective::{Objective, short_names};
use crate::output::{self, Failure, printable};
use crate::report::{Named, Number, flush_left, plain};
use crate::tensors::{DeviceBatch, HostBatch};
use crate::warned::Known;

/// What fits on a screen.
const WIDTH: usize = 100;
/// Between two columns.
const GAP: usize = 2;

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
    /// The head of its column.
    #[serde(skip)]
    short: String,
    /// What `--config` takes.
    config: PolicyLossConfig,
    implementation: String,
    loss: Number,
    /// The length of the gradient.
    gradient_norm: Number,
    /// The cosine of the angle to the gradient of each objective, in their order; 0 where one of
    /// the two gradients is 0.
    gradient_cosine: Vec<Number>,
    metrics: Named,
    warnings: Vec<Warning>,
}

/// What one forward and backward pass leaves.
struct Computed {
    objective: Objective,
    implementation: String,
    loss: f64,
    metrics: MetricValues,
    gradient: Vec<f64>,
    warnings: Vec<Warning>,
}

/// Evaluates a batch under every objective and prints them side by side.
pub fn run(arguments: &CompareArguments) -> Result<(), Failure> {
    if arguments.objectives.0.is_empty() {
        return Err(Failure::Usage(
            "there is nothing to compare: give --preset or --config, more than once".into(),
        ));
    }
    let requested = arguments.objectives.0.iter().cloned();
    let objectives = requested
        .map(|requested| Objective::read(requested, arguments.implementation))
        .collect::<Result<Vec<_>, Failure>>()?;
    let names = short_names(&objectives).into_iter();
    let bytes = batch_file::read(&arguments.batch)?;
    let file = BatchFile::parse(&arguments.batch, &bytes)?;
    let host = HostBatch::read(&file)?;
    let device = arguments.device.device()?;
    let beside = Beside::read(&file, host.shape());
    let batch = host.move_to(&file, &device)?;
    let mut computed = objectives
        .into_iter()
        .map(|objective| compute(objective, &batch, &file))
        .collect::<Result<Vec<_>, Failure>>()?;
    let known = Known::of_rollout(&batch.batch, &beside, arguments.device)?;
    for one in &mut computed {
        one.warnings = known.warnings(&one.objective, one.metrics)?;
    }
    for (names, warning) in by_message(&computed) {
        output::warning(format!("{}: {warning}", names.join(", ")));
    }
    let comparison = Comparison {
        device: arguments.device.name(),
        objectives: computed
            .iter()
            .zip(names)
            .map(|(one, short)| entry(one, short, &computed))
            .collect(),
    };
    output::result(arguments.json, &comparison, Comparison::table)?;
    output::pictures(arguments.json);
    Ok(())
}

/// Each warning once, with the objectives that it holds for.
fn by_message(computed: &[Computed]) -> Vec<(Vec<String>, &Warning)> {
    let mut found: Vec<(Vec<String>, &Warning)> = Vec::new();
    for one in computed {
        let name = one.objective.requested.to_string();
        for warning in &one.warnings {
            match found.iter_mut().find(|(_, known)| *known == warning) {
                Some((names, _)) => names.push(name.clone()),
                None => found.push((vec![name.clone()], warning)),
            }
        }
    }
    found
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
    let device = format!("{}: the device", objective.requested);
    let values = output.read();
    let values = values.map_err(|error| Failure::computing(&device, error))?;
    let gradients = output.loss.backward();
    let gradient = batch.log_probs.grad(&gradients);
    let gradient = gradient.map(Tensor::try_into_vec_as::<f64>).transpose();
    Ok(Computed {
        implementation: output.implementation.to_string(),
        loss: values.loss,
        metrics: values.metrics,
        gradient: gradient
            .map_err(|error| Failure::computing(&device, error))?
            .unwrap_or_default(),
        warnings: Vec::new(),
        objective,
    })
}

fn entry(one: &Computed, short: String, all: &[Computed]) -> Entry {
    Entry {
        name: one.objective.requested.to_string(),
        short: printable(&short),
        config: *one.objective.loss.config(),
        implementation: one.implementation.clone(),
        loss: Number(one.loss),
        gradient_norm: Number(norm(&one.gradient)),
        gradient_cosine: all
            .iter()
            .map(|other| Number(cosine(&one.gradient, &other.gradient)))
            .collect(),
        metrics: Named::new(one.metrics.named()),
        warnings: one.warnings.clone(),
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
    /// A column for each objective, in blocks of as many as stand side by side.
    fn table(&self) -> String {
        let rows = self.rows();
        let width = |column: &[String]| column.iter().map(|cell| cell.chars().count()).max();
        let label_width = width(&rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>());
        let mut blocks: Vec<Vec<usize>> = Vec::new();
        let mut free = 0;
        for column in 1..=self.objectives.len() {
            let cells: Vec<_> = rows.iter().map(|row| row[column].clone()).collect();
            let needed = width(&cells).unwrap_or(0) + GAP;
            match blocks.last_mut().filter(|_| needed <= free) {
                Some(block) => block.push(column),
                None => {
                    blocks.push(vec![column]);
                    free = WIDTH.saturating_sub(label_width.unwrap_or(0));
                }
            }
            free = free.saturating_sub(needed);
        }
        let tables = blocks.into_iter().map(|block| {
            let mut table = plain();
            for row in &rows {
                let columns = std::iter::once(&0).chain(&block);
                table.add_row(columns.map(|column| &row[*column]));
            }
            flush_left(table)
        });
        tables.collect::<Vec<_>>().join("\n\n")
    }

    /// A label, and a cell for each objective.
    fn rows(&self) -> Vec<Vec<String>> {
        let objectives = &self.objectives;
        let mut rows = Vec::new();
        let mut row = |name: &str, cell: &dyn Fn(&Entry) -> String| {
            let cells = objectives.iter().map(cell);
            rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
        };
        row("", &|entry| entry.short.clone());
        row("implementation", &|entry| entry.implementation.clone());
        row("loss", &|entry| number(entry.loss));
        row("gradient norm", &|entry| number(entry.gradient_norm));
        for (index, other) in objectives.iter().enumerate() {
            row(&format!("cosine to {}", other.short), &|entry| {
                number(entry.gradient_cosine[index])
            });
        }
        for (index, (name, _)) in objectives[0].metrics.0.iter().enumerate() {
            if objectives.iter().any(|e| e.metrics.0[index].1.is_some()) {
                row(name, &|entry| {
                    entry.metrics.0[index].1.map_or("-".into(), number)
                });
            }
        }
        rows
    }
}

/// Six digits: enough to compare, and narrow enough to stand side by side.
fn number(Number(value): Number) -> String {
    match value == 0.0 || (1e-3..1e6).contains(&value.abs()) {
        true => format!("{:.6}", value + 0.0),
        false => format!("{value:.5e}"),
    }
}

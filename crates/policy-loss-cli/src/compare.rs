//! `policy-loss compare`: one batch under several objectives, side by side.

use burn::tensor::Tensor;
use policy_loss::{PolicyLossConfig, Warning};
use policy_loss_report::{cosine, norm};
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
    /// The cosine of the angle to the gradient of each objective, in their order; NaN where one of
    /// the two gradients is 0.
    gradient_cosine: Vec<Number>,
    #[serde(skip)]
    gradient: Vec<f64>,
    metrics: Named,
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
    let bytes = batch_file::read(&arguments.batch)?;
    let file = BatchFile::parse(&arguments.batch, &bytes)?;
    let host = HostBatch::read(&file)?;
    let device = arguments.device.device()?;
    let beside = Beside::read(&file, host.shape());
    let batch = host.move_to(&file, &device)?;
    let known = Known::of_rollout(&batch.batch, &beside, arguments.device)?;
    let mut entries = objectives
        .iter()
        .zip(short_names(&objectives))
        .map(|(objective, short)| compute(objective, &short, &batch, &file, &known))
        .collect::<Result<Vec<_>, Failure>>()?;
    for index in 0..entries.len() {
        let one = &entries[index].gradient;
        let cosines = entries.iter().map(|other| cosine(one, &other.gradient));
        entries[index].gradient_cosine = cosines.map(Number).collect();
    }
    for (names, warning) in by_message(&entries) {
        output::warning(format!("{}: {warning}", names.join(", ")));
    }
    let comparison = Comparison {
        device: arguments.device.name(),
        objectives: entries,
    };
    output::result(arguments.json, &comparison, Comparison::table)?;
    output::pictures(arguments.json);
    Ok(())
}

/// Each warning once, with the objectives that it holds for.
fn by_message(entries: &[Entry]) -> Vec<(Vec<&str>, &Warning)> {
    let mut found: Vec<(Vec<&str>, &Warning)> = Vec::new();
    for entry in entries {
        for warning in &entry.warnings {
            match found.iter_mut().find(|(_, known)| *known == warning) {
                Some((names, _)) => names.push(&entry.name),
                None => found.push((vec![&entry.name], warning)),
            }
        }
    }
    found
}

/// All but the cosines, which need the gradients of the others.
fn compute(
    objective: &Objective,
    short: &str,
    batch: &DeviceBatch,
    file: &BatchFile,
    known: &Known,
) -> Result<Entry, Failure> {
    let output = objective
        .loss
        .forward(batch.batch.clone())
        .map_err(|error| explain(error, file, objective))?;
    let device = format!("{}: the device", objective.requested);
    let values = output.read();
    let values = values.map_err(|error| Failure::computing(&device, error))?;
    let gradients = output.loss.backward();
    let gradient = batch.log_probs.grad(&gradients);
    let gradient = gradient.map(Tensor::try_into_vec_as::<f64>).transpose();
    let gradient = gradient.map_err(|error| Failure::computing(&device, error))?;
    let gradient = gradient.unwrap_or_default();
    Ok(Entry {
        name: objective.requested.to_string(),
        short: printable(short),
        config: *objective.loss.config(),
        implementation: output.implementation.to_string(),
        loss: Number(values.loss),
        gradient_norm: Number(norm(&gradient)),
        gradient_cosine: Vec::new(),
        gradient,
        metrics: Named::new(values.metrics.named()),
        warnings: known.warnings(objective, values.metrics)?,
    })
}

impl Comparison {
    /// A column for each objective, in blocks of as many as stand side by side.
    fn table(&self) -> String {
        let rows = self.rows();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let mut blocks: Vec<Vec<usize>> = Vec::new();
        let mut free = 0;
        for column in 1..=self.objectives.len() {
            let needed = width(column) + GAP;
            match blocks.last_mut().filter(|_| needed <= free) {
                Some(block) => block.push(column),
                None => {
                    blocks.push(vec![column]);
                    free = WIDTH.saturating_sub(width(0));
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

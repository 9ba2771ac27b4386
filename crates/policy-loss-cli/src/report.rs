//! The result of an evaluation, as a table for people and as JSON for programs.

use std::path::Path;

use burn::tensor::DType;
use comfy_table::{Table, presets::NOTHING};
use policy_loss::{
    GradientMass, Histogram, Implementation, InspectionValues, PolicyLossValues,
    RolloutDiagnosticValues, Warning,
};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::objective::Objective;
use crate::output::printable;

/// The metrics that stand beside the loss; all others are under `metrics`.
const HEADLINE: [&str; 3] = ["clip_ratio", "ppo_kl", "rollout_kl"];

/// Everything that there is to say about an evaluation.
pub struct Report<'run> {
    /// Loss and metrics.
    pub values: PolicyLossValues,
    /// The mismatch between sampler and trainer, where the batch tells.
    pub rollout: Option<RolloutDiagnosticValues>,
    /// A closer look, where it is asked for.
    pub inspection: Option<InspectionValues>,
    /// Valid tokens, counted on the host: a float metric is exact only up to 2^24 of them.
    pub tokens: usize,
    /// Sequences that hold a valid token.
    pub sequences: usize,
    /// `[B, T]`.
    pub shape: [usize; 2],
    /// The type of the arithmetic.
    pub arithmetic: DType,
    /// The file of the batch.
    pub batch: &'run Path,
    /// The backend.
    pub device: &'static str,
    /// The implementation that computed it.
    pub implementation: Implementation,
    /// What is likely to go wrong.
    pub warnings: Vec<Warning>,
    /// What was computed.
    pub objective: &'run Objective,
}

impl Report<'_> {
    /// The report as a table.
    pub fn table(&self) -> String {
        let [batch_size, length] = self.shape;
        let mut table = plain();
        table.add_row(["batch", &printable(&self.batch.display().to_string())]);
        table.add_row([
            "",
            &format!(
                "{batch_size} x {length}, {} valid tokens in {} sequences",
                self.tokens, self.sequences
            ),
        ]);
        table.add_row([
            "objective",
            &printable(&self.objective.requested.to_string()),
        ]);
        table.add_row(["", &self.objective.json()]);
        table.add_row([
            "device",
            &format!(
                "{}, {} arithmetic, {}",
                self.device,
                self.arithmetic.name(),
                self.implementation
            ),
        ]);
        table.add_row(["", ""]);
        table.add_row(["loss", &self.number(self.values.loss)]);
        for (name, value) in self.values.metrics.named() {
            let value = match value {
                Some(value) => self.number(value),
                None => "-".to_owned(),
            };
            table.add_row([name, &value]);
        }
        if let Some(rollout) = self.rollout {
            table.add_row(["", ""]);
            table.add_row(["rollout", ""]);
            for (name, value) in rollout.named() {
                table.add_row([name, &self.number(value)]);
            }
        }
        if let Some(inspection) = &self.inspection {
            table.add_row(["", ""]);
            table.add_row(["gradient", ""]);
            let GradientMass {
                kept,
                truncated,
                clipped,
                dropped,
                masked,
            } = inspection.gradient.shares();
            for (name, share) in [
                ("kept", kept),
                ("truncated", truncated),
                ("clipped", clipped),
                ("dropped", dropped),
                ("masked", masked),
            ] {
                table.add_row([name, &self.number(share)]);
            }
            for (name, histogram) in [
                ("log_ratio", Some(&inspection.log_ratio)),
                ("log_weight", inspection.log_weight.as_ref()),
                ("rollout_gap", inspection.rollout_gap.as_ref()),
            ] {
                if let Some(histogram) = histogram {
                    table.add_row(["", ""]);
                    table.add_row([name, "tokens"]);
                    for (bucket, count) in buckets(histogram) {
                        table.add_row([bucket, count.to_string()]);
                    }
                }
            }
        }
        flush_left(table)
    }

    /// The shortest digits that stand for the value in the arithmetic that computed it.
    fn number(&self, value: f64) -> String {
        match self.arithmetic {
            DType::F64 => format!("{value:?}"),
            _ => format!("{:?}", value as f32),
        }
    }
}

/// The buckets that hold a token, in words.
fn buckets(histogram: &Histogram) -> Vec<(String, u64)> {
    let edges = Histogram::edges();
    let [first, .., last] = edges;
    let between = edges
        .windows(2)
        .map(|pair| format!("{} to {}", pair[0], pair[1]));
    let names = std::iter::once(format!("below {first}"))
        .chain(between)
        .chain([format!("from {last} on")]);
    let counted = names.zip(histogram.counts().iter().copied());
    counted.filter(|(_, count)| *count > 0).collect()
}

/// A table without lines, that looks the same in a terminal and in a file.
pub fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// The text of a table, without the space that would be left of a line.
pub fn flush_left(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metrics = Named::new(self.values.metrics.named()).0.into_iter();
        let (headline, others): (Vec<_>, _) =
            metrics.partition(|(name, _)| HEADLINE.contains(name));
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("loss", &Number(self.values.loss))?;
        for (name, value) in &headline {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("metrics", &Named(others))?;
        let rollout = self.rollout.map(|rollout| {
            let named = rollout.named().into_iter();
            Named::new(named.map(|(name, value)| (name, Some(value))))
        });
        map.serialize_entry("rollout", &rollout)?;
        let inspection = self.inspection.as_ref().map(Inspected::of);
        map.serialize_entry("inspection", &inspection)?;
        map.serialize_entry("warnings", &self.warnings)?;
        map.serialize_entry("tokens", &self.tokens)?;
        map.serialize_entry("sequences", &self.sequences)?;
        map.serialize_entry("device", self.device)?;
        map.serialize_entry("implementation", &self.implementation)?;
        map.end()
    }
}

/// A closer look, with what its counts are cut at.
#[derive(serde::Serialize)]
struct Inspected<'run> {
    edges: Vec<f64>,
    log_ratio: &'run Histogram,
    log_weight: Option<&'run Histogram>,
    rollout_gap: Option<&'run Histogram>,
    gradient: Named,
}

impl<'run> Inspected<'run> {
    fn of(values: &'run InspectionValues) -> Self {
        Self {
            edges: Histogram::edges().to_vec(),
            log_ratio: &values.log_ratio,
            log_weight: values.log_weight.as_ref(),
            rollout_gap: values.rollout_gap.as_ref(),
            gradient: shares(values.gradient),
        }
    }
}

fn shares(mass: GradientMass) -> Named {
    let shares = mass.shares();
    let named = [
        ("kept", shares.kept),
        ("truncated", shares.truncated),
        ("clipped", shares.clipped),
        ("dropped", shares.dropped),
        ("masked", shares.masked),
    ];
    Named::new(named.map(|(name, share)| (name, Some(share))))
}

/// Values by name, in their own order.
pub struct Named(pub Vec<(&'static str, Option<Number>)>);

impl Named {
    /// As the library lists them.
    pub fn new(values: impl IntoIterator<Item = (&'static str, Option<f64>)>) -> Self {
        let values = values.into_iter();
        Self(
            values
                .map(|(name, value)| (name, value.map(Number)))
                .collect(),
        )
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A number that may be none: JSON has no word for NaN and the infinities.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if value > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }
}

//! Metrics as lines of JSON.

use std::collections::HashMap;
use std::io::Write;

use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{MetricDefinition, MetricId, MetricName, NumericEntry};
use serde_json::{Map, Value, json};

/// A metric logger that writes lines of JSON beside what another logger keeps: a run that programs
/// follow, without a terminal.
///
/// ```text
/// {"clip_ratio":0.125,"epoch":2,"iteration":7,"loss":-0.01,"reward":0.5}   a step of training
/// {"epoch":2,"iteration":1,"valid":{"reward":0.75}}                        a step of another split
/// {"epoch":2,"valid_epoch":{"reward":0.7}}                                 a split's whole epoch
/// ```
///
/// Every numeric metric that was registered is in it, Burn's too. Iterations count from 1 in each epoch.
/// JSON has no word for a number that is not finite: it is `"NaN"`, `"inf"` or `"-inf"`. The program
/// `policy-loss report --steps` draws such a file.
///
/// Checkpointing and early stopping read from the other logger:
///
/// ```no_run
/// # use burn_train::logger::FileMetricLogger;
/// # use policy_loss_train::JsonLines;
/// let logger = JsonLines::new(std::io::stdout(), FileMetricLogger::new("run"));
/// // SupervisedTraining::new(..).with_metric_logger(logger)
/// ```
#[derive(Debug)]
pub struct JsonLines<W, L> {
    writer: W,
    beside: L,
    names: HashMap<MetricId, MetricName>,
    /// The epoch of the last line of each split, and how many steps it has had.
    iterations: HashMap<Split, (usize, usize)>,
}

impl<W: Write + Send, L: MetricLogger> JsonLines<W, L> {
    /// Writes to `writer`, and passes everything on to `beside`.
    pub fn new(writer: W, beside: L) -> Self {
        Self {
            writer,
            beside,
            names: HashMap::new(),
            iterations: HashMap::new(),
        }
    }

    fn line(&mut self, update: &MetricsUpdate, epoch: usize, split: &Split) -> Option<Value> {
        let mut values = Map::new();
        let mut whole_epoch = false;
        for numeric in &update.entries_numeric {
            let name = self.names.get(&numeric.entry.metric_id);
            let (Some(name), Some(entry)) = (name, &numeric.numeric_entry) else {
                continue;
            };
            whole_epoch |= matches!(entry, NumericEntry::Final(_));
            // The final value of a metric without one is NaN, too.
            if !numeric.entry.serialized_entry.is_not_available() {
                values.insert(name.to_string(), number(entry.current()));
            }
        }
        let mut line = Map::from_iter([("epoch".to_owned(), json!(epoch))]);
        if whole_epoch {
            line.insert(format!("{split}_epoch"), Value::Object(values));
            return Some(Value::Object(line));
        }
        let (last, count) = self.iterations.entry(split.clone()).or_default();
        if *last != epoch {
            (*last, *count) = (epoch, 0);
        }
        *count += 1;
        line.insert("iteration".to_owned(), json!(*count));
        match split {
            Split::Train => line.extend(values),
            _ if values.is_empty() => return None,
            _ => _ = line.insert(split.to_string(), Value::Object(values)),
        }
        Some(Value::Object(line))
    }
}

fn number(value: f64) -> Value {
    match value.is_finite() {
        true => json!(value),
        false => json!(value.to_string()),
    }
}

impl<W: Write + Send, L: MetricLogger> MetricLogger for JsonLines<W, L> {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        if let Some(line) = self.line(&update, epoch, split) {
            // At once: whoever follows the file reads whole lines.
            let line = format!("{line}\n");
            let written = self.writer.write_all(line.as_bytes());
            let written = written.and_then(|()| self.writer.flush());
            if let Err(error) = written {
                // Burn's loggers return no errors.
                log::error!("A line of metrics could not be written: {error}");
            }
        }
        self.beside.log(update, epoch, split);
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        self.beside.read_numeric(name, epoch, split)
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id.clone(), definition.name.clone());
        self.beside.log_metric_definition(definition);
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        self.beside.log_epoch_summary(summary);
    }
}

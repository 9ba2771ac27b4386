//! The steps of a run, from files.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use policy_loss::Warnings;
use policy_loss_report::{Curves, Report};
use serde_json::{Map, Value};

use crate::backends::Backend;
use crate::batch_file::{self, BatchFile};
use crate::beside::Beside;
use crate::eval::explain;
use crate::objective::{Objective, short_names};
use crate::output::{Failure, note, refuse_overwriting};
use crate::tensors::HostBatch;
use crate::warned::Known;

/// Adds the curves of what is at `path`, with what there is to warn of. Nothing that is read must be
/// the file `out`.
pub fn with_curves(
    report: Report,
    path: &Path,
    objectives: &[Objective],
    backend: Backend,
    out: &Path,
) -> Result<Report, Failure> {
    let bad = |what: &str| Failure::BadInput(format!("--steps {}: {what}", path.display()));
    let of_lines = |path: &Path| {
        if objectives
            .iter()
            .any(|objective| !objective.requested.is_default())
        {
            note(format!(
                "objectives have no effect on the curves of {}: its numbers are computed already",
                path.display()
            ));
        }
        if backend != Backend::default() {
            note(format!(
                "--device has no effect on the curves of {}: its numbers are computed already",
                path.display()
            ));
        }
        of_lines(path)
    };
    if !path.is_dir() {
        return Ok(report.with_curves(of_lines(path)?));
    }
    let entries = fs::read_dir(path).map_err(|error| bad(&error.to_string()))?;
    let (mut batches, mut lines) = (Vec::new(), Vec::new());
    for entry in entries {
        let file = entry.map_err(|error| bad(&error.to_string()))?.path();
        match file.extension().and_then(OsStr::to_str) {
            Some("safetensors") => batches.push(file),
            Some("jsonl") => lines.push(file),
            _ => {}
        }
    }
    for file in batches.iter().chain(&lines) {
        refuse_overwriting("--out", out, "a file of the --steps", file)?;
    }
    match (batches.is_empty(), &lines[..]) {
        (true, [lines]) => Ok(report.with_curves(of_lines(lines)?)),
        (false, []) => of_batches(report, batches, objectives, backend),
        (true, []) => Err(bad("holds no .safetensors and no .jsonl file")),
        (true, [_, _, ..]) => Err(bad("holds several .jsonl files; name one of them")),
        (false, [_, ..]) => Err(bad(
            "holds .safetensors and .jsonl files; name the .jsonl file, or move one of the two",
        )),
    }
}

fn of_batches(
    mut report: Report,
    mut batches: Vec<PathBuf>,
    objectives: &[Objective],
    backend: Backend,
) -> Result<Report, Failure> {
    batches.sort_by_cached_key(|path| natural(&path.to_string_lossy()));
    let device = backend.device()?;
    let names = short_names(objectives);
    let mut curves = Curves::new();
    let mut warnings: Vec<Warnings> = objectives
        .iter()
        .map(|objective| Warnings::new(&objective.loss.config().objective))
        .collect();
    for path in batches {
        let step = path.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = batch_file::read(&path)?;
        let file = BatchFile::parse(&path, &bytes)?;
        let host = HostBatch::read(&file)?;
        let beside = Beside::read(&file, host.shape());
        let batch = host.move_to(&file, &device)?.batch;
        let mut values: Vec<(String, f64)> = Vec::new();
        let rewards = beside.rewards.iter().flatten();
        let count = rewards.clone().count();
        if count > 0 {
            let mean = rewards.sum::<f64>() / count as f64;
            values.push(("reward".to_owned(), mean));
        }
        let known = Known::of_rollout(&batch, &beside, backend)?;
        let each = objectives.iter().zip(&names).zip(&mut warnings);
        for ((objective, of), warnings) in each {
            let output = objective.loss.forward(batch.clone());
            let output = output.map_err(|error| explain(error, &file, objective))?;
            let read = output.read();
            let read = read.map_err(|error| Failure::computing(backend.name(), error))?;
            let name = |metric: &str| match objectives {
                [_] => metric.to_owned(),
                _ => format!("{of}/{metric}"),
            };
            values.push((name("loss"), read.loss));
            let metrics = read.metrics.named().into_iter();
            let metrics = metrics.filter_map(|(metric, value)| Some((name(metric), value?)));
            values.extend(metrics);
            let new = warnings.observe(&known.observation(read.metrics)?);
            report = report.with_warnings(&format!("{of}, {step}"), &new);
        }
        if let Some(rollout) = known.rollout {
            let rollout = rollout.named().into_iter();
            values.extend(rollout.map(|(name, value)| (format!("rollout/{name}"), value)));
        }
        let values = values.iter().map(|(name, value)| (name.as_str(), *value));
        curves.push(step, values);
    }
    Ok(report.with_curves(curves))
}

/// One object a line.
fn of_lines(path: &Path) -> Result<Curves, Failure> {
    let bad = |what: String| Failure::BadInput(format!("--steps {}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        bad("is no text; accepted: JSON lines, or the directory of .safetensors files".into())
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let mut curves = Curves::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            // The line that the error names is that within this one.
            let (reason, column) = (error.to_string(), error.column());
            let reason = reason.split(" at line ").next().unwrap_or_default();
            let hint = match line.contains("NaN") || line.contains("Infinity") {
                true => "; JSON has no NaN and no Infinity: write null",
                false => "",
            };
            bad(format!(
                "line {number} is no JSON object: {reason}, at column {column}{hint}"
            ))
        })?;
        // Iterations are counted within an epoch.
        let known: &[&str] = match object.contains_key("step") {
            true => &["step"],
            false => &["epoch", "iteration"],
        };
        let step = known.iter().filter_map(|name| object.get(*name));
        let step = step.map(|step| match step {
            Value::String(step) => step.clone(),
            step => step.to_string(),
        });
        let mut step = step.collect::<Vec<_>>().join("/");
        if step.is_empty() {
            step = (curves.len() + 1).to_string();
        }
        let mut values = Vec::new();
        for (key, value) in &object {
            if !known.contains(&key.as_str()) {
                flatten(key.clone(), value, &mut values);
            }
        }
        let values = values.iter().map(|(name, value)| (name.as_str(), *value));
        curves.push(step, values);
    }
    match curves.is_empty() {
        true => Err(bad("holds no line".into())),
        false => Ok(curves),
    }
}

/// Every number in a value, by its path.
fn flatten(name: String, value: &Value, values: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => values.extend(number.as_f64().map(|number| (name, number))),
        Value::Object(object) => {
            for (key, value) in object {
                flatten(format!("{name}.{key}"), value, values);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
    }
}

/// What orders `step-9` before `step-10`: each number by its length and its digits, each other
/// character by itself.
fn natural(name: &str) -> Vec<(char, usize, String)> {
    let characters: Vec<char> = name.chars().collect();
    let parts = characters.chunk_by(|one, next| one.is_ascii_digit() && next.is_ascii_digit());
    let key = |part: &[char]| match part[0].is_ascii_digit() {
        true => {
            let digits: String = part.iter().skip_while(|digit| **digit == '0').collect();
            ('0', digits.len(), digits)
        }
        false => (part[0], 0, String::new()),
    };
    parts.map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_compared_as_numbers() {
        let mut names = ["s10", "s9", "s09b", "s.", "s", "t1", "s9a", "s100"];
        names.sort_by_cached_key(|name| natural(name));
        let expected = ["s", "s.", "s9", "s9a", "s09b", "s10", "s100", "t1"];
        assert_eq!(names, expected);
    }
}

//! `policy-loss report`: a batch, or a run, as one HTML page.

use std::fs;
use std::path::Path;

use policy_loss::{Implementation, PolicyLoss};
use policy_loss_report::{BatchPicture, Report, ReportError};

use crate::args::ReportArguments;
use crate::batch_file::{self, BatchFile};
use crate::beside::{self, Beside};
use crate::eval::explain;
use crate::objective::{Objective, short_names};
use crate::output::{Failure, note, refuse_overwriting};
use crate::requested::Requested;
use crate::steps;
use crate::tensors::HostBatch;
use crate::warned::Known;

/// Draws the page and writes it.
pub fn run(arguments: &ReportArguments) -> Result<(), Failure> {
    let inputs = [
        ("the batch", &arguments.batch),
        ("the --steps", &arguments.steps),
        ("the --tokenizer", &arguments.tokenizer),
    ];
    for (what, input) in inputs {
        if let Some(input) = input {
            refuse_overwriting("--out", &arguments.out, what, input)?;
        }
    }
    let mut requested = arguments.objectives.0.clone();
    for requested in &requested {
        if let Requested::Config(config) = requested {
            refuse_overwriting("--out", &arguments.out, "the --config", config)?;
        }
    }
    if requested.is_empty() {
        requested.push(Requested::Default);
    }
    let requested = requested.into_iter();
    let objectives = requested
        .map(|requested| Objective::read(requested, Implementation::Auto))
        .collect::<Result<Vec<_>, Failure>>()?;
    let source = arguments.batch.as_ref().or(arguments.steps.as_ref());
    let name = source.and_then(|source| source.file_stem());
    let name = name.unwrap_or_default().to_string_lossy();
    let mut report = Report::new(format!("{name}: policy-loss report"));
    if let Some(batch) = &arguments.batch {
        report = with_batch(
            report,
            arguments,
            batch,
            &batch_file::read(batch)?,
            &objectives,
        )?;
    }
    if let Some(path) = &arguments.steps {
        report = report.with_fact("steps", path.display().to_string());
        report = steps::with_curves(report, path, &objectives, arguments.device, &arguments.out)?;
    }
    let version = concat!("policy-loss ", env!("CARGO_PKG_VERSION"));
    let page = report.with_fact("made by", version).to_html();
    fs::write(&arguments.out, page)
        .map_err(|error| Failure::Other(format!("--out {}: {error}", arguments.out.display())))?;
    note(format!(
        "{} is written; open it in a browser",
        arguments.out.display()
    ));
    Ok(())
}

/// Adds what the bytes of the file at `path` hold.
pub fn with_batch(
    report: Report,
    arguments: &ReportArguments,
    path: &Path,
    bytes: &[u8],
    objectives: &[Objective],
) -> Result<Report, Failure> {
    let file = BatchFile::parse(path, bytes)?;
    let host = HostBatch::read(&file)?;
    let shape = host.shape();
    let beside = Beside::read(&file, shape);
    let texts = match &arguments.tokenizer {
        Some(tokenizer) => Some(texts(tokenizer, &file, shape)?),
        None => None,
    };
    let mut report = report
        .with_fact("batch", path.display().to_string())
        .with_fact(
            "size",
            format!(
                "{} sequences of up to {} tokens; {} valid tokens in {} sequences",
                shape[0],
                shape[1],
                host.tokens(),
                host.sequences()
            ),
        )
        .with_fact(
            "computed",
            format!(
                "on {}, in {}",
                arguments.device.name(),
                host.arithmetic().name()
            ),
        );
    let device = arguments.device.device()?;
    let batch = host.move_to(&file, &device)?;
    let names = short_names(objectives).into_iter();
    let losses = objectives.iter().map(|objective| objective.loss.clone());
    let named: Vec<(String, PolicyLoss)> = names.zip(losses).collect();
    let failed = |error| match error {
        ReportError::Batch { index, source, .. } => explain(*source, &file, &objectives[index]),
        ReportError::Device(_) => Failure::Other(error.to_string()),
        error => file.bad(error),
    };
    let mut picture = BatchPicture::new(&batch.batch, &batch.log_probs, &named).map_err(failed)?;
    if let Some(rewards) = &beside.rewards {
        picture = picture.with_rewards(rewards).map_err(failed)?;
    }
    if let Some(texts) = texts {
        picture = picture.with_text(&texts).map_err(failed)?;
    }
    let known = Known::of_rollout(&batch.batch, &beside, arguments.device)?;
    for ((name, _), (objective, metrics)) in
        named.iter().zip(objectives.iter().zip(picture.metrics()))
    {
        report = report.with_warnings(name, &known.warnings(objective, *metrics)?);
    }
    Ok(report.with_batch(picture))
}

/// The text of every token of the file.
fn texts(tokenizer: &Path, file: &BatchFile, shape: [usize; 2]) -> Result<Vec<String>, Failure> {
    let Some(tokens) = beside::token_ids(file, shape) else {
        return Err(file.missing("tokens", ", but --tokenizer needs it"));
    };
    decode(tokenizer, &tokens)
}

#[cfg(feature = "tokenizer")]
fn decode(path: &Path, tokens: &[i128]) -> Result<Vec<String>, Failure> {
    use std::collections::HashMap;

    let bad = |error: tokenizers::Error| {
        Failure::BadInput(format!("--tokenizer {}: {error}", path.display()))
    };
    let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(bad)?;
    let mut known: HashMap<i128, String> = HashMap::new();
    let mut texts = Vec::with_capacity(tokens.len());
    for token in tokens {
        if !known.contains_key(token) {
            let text = match u32::try_from(*token) {
                Ok(id) if tokenizer.id_to_token(id).is_some() => {
                    tokenizer.decode(&[id], false).map_err(bad)?
                }
                _ => format!("[{token}]"),
            };
            known.insert(*token, text);
        }
        texts.push(known[token].clone());
    }
    Ok(texts)
}

#[cfg(not(feature = "tokenizer"))]
fn decode(_path: &Path, _tokens: &[i128]) -> Result<Vec<String>, Failure> {
    Err(Failure::Usage(
        "--tokenizer needs a program with the feature `tokenizer`; build it with \
         `cargo install --path crates/policy-loss-cli --features tokenizer`"
            .into(),
    ))
}

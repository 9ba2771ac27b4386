//! `policy-loss eval`: the visible steps from a file to a report.

use std::fs;

use burn::tensor::TensorReadError;
use policy_loss::{BatchError, Denominator, GlobalTotals};

use crate::args::{EvalArguments, TotalsArguments};
use crate::batch_file::{self, BatchFile};
use crate::beside::Beside;
use crate::gradient;
use crate::objective::Objective;
use crate::output::{self, Failure, refuse_overwriting};
use crate::report::Report;
use crate::requested::Requested;
use crate::tensors::{DeviceBatch, HostBatch};
use crate::warned::Known;

/// Evaluates a batch and prints the report.
pub fn run(arguments: &EvalArguments) -> Result<(), Failure> {
    let objective = Objective::read(arguments.objective.requested(), arguments.implementation)?;
    if let Some(grad_out) = &arguments.grad_out {
        refuse_overwriting("--grad-out", grad_out, "the batch", &arguments.batch)?;
        if let Some(config) = &arguments.objective.config {
            refuse_overwriting("--grad-out", grad_out, "the --config", config)?;
        }
    }
    let bytes = batch_file::read(&arguments.batch)?;
    let (report, gradient) = evaluate(arguments, &objective, &bytes)?;
    if let (Some(grad_out), Some(gradient)) = (&arguments.grad_out, gradient) {
        fs::write(grad_out, gradient).map_err(|error| gradient::failed(grad_out, &error))?;
    }
    report.warnings.iter().for_each(output::warning);
    output::result(arguments.json, &report, Report::table)?;
    output::pictures(arguments.json);
    Ok(())
}

/// What there is to report of the bytes of a batch, and the bytes of the gradient's file where it is
/// asked for.
pub fn evaluate<'run>(
    arguments: &'run EvalArguments,
    objective: &'run Objective,
    bytes: &[u8],
) -> Result<(Report<'run>, Option<Vec<u8>>), Failure> {
    let file = BatchFile::parse(&arguments.batch, bytes)?;
    let host = HostBatch::read(&file)?;
    let (shape, dtype, arithmetic) = (host.shape(), host.dtype(), host.arithmetic());
    let (tokens, sequences) = (host.tokens(), host.sequences());
    let beside = Beside::read(&file, host.shape());

    let device = arguments.device.device()?;
    let DeviceBatch {
        mut batch,
        log_probs,
    } = host.move_to(&file, &device)?;
    let totals = totals(&arguments.totals);
    if let Some(totals) = totals {
        note_ignored(&totals, objective);
        batch = batch.with_totals(totals);
    }
    if let Some(threshold) = arguments.totals.entropy_threshold {
        if objective.loss.config().objective.entropy_mask.is_none() {
            output::note("--entropy-threshold has no effect: the objective has no entropy mask");
        }
        batch = batch.with_entropy_threshold(threshold);
    }
    if let Some(limit) = arguments.totals.second_moment_limit {
        let surrogate = objective.loss.config().objective.surrogate;
        if !surrogate.reads_second_moment() {
            output::note(
                "--second-moment-limit has no effect: the surrogate is of no second moment",
            );
        }
        batch = batch.with_second_moment_limit(limit);
    }
    let output = objective
        .loss
        .forward(batch.clone())
        .map_err(|error| explain(error, &file, objective))?;
    let failed = |error: TensorReadError| Failure::computing(arguments.device.name(), error);
    let (values, inspection) = match arguments.inspect {
        true => {
            let inspection = objective.loss.inspect(batch.clone());
            let inspection = inspection.map_err(|error| explain(error, &file, objective))?;
            let (values, inspection) = output.read_with(&inspection).map_err(failed)?;
            (values, Some(inspection))
        }
        false => (output.read().map_err(failed)?, None),
    };
    let gradient = match &arguments.grad_out {
        Some(path) => Some(
            gradient::file(&output, &log_probs, dtype, objective)
                .map_err(|what| gradient::failed(path, &what))?,
        ),
        None => None,
    };
    let known = Known {
        totals,
        ..Known::of_rollout(&batch, &beside, arguments.device)?
    };
    let report = Report {
        values,
        rollout: known.rollout,
        inspection,
        tokens,
        sequences,
        shape,
        arithmetic,
        batch: &arguments.batch,
        device: arguments.device.name(),
        implementation: output.implementation,
        warnings: known.warnings(objective, values.metrics)?,
        objective,
    };
    Ok((report, gradient))
}

fn totals(arguments: &TotalsArguments) -> Option<GlobalTotals> {
    let totals = GlobalTotals {
        tokens: arguments.global_tokens,
        sequences: arguments.global_sequences,
        prompts: arguments.global_prompts,
        world_size: arguments.world_size,
    };
    (totals != GlobalTotals::default()).then_some(totals)
}

fn note_ignored(totals: &GlobalTotals, objective: &Objective) {
    let reduction = objective.loss.config().objective.reduction;
    for field in totals.without_effect(reduction) {
        let divides_by = match reduction.denominator() {
            Denominator::Tokens => "the objective divides by tokens",
            Denominator::Sequences => "the objective divides by sequences",
            Denominator::Prompts => "the objective divides by prompts",
            Denominator::One => "the objective takes a sum",
        };
        let flag = flag(field);
        output::note(format!("{flag} has no effect: {divides_by}"));
    }
}

/// The argument that gives a total.
fn flag(field: &'static str) -> &'static str {
    match field {
        "totals.tokens" => "--global-tokens",
        "totals.sequences" => "--global-sequences",
        "totals.prompts" => "--global-prompts",
        "totals.world_size" => "--world-size",
        "entropy_threshold" => "--entropy-threshold",
        "second_moment_limit" => "--second-moment-limit",
        other => other,
    }
}

/// Says a library's error in the terms of the command line.
pub fn explain(error: BatchError, file: &BatchFile, objective: &Objective) -> Failure {
    match error {
        BatchError::Totals {
            field,
            value,
            accepted,
            reduction,
        } => Failure::BadInput(format!(
            "{} is {value}, with the reduction `{reduction}`; accepted: {accepted}",
            flag(field)
        )),
        BatchError::Missing {
            tensor: tensor @ ("entropy_threshold" | "second_moment_limit" | "totals.prompts"),
            needed_by,
            ..
        } => {
            // Said of other commands, too, which do not take it.
            let flag = flag(tensor);
            objective.requested.bad(format!(
                "{flag} is missing, but {needed_by} needs it; it is an argument of `policy-loss eval`"
            ))
        }
        BatchError::OutOfRange {
            field: field @ ("entropy_threshold" | "second_moment_limit"),
            value,
            accepted,
        } => Failure::BadInput(format!("{} is {value}; accepted: {accepted}", flag(field))),
        BatchError::Missing {
            tensor, needed_by, ..
        } => {
            let needed_by = match objective.requested {
                Requested::OpenRlhf(_) => "`enable_vllm_is_correction`",
                Requested::Config(_) | Requested::Preset(_) | Requested::Default => needed_by,
            };
            let missing = file.missing(tensor, &format!(", but {needed_by} needs it"));
            objective.requested.bad(missing)
        }
        error @ (BatchError::NotFused { .. } | BatchError::PartNotFused { .. }) => {
            objective.requested.bad(error)
        }
        error => file.bad(error),
    }
}

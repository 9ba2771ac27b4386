//! `policy-loss eval`: the visible steps from a file to a report.

use burn::tensor::TensorReadError;
use policy_loss::{BatchError, GlobalTotals};

use crate::args::{EvalArguments, TotalsArguments};
use crate::batch_file::{self, BatchFile};
use crate::failure::Failure;
use crate::objective::{Objective, Origin};
use crate::report::Report;
use crate::tensors::{DeviceBatch, HostBatch};
use crate::{gradient, output};

/// Evaluates a batch and prints the report.
pub fn run(arguments: &EvalArguments) -> Result<(), Failure> {
    let objective = Objective::read(&arguments.objective)?;
    if let Some(grad_out) = &arguments.grad_out {
        gradient::refuse_overwriting(&arguments.batch, grad_out)?;
    }
    let bytes = batch_file::read(&arguments.batch)?;
    let file = BatchFile::parse(&arguments.batch, &bytes)?;
    let host = HostBatch::read(&file)?;
    let (shape, dtype, arithmetic) = (host.shape(), host.dtype(), host.arithmetic());
    let (tokens, sequences) = (host.tokens(), host.sequences());

    let device = arguments
        .device
        .device()
        .map_err(|unavailable| Failure::DeviceUnavailable(unavailable.to_string()))?;
    let DeviceBatch {
        mut batch,
        log_probs,
    } = host.move_to(&file, &device)?;
    if let Some(totals) = totals(&arguments.totals) {
        batch = batch.with_totals(totals);
    }
    // Without rollout log-probs there are none; whatever else is wrong, the loss will say.
    let diagnostics = batch.rollout_diagnostics().ok();
    let output = objective
        .loss
        .forward(batch)
        .map_err(|error| explain(error, &file, &objective))?;
    let failed = |error: TensorReadError| {
        let backend = arguments.device.name();
        Failure::Other(format!("{backend} failed while it computed: {error}"))
    };
    let values = output.read().map_err(failed)?;
    let rollout = diagnostics.map(|diagnostics| diagnostics.read());
    let rollout = rollout.transpose().map_err(failed)?;
    if let Some(grad_out) = &arguments.grad_out {
        gradient::write(grad_out, &output, &log_probs, dtype, &objective)?;
    }
    if values.metrics.non_finite > 0.0 {
        output::note(format!(
            "{} valid tokens hold a NaN or an infinite value",
            values.metrics.non_finite
        ));
    }
    let report = Report {
        values,
        rollout,
        tokens,
        sequences,
        shape,
        arithmetic,
        batch: &arguments.batch,
        device: arguments.device.name(),
        implementation: output.implementation,
        objective: &objective,
    };
    match arguments.json {
        true => output::json(&report),
        false => output::result(&report.table()),
    }
}

fn totals(arguments: &TotalsArguments) -> Option<GlobalTotals> {
    let totals = GlobalTotals {
        tokens: arguments.global_tokens,
        sequences: arguments.global_sequences,
        world_size: arguments.world_size,
    };
    (totals != GlobalTotals::default()).then_some(totals)
}

/// Says a library's error in the terms of the command line.
pub fn explain(error: BatchError, file: &BatchFile, objective: &Objective) -> Failure {
    match error {
        BatchError::Totals {
            field,
            value,
            accepted,
        } => {
            let (flag, reduction) = match field {
                "totals.tokens" => ("--global-tokens", " (the objective takes a token mean)"),
                "totals.sequences" => (
                    "--global-sequences",
                    " (the objective divides by sequences)",
                ),
                "totals.world_size" => ("--world-size", ""),
                other => (other, ""),
            };
            Failure::BadInput(format!(
                "{flag} is {value}{reduction}; accepted: {accepted}"
            ))
        }
        BatchError::Missing {
            tensor, needed_by, ..
        } => {
            let needed_by = match objective.origin {
                Origin::OpenRlhf => "`enable_vllm_is_correction`",
                _ => needed_by,
            };
            file.missing(tensor, &format!(", but {needed_by} needs it"))
        }
        error @ (BatchError::NotFused { .. } | BatchError::PartNotFused { .. }) => {
            objective.origin.bad(error)
        }
        error => file.bad(error),
    }
}

//! `policy-loss devices`: what this machine has, and what to do where something is missing.

use burn::tensor::DType;
use clap::ValueEnum;
use policy_loss::device::DeviceReport;
use serde::Serialize;

use crate::args::ListArguments;
use crate::backends::Backend;
use crate::failure::Failure;
use crate::output;
use crate::report::{flush_left, plain};

#[derive(Serialize)]
struct Devices {
    backends: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    backend: &'static str,
    compiled_in: bool,
    /// The preferred one first.
    devices: Vec<Found>,
    /// Why there is none, and what to do about it; null where there is one.
    missing: Option<String>,
    remedy: Option<String>,
}

#[derive(Serialize)]
struct Found {
    name: String,
    hardware: String,
    dtypes: Vec<&'static str>,
}

/// Lists every backend.
pub fn run(arguments: &ListArguments) -> Result<(), Failure> {
    let backends = Backend::value_variants()
        .iter()
        .map(|backend| look(*backend));
    let devices = Devices {
        backends: backends.collect(),
    };
    match arguments.json {
        true => output::json(&devices),
        false => output::result(&table(&devices)),
    }
}

fn look(backend: Backend) -> Entry {
    let (devices, unavailable) = match backend.devices() {
        Ok(devices) => (devices, None),
        Err(unavailable) => (Vec::new(), Some(unavailable)),
    };
    Entry {
        backend: backend.name(),
        compiled_in: backend.is_compiled_in(),
        devices: devices.into_iter().map(Found::from).collect(),
        missing: unavailable.as_ref().map(|found| found.missing.clone()),
        remedy: unavailable.map(|found| found.remedy),
    }
}

impl From<DeviceReport> for Found {
    fn from(report: DeviceReport) -> Self {
        Self {
            name: report.name,
            hardware: report.hardware.to_string(),
            dtypes: report.dtypes.iter().map(DType::name).collect(),
        }
    }
}

fn table(devices: &Devices) -> String {
    let mut table = plain();
    table.set_header(["backend", "hardware", "device", "types"]);
    for entry in &devices.backends {
        for found in &entry.devices {
            table.add_row([
                entry.backend,
                &found.hardware,
                &found.name,
                &found.dtypes.join(", "),
            ]);
        }
        if entry.devices.is_empty() {
            table.add_row([entry.backend, "unavailable", "-", "-"]);
        }
    }
    let mut text = flush_left(table);
    for entry in &devices.backends {
        if let (Some(missing), Some(remedy)) = (&entry.missing, &entry.remedy) {
            text.push_str(&format!("\n\n{}: {missing};\n  {remedy}", entry.backend));
        }
    }
    text
}

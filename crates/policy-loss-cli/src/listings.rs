//! `policy-loss devices` and `policy-loss presets`: the names that the other commands take.

use burn::tensor::DType;
use clap::ValueEnum;
use policy_loss::device::DeviceReport;
use policy_loss::{PolicyLossConfig, Preset};
use serde::Serialize;

use crate::args::ListArguments;
use crate::backends::Backend;
use crate::objective::as_json;
use crate::output::{self, Failure};
use crate::report::{flush_left, plain};

#[derive(Serialize)]
struct Devices {
    backends: Vec<BackendEntry>,
}

#[derive(Serialize)]
struct BackendEntry {
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

/// Lists what this machine has, and what to do where something is missing.
pub fn devices(arguments: &ListArguments) -> Result<(), Failure> {
    let backends = Backend::value_variants().iter().copied();
    let devices = Devices {
        backends: backends.map(look).collect(),
    };
    output::result(arguments.json, &devices, Devices::table)
}

fn look(backend: Backend) -> BackendEntry {
    let (devices, unavailable) = match backend.devices() {
        Ok(devices) => (devices, None),
        Err(unavailable) => (Vec::new(), Some(unavailable)),
    };
    BackendEntry {
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

impl Devices {
    fn table(&self) -> String {
        let mut table = plain();
        table.set_header(["backend", "hardware", "device", "types"]);
        for entry in &self.backends {
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
        for entry in &self.backends {
            if let (Some(missing), Some(remedy)) = (&entry.missing, &entry.remedy) {
                text.push_str(&format!("\n\n{}: {missing};\n  {remedy}", entry.backend));
            }
        }
        text
    }
}

#[derive(Serialize)]
struct Presets {
    presets: Vec<PresetEntry>,
}

#[derive(Serialize)]
struct PresetEntry {
    name: &'static str,
    /// The token loss and its reduction.
    formula: &'static str,
    /// The paper, or the framework.
    source: &'static str,
    /// What `--config` takes.
    config: PolicyLossConfig,
}

/// Lists the named objectives, as they would be written in a configuration file.
pub fn presets(arguments: &ListArguments) -> Result<(), Failure> {
    let entry = |preset: Preset| PresetEntry {
        name: preset.name(),
        formula: preset.summary(),
        source: preset.source(),
        config: preset.config(),
    };
    let presets = Presets {
        presets: Preset::ALL.into_iter().map(entry).collect(),
    };
    output::result(arguments.json, &presets, Presets::table)
}

impl Presets {
    fn table(&self) -> String {
        let mut table = plain();
        for entry in &self.presets {
            table.add_row([entry.name, &format!("{} ({})", entry.formula, entry.source)]);
            table.add_row(["", &as_json(&entry.config)]);
        }
        flush_left(table)
    }
}

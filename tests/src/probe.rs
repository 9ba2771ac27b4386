//! Which backends this machine has, and what happens where one is missing.

use burn::tensor::{DType, Device};
use policy_loss::device::{BackendUnavailable, DeviceReport, Hardware};

/// Names of backends, separated by commas, or `all`: their absence is a failure.
pub const REQUIRE: &str = "POLICY_LOSS_REQUIRE_BACKENDS";

/// A backend as its adapter found it.
#[derive(Debug, Clone)]
pub struct Probe {
    /// `flex`, `ndarray`, `wgpu`, ...
    pub backend: &'static str,
    /// The default device, without autodiff.
    pub device: Result<Device, BackendUnavailable>,
    /// What the adapter says about the devices it found, the default one first.
    pub reports: Vec<DeviceReport>,
}

impl Probe {
    /// Asks an adapter.
    pub fn of(
        backend: &'static str,
        device: fn() -> Result<Device, BackendUnavailable>,
        devices: fn() -> Vec<DeviceReport>,
    ) -> Self {
        Self {
            backend,
            device: device(),
            reports: devices(),
        }
    }

    /// The hardware behind the default device.
    pub fn hardware(&self) -> Hardware {
        match self.reports.first() {
            Some(report) => report.hardware,
            None => Hardware::Cpu,
        }
    }

    /// The float types that the loss computes there.
    pub fn dtypes(&self) -> Vec<DType> {
        match &self.device {
            Ok(device) => policy_loss::device::dtypes(device),
            Err(_) => Vec::new(),
        }
    }

    /// The device, or `None` where the backend may be absent; the reason is printed.
    ///
    /// # Panics
    ///
    /// The backend is absent, and the environment requires it.
    pub fn device_or_skip(&self) -> Option<Device> {
        match &self.device {
            Ok(device) => Some(device.clone()),
            Err(unavailable) if self.is_required() => {
                panic!("{REQUIRE} requires {}: {unavailable}", self.backend)
            }
            Err(unavailable) => {
                eprintln!("skipped: {unavailable}");
                None
            }
        }
    }

    /// Whether the environment requires this backend.
    pub fn is_required(&self) -> bool {
        let required = std::env::var(REQUIRE).unwrap_or_default();
        required
            .split(',')
            .map(str::trim)
            .any(|name| name == "all" || name == self.backend)
    }
}

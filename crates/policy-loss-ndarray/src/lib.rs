//! [`policy_loss`] on Burn's NdArray backend: the CPU, in f64 and f32.
//!
//! Burn deprecates this backend in favour of Flex; it is here for those who still train on it, and
//! as a second opinion in the tests. f16 and bf16 panic inside the backend, so the loss refuses
//! them before they get there.
//!
//! ```
//! let device = policy_loss_ndarray::device()?;
//! assert_eq!(policy_loss_ndarray::devices()[0].dtypes.len(), 2);
//! # Ok::<(), policy_loss::device::BackendUnavailable>(())
//! ```

use burn::tensor::Device;
use policy_loss::device::{BackendUnavailable, DeviceReport, Hardware, dtypes};

/// The name of the backend.
pub const BACKEND: &str = "ndarray";

/// The devices of this backend: always one.
pub fn devices() -> Vec<DeviceReport> {
    let device = cpu();
    vec![DeviceReport {
        backend: BACKEND,
        name: "CPU".into(),
        hardware: Hardware::Cpu,
        dtypes: dtypes(&device),
        device,
    }]
}

/// The device of this backend, without autodiff.
///
/// # Errors
///
/// None: every machine has this device. The signature is that of all adapters.
pub fn device() -> Result<Device, BackendUnavailable> {
    Ok(cpu())
}

fn cpu() -> Device {
    // Burn marks the whole backend as deprecated; this crate is the one place that names it.
    #[allow(deprecated)]
    Device::ndarray()
}

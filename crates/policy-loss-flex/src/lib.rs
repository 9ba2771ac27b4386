//! [`policy_loss`] on Burn's Flex backend: pure Rust on the CPU, in f64, f32, f16 and bf16.
//!
//! Flex is the successor of Burn's NdArray backend and the embedded default: it needs no system
//! package, and every machine has it.
//!
//! ```
//! let device = policy_loss_flex::device()?;
//! assert_eq!(policy_loss_flex::devices()[0].dtypes.len(), 4);
//! # Ok::<(), policy_loss::device::BackendUnavailable>(())
//! ```

use burn::tensor::Device;
use policy_loss::device::{BackendUnavailable, DeviceReport, Hardware, dtypes};

/// The name of the backend.
pub const BACKEND: &str = "flex";

/// The devices of this backend: always one.
pub fn devices() -> Vec<DeviceReport> {
    let device = Device::flex();
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
    Ok(Device::flex())
}

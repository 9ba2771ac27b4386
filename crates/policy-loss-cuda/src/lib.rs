//! [`policy_loss`] on Burn's CUDA backend, for NVIDIA GPUs.
//!
//! Building it needs the CUDA code generator of CubeCL, whose build script downloads an LLVM; where
//! that is impossible, `DOCS_RS=1 cargo check -p policy-loss-cuda` still type-checks it. Running it
//! needs an NVIDIA driver and the CUDA toolkit; their absence is an error that says so.
//!
//! ```no_run
//! match policy_loss_cuda::device() {
//!     Ok(device) => println!("training on {device:?}"),
//!     Err(unavailable) => println!("{unavailable}"),
//! }
//! ```
//!
//! The feature `autotune` (default) lets Burn choose among its kernels by measuring them, at the
//! first product of each shape: seconds to a minute, once, since the choices are kept in
//! `target/environment` (or where a `cubecl.toml` says: `[environment]`, `path = "global"`). Without it
//! Burn multiplies with one kernel everywhere, two to four times slower.
//!
//! The feature `fusion` (default) lets Burn fuse its own tensor operations.

use std::panic::catch_unwind;

use burn::tensor::{Device, DeviceType};
use policy_loss::device::{BackendUnavailable, DeviceReport, Hardware, dtypes};

/// The name of the backend.
pub const BACKEND: &str = "cuda";

/// Every NVIDIA GPU that CUDA can reach. Empty where there is none.
pub fn devices() -> Vec<DeviceReport> {
    // Without a driver the CUDA bindings panic when they load the library.
    let Ok(found) = catch_unwind(|| Device::enumerate(DeviceType::Cuda)) else {
        return Vec::new();
    };
    found
        .into_iter()
        .filter_map(|device| catch_unwind(|| report(device)).ok())
        .collect()
}

/// The first NVIDIA GPU, without autodiff.
///
/// # Errors
///
/// No GPU was found; the error says what to install.
pub fn device() -> Result<Device, BackendUnavailable> {
    let first = devices().into_iter().next();
    first
        .map(|found| found.device)
        .ok_or_else(|| BackendUnavailable {
            backend: BACKEND,
            missing: "no NVIDIA GPU was found through CUDA".into(),
            remedy: "install the NVIDIA driver and the CUDA toolkit, and check that `nvidia-smi` \
                 lists a GPU"
                .into(),
        })
}

fn report(device: Device) -> DeviceReport {
    let name = match device.identity() {
        Some(identity) => identity.name,
        None => format!("{device:?}"),
    };
    DeviceReport {
        backend: BACKEND,
        name,
        hardware: Hardware::Gpu,
        dtypes: dtypes(&device),
        device,
    }
}

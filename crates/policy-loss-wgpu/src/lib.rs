//! [`policy_loss`] on Burn's wgpu backend: Vulkan, Metal, DX12 and WebGPU, in f32, and in f16
//! where the adapter computes it.
//!
//! A wgpu device is lazy: without an adapter its first use panics in a worker thread. Here the
//! adapter is looked for first, and its absence is an error that says what to install. f64 and
//! bf16 are refused by the loss on this backend: the driver claims f64 and returns garbage, and
//! bf16 operations return stale data.
//!
//! ```no_run
//! match policy_loss_wgpu::device() {
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
//! The feature `fusion` (default) lets Burn fuse its own tensor operations. The features `vulkan`
//! (SPIR-V), `metal` and `webgpu` pin a graphics interface; the SPIR-V compiler crashes inside
//! some software renderers, so none is on by default.

use std::panic::catch_unwind;

use burn::tensor::{Device, DeviceKind, DeviceType};
use policy_loss::device::{BackendUnavailable, DeviceReport, Hardware, dtypes};

/// The name of the backend.
pub const BACKEND: &str = "wgpu";

/// Every adapter of this machine, the one that [`device`] takes first. Empty where there is none.
pub fn devices() -> Vec<DeviceReport> {
    // Drivers are foreign code: one that fails to start must not take the program down.
    let Ok(found) = catch_unwind(|| Device::enumerate(DeviceType::Wgpu)) else {
        return Vec::new();
    };
    let mut adapters: Vec<_> = found
        .into_iter()
        .filter_map(|device| catch_unwind(|| report(device)).ok().flatten())
        .collect();
    if adapters.len() > 1 {
        let taken = catch_unwind(|| Device::wgpu(DeviceKind::DefaultDevice).identity());
        let taken = taken.ok().flatten();
        // The others keep their order.
        adapters.sort_by_cached_key(|adapter| {
            taken.is_none() || catch_unwind(|| adapter.device.identity()).ok().flatten() != taken
        });
    }
    adapters
}

/// The default adapter, without autodiff: the fastest GPU, or a software renderer where that is
/// all there is. [`devices`] lists it first. The variable `CUBECL_WGPU_DEFAULT_DEVICE` of the
/// environment names another one, such as `IntegratedGpu(0)` or `Cpu`.
///
/// # Errors
///
/// No adapter was found; the error says what to install.
pub fn device() -> Result<Device, BackendUnavailable> {
    match devices().is_empty() {
        false => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
        true => Err(BackendUnavailable {
            backend: BACKEND,
            missing: "no Vulkan, Metal, DX12 or OpenGL adapter was found".into(),
            remedy: "install the driver of your graphics card, or a software Vulkan (Debian and \
                     Ubuntu: apt install mesa-vulkan-drivers)"
                .into(),
        }),
    }
}

fn report(device: Device) -> Option<DeviceReport> {
    let identity = device.identity()?;
    let hardware = match identity.physical {
        Some(_) => Hardware::Gpu,
        None => Hardware::SoftwareRenderer,
    };
    Some(DeviceReport {
        backend: BACKEND,
        name: identity.name,
        hardware,
        dtypes: dtypes(&device),
        device,
    })
}

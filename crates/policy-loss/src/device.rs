//! What a device really computes, as opposed to what its driver claims.

#[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu"))]
use burn::backend::DispatchDevice;
use burn::tensor::kind::Basic;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::BatchError;

/// The float types, widest first.
const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// The hardware behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hardware {
    /// The processor of this machine.
    Cpu,
    /// A graphics card.
    Gpu,
    /// A graphics interface that computes on the processor, such as llvmpipe: right, and slow.
    SoftwareRenderer,
}

impl std::fmt::Display for Hardware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU",
            Self::Gpu => "GPU",
            Self::SoftwareRenderer => "software renderer",
        })
    }
}

/// A device that an adapter crate found, and what it can do.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceReport {
    /// The backend: `flex`, `ndarray`, `wgpu` or `cuda`.
    pub backend: &'static str,
    /// The device's own name for itself.
    pub name: String,
    /// The hardware behind it.
    pub hardware: Hardware,
    /// The float types that the policy loss computes there.
    pub dtypes: Vec<DType>,
    /// The device, without autodiff.
    pub device: Device,
}

/// A backend that cannot be used on this machine: what is missing, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{backend} is unavailable: {missing}; {remedy}")]
pub struct BackendUnavailable {
    /// The backend: `flex`, `ndarray`, `wgpu` or `cuda`.
    pub backend: &'static str,
    /// What is missing.
    pub missing: String,
    /// How to get it.
    pub remedy: String,
}

/// Whether a device is this machine's processor, whose memory is at hand.
pub(crate) fn is_host(device: &Device) -> bool {
    let name = describe(device);
    // Which backends Burn was built with is not known here, so that they are told by their names.
    name.starts_with("Flex") || name.starts_with("NdArray")
}

/// The float types that the policy loss computes on `device`.
///
/// This is narrower than `Device::supports_dtype`: a wgpu device claims f64 and then returns
/// garbage from `exp`, and operations on an unsupported type can return stale data while a worker
/// thread panics.
pub fn dtypes(device: &Device) -> Vec<DType> {
    FLOATS
        .into_iter()
        .filter(|dtype| computes(device, *dtype))
        .collect()
}

/// Whether the policy loss computes inputs of type `dtype` on `device`.
///
/// The device is asked; it must have been found by its adapter crate, or be known to exist.
pub fn computes(device: &Device, dtype: DType) -> bool {
    let device = device.clone().without_autodiff();
    match device.as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => FLOATS.contains(&dtype),
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => matches!(dtype, DType::F64 | DType::F32),
        // `supports_dtype` is no answer for f64: it says yes, and `exp` returns garbage.
        #[cfg(feature = "wgpu")]
        DispatchDevice::Cube(burn::backend::CubeDevice::Wgpu(_)) => match dtype {
            DType::F32 => true,
            DType::F16 => device.supports_dtype(dtype),
            _ => false,
        },
        _ => FLOATS.contains(&dtype) && device.supports_dtype(dtype),
    }
}

/// The numbers of a tensor, for a check.
pub(crate) fn read_back<const D: usize, K: Basic>(
    tensor: &'static str,
    x: Tensor<D, K>,
) -> Result<TensorData, BatchError> {
    let device = x.device();
    x.try_into_data().map_err(|error| BatchError::Read {
        tensor,
        device: describe(&device),
        message: error.to_string(),
    })
}

/// A short name for messages.
pub(crate) fn describe(device: &Device) -> String {
    let debug = format!("{:?}", device.clone().without_autodiff());
    debug
        .strip_prefix("Device<")
        .and_then(|rest| rest.strip_suffix('>'))
        .unwrap_or(&debug)
        .to_owned()
}

/// The names of float types, for messages.
pub(crate) fn names(dtypes: &[DType]) -> String {
    let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
    names.join(", ")
}

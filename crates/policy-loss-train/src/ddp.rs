//! Burn's strategy with collective operations, on devices that have them.

use burn::tensor::Device;
use burn::tensor::distributed::DistributedConfig;
use burn_train::ExecutionStrategy;

/// Why devices cannot train with [`ddp`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DdpError {
    /// There is nothing to train on.
    #[error("`devices` is empty; accepted: one CUDA device or more")]
    NoDevice,
    /// Burn would panic, or wait forever.
    #[error(
        "`devices[{index}]` is {device}, for which Burn has no collective operations; accepted: CUDA \
         devices, with the feature `cuda` of policy-loss-train; OnPolicyStrategy::with_devices and \
         ExecutionStrategy::multi take any"
    )]
    NoCollective {
        /// Its place among the devices.
        index: usize,
        /// The device's name for itself.
        device: String,
    },
    /// NCCL takes part once on each device.
    #[error("`devices[{index}]` is {device} again; accepted: each device once")]
    Repeated {
        /// Its second place among the devices.
        index: usize,
        /// The device's name for itself.
        device: String,
    },
}

/// Burn's [`ExecutionStrategy::ddp`], where it works: each device has a copy of the model in a thread of
/// its own, and NCCL adds up the gradients, or averages them.
///
/// Each device's share of a step carries the [`GlobalTotals`](policy_loss::GlobalTotals) of the whole: with
/// [`ReduceOperation::Sum`](burn::tensor::distributed::ReduceOperation::Sum) without a world size, with
/// [`Mean`](burn::tensor::distributed::ReduceOperation::Mean) with the number of devices as
/// [`with_world_size`](policy_loss::GlobalTotals::with_world_size). All devices wait for each other, so
/// that the loader has to hold the same number of batches for each.
///
/// It needs CUDA and the library NCCL where it runs, and the feature `cuda`. A remote device is refused:
/// which device a server has is not known here.
///
/// # Errors
///
/// There is no device, one without collective operations, or one twice. Burn panics there, or waits
/// forever.
///
/// ```
/// use burn::tensor::Device;
/// use burn::tensor::distributed::{DistributedConfig, ReduceOperation};
///
/// let config = DistributedConfig { all_reduce_op: ReduceOperation::Sum };
/// let refused = policy_loss_train::ddp(&[Device::flex()], config).err().unwrap();
/// assert!(refused.to_string().starts_with("`devices[0]` is Device<Flex"));
/// ```
pub fn ddp(devices: &[Device], config: DistributedConfig) -> Result<ExecutionStrategy, DdpError> {
    if devices.is_empty() {
        return Err(DdpError::NoDevice);
    }
    for (index, device) in devices.iter().enumerate() {
        let inner = device.clone().without_autodiff();
        let name = || format!("{inner:?}");
        if !has_collectives(&inner) {
            let device = name();
            return Err(DdpError::NoCollective { index, device });
        }
        // Devices are compared by their hardware.
        if devices[..index].contains(device) {
            let device = name();
            return Err(DdpError::Repeated { index, device });
        }
    }
    Ok(ExecutionStrategy::ddp(devices.to_vec(), config))
}

#[cfg(feature = "cuda")]
fn has_collectives(device: &Device) -> bool {
    use burn::backend::{CubeDevice, DispatchDevice};

    matches!(
        device.as_dispatch(),
        DispatchDevice::Cube(CubeDevice::Cuda(_))
    )
}

/// A build without CUDA has no such device.
#[cfg(not(feature = "cuda"))]
fn has_collectives(_: &Device) -> bool {
    false
}

//! A build without a backend that has kernels: nothing is fused.

use burn::tensor::Device;

use crate::checked::CheckedBatch;
use crate::output::PolicyLossOutput;
use crate::{PolicyLossConfig, composed};

/// What the fused kernels of a device cover.
#[allow(dead_code)]
pub(crate) enum Support {
    /// The whole objective.
    Full,
    /// There are kernels, but none for this part of the configuration.
    AllBut(&'static str),
    /// There are no kernels.
    NoKernels,
}

/// No device's backend has fused kernels.
pub(crate) fn support(_config: &PolicyLossConfig, _device: &Device) -> Support {
    Support::NoKernels
}

/// Never chosen, since nothing is available; the results would be the same.
pub(crate) fn forward(config: &PolicyLossConfig, batch: CheckedBatch) -> PolicyLossOutput {
    composed::forward(config, batch)
}

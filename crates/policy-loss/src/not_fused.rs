//! A build without a backend that has kernels: nothing is fused.

use burn::tensor::Device;

use crate::batch::CheckedBatch;
use crate::output::PolicyLossOutput;
use crate::{PolicyLossConfig, composed};

/// No device's backend has fused kernels.
pub(crate) fn available(_device: &Device) -> bool {
    false
}

/// Never chosen, since nothing is available; the results would be the same.
pub(crate) fn forward(config: &PolicyLossConfig, batch: CheckedBatch) -> PolicyLossOutput {
    composed::forward(config, batch)
}

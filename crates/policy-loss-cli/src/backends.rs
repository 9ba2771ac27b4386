//! The backends by name, whether or not this build of the program holds them.

use burn::tensor::Device;
use clap::ValueEnum;
use policy_loss::device::{BackendUnavailable, DeviceReport};

/// A backend of Burn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The CPU, in f64, f32, f16 and bf16
    #[default]
    Flex,
    /// The CPU, in f64 and f32
    Ndarray,
    /// A GPU through Vulkan, Metal or DX12, in f32 and mostly f16
    Wgpu,
    /// An NVIDIA GPU
    Cuda,
}

impl Backend {
    /// The name, which is also that of the feature that adds the backend.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// Whether this build of the program holds the backend.
    pub fn is_compiled_in(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::Ndarray => cfg!(feature = "ndarray"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }

    /// The preferred device, without autodiff.
    pub fn device(self) -> Result<Device, BackendUnavailable> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => policy_loss_flex::device(),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => policy_loss_ndarray::device(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => policy_loss_wgpu::device(),
            #[cfg(feature = "cuda")]
            Self::Cuda => policy_loss_cuda::device(),
            #[allow(
                unreachable_patterns,
                reason = "reachable unless every backend is compiled in"
            )]
            absent => Err(absent.not_compiled_in()),
        }
    }

    /// Every device, the preferred one first; at least one.
    pub fn devices(self) -> Result<Vec<DeviceReport>, BackendUnavailable> {
        let devices = match self {
            #[cfg(feature = "flex")]
            Self::Flex => policy_loss_flex::devices(),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => policy_loss_ndarray::devices(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => policy_loss_wgpu::devices(),
            #[cfg(feature = "cuda")]
            Self::Cuda => policy_loss_cuda::devices(),
            #[allow(
                unreachable_patterns,
                reason = "reachable unless every backend is compiled in"
            )]
            _ => Vec::new(),
        };
        if devices.is_empty() {
            // The adapter knows what is missing.
            self.device()?;
        }
        Ok(devices)
    }

    fn not_compiled_in(self) -> BackendUnavailable {
        let feature = self.name();
        BackendUnavailable {
            backend: feature,
            missing: "this program was built without it".into(),
            remedy: format!(
                "add it with `cargo install --path crates/policy-loss-cli --features {feature}`, or in a \
                 checkout with `cargo run -p policy-loss-cli --features {feature} -- ...`"
            ),
        }
    }
}

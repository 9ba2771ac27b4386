//! The fused loss of each backend, one file each.

mod autodiff;
#[cfg(feature = "host")]
pub(crate) mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
pub(crate) mod flex;
#[cfg(feature = "ndarray")]
pub(crate) mod ndarray;

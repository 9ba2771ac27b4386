//! The fused loss of each backend, one file each.

mod autodiff;
#[cfg(feature = "host")]
pub(crate) mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

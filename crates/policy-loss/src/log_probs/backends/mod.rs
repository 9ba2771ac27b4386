//! Log-probs of each backend, one file each.

mod autodiff;
#[cfg(feature = "host")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

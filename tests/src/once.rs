//! Parts that are about tensor operations alone, which have one implementation.

use policy_loss::Implementation;

use crate::probe::Probe;
use crate::runner::{Mode, Runner};

/// Runs a part once, or skips it where the backend is absent.
///
/// # Panics
///
/// The part fails, or the environment requires a backend that is absent.
pub fn run_once(probe: &Probe, mode: Mode, part: fn(&Runner)) {
    let Some(device) = probe.device_or_skip() else {
        return;
    };
    part(&Runner {
        backend: probe.backend,
        device: match mode {
            Mode::Plain => device,
            Mode::Autodiff => device.autodiff(),
            Mode::Checkpointed => device.autodiff().gradient_checkpointing(),
        },
        hardware: probe.hardware(),
        mode,
        implementation: Implementation::Composed,
    });
}

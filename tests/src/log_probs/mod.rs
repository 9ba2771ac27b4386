//! Log-probs of logits and of hidden states, on every backend.
//!
//! `tests/log_probs.rs` runs the [`suite`]; an [`oracle`] of plain `f64` loops and a real
//! language-model head say what is right.

pub mod case;
pub mod oracle;
pub mod real_head;
pub mod suite;

use policy_loss::Implementation;

use crate::{Mode, Probe, Runner};

/// Runs a part of the suite with every implementation of the log-probs, or skips it where the
/// backend is absent.
///
/// # Panics
///
/// The part fails, or the environment requires a backend that is absent.
pub fn run(probe: &Probe, mode: Mode, part: fn(&Runner)) {
    let Some(device) = probe.device_or_skip() else {
        return;
    };
    let device = match mode {
        Mode::Plain => device,
        Mode::Autodiff => device.autodiff(),
        Mode::Checkpointed => device.autodiff().gradient_checkpointing(),
    };
    for implementation in [Implementation::Composed, Implementation::Fused] {
        part(&Runner {
            backend: probe.backend,
            device: device.clone(),
            hardware: probe.hardware(),
            mode,
            implementation,
        });
    }
}

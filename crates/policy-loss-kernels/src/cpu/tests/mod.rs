//! What the kernels are made of. `tests/cpu` compares the kernels themselves with an oracle.

mod alike;
mod convert;
mod exponential;
mod log_probs;
mod quotients;
mod vector_unit;

use policy_loss_oracle::Random;
use pulp::Arch;

use super::vector_unit::units;

/// Every vector unit that the machine has, and the portable loop.
fn levels() -> Vec<Arch> {
    units().into_iter().filter_map(|(_, unit)| unit).collect()
}

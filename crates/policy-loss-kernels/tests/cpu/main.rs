//! The kernels against an oracle of plain f64 loops, on every vector unit of the machine.

mod accuracy;
mod alike;
mod compare;
mod data;
mod edge_cases;
mod invariants;
mod objectives;
mod shapes;

use policy_loss_kernels::cpu::{Arch, units};

/// Every vector unit that the machine has, and the portable loop.
fn levels() -> Vec<Arch> {
    units().into_iter().filter_map(|(_, unit)| unit).collect()
}

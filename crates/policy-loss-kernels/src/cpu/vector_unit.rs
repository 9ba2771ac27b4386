//! The vector unit that the kernels run on.

use std::env::{VarError, var};
use std::sync::OnceLock;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use pulp::Simd;
use pulp::{Arch, WithSimd};

/// The variable that takes the choice from the machine, for tests and measurements.
/// Matrix products are not asked: `gemm` chooses for itself.
const VARIABLE: &str = "POLICY_LOSS_VECTOR_UNIT";

/// The vector unit of every call: that of the environment, else the widest of the machine.
///
/// # Panics
///
/// The environment names a unit that does not exist or that the machine does not have. Another
/// one in its place would make a test say what it has not tested.
pub fn vector_unit() -> Arch {
    static UNIT: OnceLock<Result<Arch, String>> = OnceLock::new();
    let unit = UNIT.get_or_init(|| match var(VARIABLE) {
        Err(VarError::NotPresent) => Ok(Arch::new()),
        Err(VarError::NotUnicode(name)) => named(&name.to_string_lossy()),
        Ok(name) => named(&name),
    });
    match unit {
        Ok(unit) => *unit,
        Err(message) => panic!("{message}"),
    }
}

/// Whether [`dispatch_to_vectors`] takes a unit: not one number at a time, and no unit that has no name
/// here, as those of WebAssembly.
pub fn has_vectors(arch: Arch) -> bool {
    units().into_iter().any(|(name, unit)| {
        let same = |unit| std::mem::discriminant(&unit) == std::mem::discriminant(&arch);
        name != "scalar" && unit.is_some_and(same)
    })
}

/// Runs a loop that is compiled for vectors alone.
///
/// # Panics
///
/// The unit does not have them ([`has_vectors`]).
#[inline(always)]
pub fn dispatch_to_vectors<Loop: WithSimd>(arch: Arch, vectors: Loop) -> Loop::Output {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(unit) => Simd::vectorize(unit, vectors),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(unit) => Simd::vectorize(unit, vectors),
        #[cfg(target_arch = "aarch64")]
        Arch::Neon(unit) => Simd::vectorize(unit, vectors),
        _ => unreachable!("this loop is for vectors"),
    }
}

/// The unit of a name.
pub fn named(name: &str) -> Result<Arch, String> {
    let units = units();
    let unit = units.iter().find(|(known, _)| *known == name);
    match unit {
        Some((_, Some(unit))) => Ok(*unit),
        Some((_, None)) => Err(format!(
            "{VARIABLE}={name}: this machine has no such vector unit; it has {}",
            list(units.iter().filter(|(_, unit)| unit.is_some()))
        )),
        None => Err(format!(
            "{VARIABLE}={name}: no vector unit has this name; accepted are {}",
            list(units.iter())
        )),
    }
}

fn list<'a>(units: impl Iterator<Item = &'a (&'static str, Option<Arch>)>) -> String {
    units.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Every unit that has a name, absent where the machine does not have it.
pub fn units() -> [(&'static str, Option<Arch>); 4] {
    #[cfg(target_arch = "x86_64")]
    let (avx512, avx2, neon) = (
        pulp::x86::V4::try_new().map(Arch::V4),
        pulp::x86::V3::try_new().map(Arch::V3),
        None,
    );
    #[cfg(target_arch = "aarch64")]
    let (avx512, avx2, neon) = (None, None, pulp::aarch64::Neon::try_new().map(Arch::Neon));
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (avx512, avx2, neon) = (None, None, None);
    [
        ("avx512", avx512),
        ("avx2", avx2),
        ("neon", neon),
        ("scalar", Some(Arch::Scalar)),
    ]
}

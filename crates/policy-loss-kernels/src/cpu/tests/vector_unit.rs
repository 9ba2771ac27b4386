//! The choice of a vector unit by its name.

use pulp::Arch;

use crate::cpu::vector_unit::{named, units};

#[test]
fn units_are_found_by_their_names() {
    for (name, unit) in units() {
        match (unit, named(name)) {
            (Some(unit), Ok(found)) => assert_eq!(format!("{found:?}"), format!("{unit:?}")),
            (None, Err(message)) => assert!(message.contains("this machine has no"), "{message}"),
            (unit, found) => panic!("{name}: {found:?}, expected {unit:?}"),
        }
    }
    assert!(matches!(named("scalar"), Ok(Arch::Scalar)));
}

#[test]
fn an_unknown_name_is_refused_with_those_that_are_known() {
    for name in ["", "AVX2", "sse"] {
        let message = named(name).expect_err("no unit");
        assert!(message.starts_with(&format!("POLICY_LOSS_VECTOR_UNIT={name}:")));
        assert!(message.ends_with("accepted are avx512, avx2, neon, scalar"));
    }
}

//! Which backends the matrix runs on here, which it skips, and why. Comes last, as its name sorts
//! last, and without the test harness, which would swallow the table.
//!
//! It fails where a backend is skipped or not built that `POLICY_LOSS_REQUIRE_BACKENDS` names (`all`
//! names every one that is built).

use std::process::ExitCode;

use policy_loss_tests::{Probe, REQUIRE, for_each_backend, implementations};

/// What the adapters say that are built, and the names of the others.
fn backends() -> Vec<Result<Probe, &'static str>> {
    let mut backends = Vec::new();
    macro_rules! ask {
        ($($(#[cfg($condition:meta)])? $backend:ident: $adapter:ident,)+) => {$(
            $(#[cfg($condition)])?
            backends.push(Ok(Probe::of($adapter::BACKEND, $adapter::device, $adapter::devices)));
            $(#[cfg(not($condition))]
            backends.push(Err(stringify!($backend)));)?
        )+};
    }
    for_each_backend!(ask);
    backends
}

fn main() -> ExitCode {
    // Asked by tools that list tests; there are none in here.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    println!("\nbackends of the matrix");
    let mut probes = Vec::new();
    for backend in backends() {
        match backend {
            Ok(probe) => {
                println!("  {:<8} {}", probe.backend, line(&probe));
                probes.push(probe);
            }
            Err(name) => {
                println!("  {name:<8} not built; `--features policy-loss-tests/{name}` does so");
            }
        }
    }
    let names = std::env::var(REQUIRE).unwrap_or_default();
    let known = |name: &str| name == "all" || probes.iter().any(|probe| probe.backend == name);
    let names = names.split(',').map(str::trim);
    let unknown: Vec<&str> = names.filter(|n| !n.is_empty() && !known(n)).collect();
    let skipped = probes.iter().filter(|probe| probe.device.is_err());
    let missing = skipped.clone().filter(|probe| probe.is_required()).count();
    let skipped = skipped.count();
    println!("{} run, {skipped} skipped\n", probes.len() - skipped);
    if !unknown.is_empty() {
        eprintln!(
            "{REQUIRE} names no backend that is built: {}",
            unknown.join(", ")
        );
        return ExitCode::FAILURE;
    }
    if missing > 0 {
        eprintln!("{missing} skipped that {REQUIRE} requires");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn line(probe: &Probe) -> String {
    let device = match &probe.device {
        Ok(device) => device,
        Err(unavailable) => return format!("skipped: {unavailable}"),
    };
    let dtypes: Vec<_> = probe.dtypes().iter().map(|dtype| dtype.name()).collect();
    let implementations: Vec<_> = implementations(device)
        .iter()
        .map(ToString::to_string)
        .collect();
    let name = probe.reports.first().map_or("?", |report| &report.name);
    format!(
        "runs on {name} ({}); {}; {}; plain, autodiff, checkpointed",
        probe.hardware(),
        dtypes.join(", "),
        implementations.join(", "),
    )
}

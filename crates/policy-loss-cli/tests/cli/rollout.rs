//! A real rollout of a small language model, under ten configurations of OpenRLHF's `PolicyLoss`,
//! against what that class computed in float64.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{CPU_BACKENDS, evaluate};

/// A file that the tests share.
pub fn data(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../../tests/data").join(name)
}

fn check(backend: &str) {
    let expected = std::fs::read_to_string(data("rollout_smollm2_expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let cases = expected.as_object().unwrap();
    assert_eq!(cases.len(), 10);
    let directory = TempDir::new().unwrap();
    for (name, case) in cases {
        let config = case["config"].to_string();
        let arguments = ["--openrlhf", &config, "--device", backend];
        let evaluated = evaluate(
            &data("rollout_smollm2.safetensors"),
            directory.path(),
            &arguments,
        );
        let report = &evaluated.report;
        assert_eq!(report["tokens"], 3516);
        assert_eq!(report["sequences"], 64);
        assert_eq!(report["device"], backend);
        for (ours, theirs) in [
            ("loss", "loss"),
            ("clip_ratio", "clip_ratio"),
            ("ppo_kl", "ppo_kl"),
            ("rollout_kl", "vllm_kl"),
        ] {
            let what = format!("{name} on {backend}: {ours}");
            match case[theirs].as_f64() {
                Some(value) => near(report[ours].as_f64().unwrap(), value, 1e-6, &what),
                None => assert_eq!(report[ours], Value::Null, "{what}"),
            }
        }
        let gradient = &evaluated.gradient;
        assert_eq!(gradient.shape, [64, 160]);
        let l2 = gradient.values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let largest = gradient.values.iter().fold(0f64, |a, x| a.max(x.abs()));
        let nonzero = gradient.values.iter().filter(|x| **x != 0.0).count();
        for (figure, got) in [
            ("grad_l2", l2),
            ("grad_sum", gradient.values.iter().sum()),
            ("grad_abs_max", largest),
        ] {
            let what = format!("{name} on {backend}: {figure}");
            near(got, case[figure].as_f64().unwrap(), 1e-7, &what);
        }
        assert_eq!(case["grad_nonzero"], nonzero, "{name} on {backend}");
    }
}

/// 1e-5 of the value itself, and a little more near 0: sums that cancel are no better.
#[track_caller]
fn near(got: f64, expected: f64, absolute: f64, what: &str) {
    let limit = 1e-5 * expected.abs() + absolute;
    let error = (got - expected).abs();
    assert!(error <= limit, "{what} is {got}, expected {expected}");
}

#[test]
fn ten_configurations_on_the_cpu() {
    CPU_BACKENDS.iter().copied().for_each(check);
}

#[cfg(feature = "wgpu")]
#[test]
fn ten_configurations_on_wgpu() {
    check("wgpu");
}

//! A real rollout of a small language model, against what OpenRLHF's `PolicyLoss` computed in float64.
//! The library's own tests have nine more configurations.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{CPU_BACKENDS, data, evaluate};

fn check(backend: &str) {
    let expected = std::fs::read_to_string(data("rollout_smollm2_expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let case = &expected["everything"];
    let directory = TempDir::new().unwrap();
    let config = case["config"].to_string();
    let arguments = ["--openrlhf", &config, "--device", backend];
    let batch = data("rollout_smollm2.safetensors");
    let evaluated = evaluate(&batch, directory.path(), &arguments);
    let report = &evaluated.report;
    assert_eq!(report["tokens"], 3516);
    assert_eq!(report["sequences"], 64);
    assert_eq!(report["device"], backend);
    let gradient = &evaluated.gradient;
    assert_eq!(gradient.shape, [64, 160]);
    let number = |name: &str| report[name].as_f64().unwrap();
    let l2 = gradient.values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let largest = gradient.values.iter().fold(0f64, |a, x| a.max(x.abs()));
    for (figure, got, absolute) in [
        ("loss", number("loss"), 1e-6),
        ("clip_ratio", number("clip_ratio"), 1e-6),
        ("ppo_kl", number("ppo_kl"), 1e-6),
        ("vllm_kl", number("rollout_kl"), 1e-6),
        ("grad_l2", l2, 1e-7),
        ("grad_sum", gradient.values.iter().sum(), 1e-7),
        ("grad_abs_max", largest, 1e-7),
    ] {
        let expected = case[figure].as_f64().unwrap();
        // A little more near 0: sums that cancel are no better.
        let limit = 1e-5 * expected.abs() + absolute;
        let what = format!("{figure} on {backend} is {got}, expected {expected}");
        assert!((got - expected).abs() <= limit, "{what}");
    }
    let nonzero = gradient.values.iter().filter(|x| **x != 0.0).count();
    assert_eq!(case["grad_nonzero"], nonzero, "{backend}");
}

#[test]
fn a_real_rollout_on_the_cpu() {
    CPU_BACKENDS.iter().copied().for_each(check);
}

#[cfg(feature = "wgpu")]
#[test]
fn a_real_rollout_on_wgpu() {
    check("wgpu");
}

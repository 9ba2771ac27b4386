//! `bench`, on sizes that take no time.

use serde_json::Value;

use crate::support::{Batch, CPU_BACKENDS, program, refuses, stdout};

fn bench(more: &[&str]) -> Value {
    let arguments = ["bench", "--rounds", "1", "--json"];
    serde_json::from_str(&stdout(program().args(arguments).args(more))).unwrap()
}

#[test]
fn log_probs_with_and_without_the_logits() {
    let sizes = ["--tokens", "9", "--hidden", "4", "--vocab", "33"];
    for device in CPU_BACKENDS {
        let what = ["--what", "log-probs", "--device", device];
        let report = bench(&[&what[..], &sizes].concat());
        assert_eq!(report["vocabulary"], 33);
        let contestants = report["contestants"].as_array().unwrap();
        let names: Vec<_> = contestants.iter().map(|line| &line["name"]).collect();
        assert_eq!(
            names,
            [
                "one_product",
                "forward_only",
                "three_products",
                "four_products",
                "naive",
                "token_log_probs",
                "linear_log_probs",
                "linear_policy_loss",
            ]
        );
        for line in contestants {
            assert!(line["median_ms"].as_f64().unwrap() > 0.0, "{line}");
            assert!(line["peak_extra_bytes"].as_u64().unwrap() > 0, "{line}");
            assert!(
                line["teraflops_per_second"].as_f64().unwrap() > 0.0,
                "{line}"
            );
        }
    }
}

#[test]
fn log_probs_of_a_type_and_what_is_chosen() {
    let sizes = ["--tokens", "9", "--hidden", "4", "--vocab", "33"];
    let what = ["--what", "log-probs", "--dtype", "bf16"];
    let chosen = [
        "--budget",
        "256",
        "--contestants",
        "linear_log_probs,forward_only",
        "--errors",
    ];
    let report = bench(&[&what[..], &sizes, &chosen].concat());
    assert_eq!(report["dtype"], "bf16");
    assert_eq!(report["memory_budget"], 256);
    assert_eq!(report["weight_gradient_bytes"], 4 * 33 * 2);
    let contestants = report["contestants"].as_array().unwrap();
    let names: Vec<_> = contestants.iter().map(|line| &line["name"]).collect();
    assert_eq!(names, ["linear_log_probs", "forward_only"]);
    let errors = &contestants[0]["errors"];
    // Those of f32 in a log-prob, one rounding in the gradients.
    for (what, most) in [
        ("log_prob", 1e-5),
        ("hidden_gradient", 4e-3),
        ("weight_gradient", 4e-3),
    ] {
        let error = errors[what].as_f64().unwrap();
        assert!(error < most, "{what}: {errors}");
    }
    assert!(
        errors["weight_gradient"].as_f64().unwrap() > 0.0,
        "{errors}"
    );
}

#[test]
fn an_objective_of_a_file() {
    let directory = Batch::default().write();
    let config = directory.config(r#"{ "entropy_bonus": { "coefficient": 0.01 } }"#);
    let sizes = ["--batch", "3", "--tokens", "40"];
    let report = bench(&[&["--config", &config][..], &sizes].concat());
    let objective = report["objective"].as_str().unwrap();
    assert!(objective.ends_with("config.json"), "{objective}");
    for field in ["fused", "fused_repeated", "composed", "copy"] {
        let value = &report[format!("{field}_ns_per_token")];
        assert!(value.as_f64().unwrap() > 0.0, "{field}: {value}");
    }
    let config = directory.config(r#"{ "rato": 1 }"#);
    refuses(program().args(["bench", "--config", &config]), 3, &["rato"]);
}

#[test]
fn sizes_beyond_an_index_are_refused() {
    let arguments = ["bench", "--what", "log-probs", "--vocab", "4000000000"];
    refuses(program().args(arguments), 3, &["--vocab 4000000000"]);
}

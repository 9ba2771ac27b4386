//! `policy-loss compare`.

use serde_json::Value;

use crate::support::{Batch, Written, close, program, refuses};

fn compare(batch: &Written, arguments: &[&str]) -> String {
    let mut command = program();
    command.arg("compare").arg(batch.path()).args(arguments);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_objective_is_what_eval_says() {
    let batch = Batch::two_rows().write();
    let file = batch.beside("objective.json");
    std::fs::write(&file, r#"{"surrogate": {"type": "reinforce"}}"#).unwrap();
    let names = ["ppo", "gspo", "cispo", "sapo"];
    let mut arguments = vec!["--json", "--config", file.to_str().unwrap()];
    for name in names {
        arguments.extend(["--preset", name]);
    }
    let compared: Value = serde_json::from_str(&compare(&batch, &arguments)).unwrap();
    let objectives = compared["objectives"].as_array().unwrap();
    assert_eq!(objectives.len(), 5);
    let mut gradients = Vec::new();
    for (name, objective) in names.iter().zip(objectives) {
        let alone = batch.evaluate(&["--preset", name]);
        assert_eq!(objective["loss"], alone.report["loss"], "{name}");
        for (metric, value) in alone.report["metrics"].as_object().unwrap() {
            assert_eq!(&objective["metrics"][metric], value, "{name}: {metric}");
        }
        gradients.push(alone.gradient.values);
    }
    for (i, one) in gradients.iter().enumerate() {
        for (j, other) in gradients.iter().enumerate() {
            let product =
                |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let cosine = product(one, other) / (product(one, one) * product(other, other)).sqrt();
            let said = objectives[i]["gradient_cosine"][j].as_f64().unwrap();
            close(said, cosine, 1e-6, &format!("cosine {i} {j}"));
        }
    }
}

#[test]
fn objectives_stand_side_by_side() {
    let batch = Batch::two_rows().write();
    let table = compare(&batch, &["--preset", "ppo", "--preset", "gspo_token"]);
    let header = table.lines().next().unwrap();
    assert!(
        header.contains("--preset ppo") && header.contains("--preset gspo_token"),
        "{table}"
    );
    for row in [
        "loss",
        "gradient norm",
        "cosine to --preset ppo",
        "clip_ratio",
    ] {
        assert!(table.contains(row), "{table}");
    }
    // What none of them has is left out.
    assert!(!table.contains("weight_mean"), "{table}");
}

#[test]
fn what_an_objective_needs_is_named() {
    let batch = Batch::two_rows().write();
    let mut command = program();
    command.arg("compare").arg(batch.path());
    refuses(
        command.args(["--preset", "ppo", "--preset", "verl_grpo"]),
        3,
        &["`ref_log_probs` is missing", "`kl_penalty`"],
    );
    let mut command = program();
    refuses(command.arg("compare").arg(batch.path()), 2, &["--preset"]);
}

//! `policy-loss compare`.

use serde_json::Value;

use crate::support::{Batch, Written, close, program, refuses, stdout};

fn compare(batch: &Written, arguments: &[&str]) -> String {
    let mut command = program();
    stdout(command.arg("compare").arg(batch.path()).args(arguments))
}

#[test]
fn each_objective_is_what_eval_says() {
    let batch = Batch::two_rows().write();
    let config = batch.config(r#"{"surrogate": {"policy_gradient": {}}}"#);
    let names = ["ppo", "gspo", "cispo", "sapo"];
    let mut arguments = vec!["--json", "--config", &config];
    for name in names {
        arguments.extend(["--preset", name]);
    }
    let compared: Value = serde_json::from_str(&compare(&batch, &arguments)).unwrap();
    let objectives = compared["objectives"].as_array().unwrap();
    assert_eq!(objectives.len(), 5);
    let mut gradients = Vec::new();
    let first = objectives[0]["name"].as_str().unwrap();
    assert!(first.starts_with("--config"), "{first}");
    let objectives = &objectives[1..];
    for (name, objective) in names.iter().zip(objectives) {
        assert_eq!(objective["name"], format!("--preset {name}"));
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
            let said = objectives[i]["gradient_cosine"][j + 1].as_f64().unwrap();
            close(said, cosine, 1e-6, &format!("cosine {i} {j}"));
        }
    }
}

#[test]
fn a_gradient_of_zero_has_no_direction() {
    let batch = Batch::row(&[0.1, -0.2], &[0.0, 0.0]).write();
    let compared = compare(&batch, &["--json", "--preset", "ppo"]);
    let compared: Value = serde_json::from_str(&compared).unwrap();
    let objective = &compared["objectives"][0];
    assert_eq!(objective["gradient_norm"], 0.0);
    assert_eq!(objective["gradient_cosine"][0], "NaN");
}

#[test]
fn objectives_stand_side_by_side() {
    let batch = Batch::two_rows().write();
    let table = compare(&batch, &["--preset", "ppo", "--preset", "gspo_token"]);
    let header = table.lines().next().unwrap();
    assert!(
        header.trim_start().starts_with("ppo ") && header.ends_with(" gspo_token"),
        "{table}"
    );
    for row in ["loss", "gradient norm", "cosine to ppo", "clip_ratio"] {
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
        &[
            "--preset verl_grpo: ",
            "`ref_log_probs` is missing",
            "`kl_penalty`",
        ],
    );
    let mut command = program();
    refuses(command.arg("compare").arg(batch.path()), 2, &["--preset"]);
}

#[test]
fn objectives_stand_in_the_order_of_the_command_line() {
    let batch = Batch::two_rows().write();
    let [one, other] = ["one.json", "other.json"].map(|name| batch.beside(name));
    std::fs::write(&one, r#"{"reduction": "token_sum"}"#).unwrap();
    std::fs::write(&other, r#"{"reduction": "sequence_mean"}"#).unwrap();
    let [one, other] = [&one, &other].map(|path| path.to_str().unwrap());
    let arguments = [
        "--json", "--config", one, "--preset", "gspo", "--config", other, "--preset", "ppo",
    ];
    let compared: Value = serde_json::from_str(&compare(&batch, &arguments)).unwrap();
    let objectives = compared["objectives"].as_array().unwrap();
    let names: Vec<_> = objectives.iter().map(|one| &one["name"]).collect();
    let expected = [
        &format!("--config {one}"),
        "--preset gspo",
        &format!("--config {other}"),
        "--preset ppo",
    ];
    assert_eq!(names, expected);
    assert_eq!(objectives[0]["config"]["reduction"], "token_sum");
}

#[test]
fn many_objectives_stay_within_the_screen() {
    let batch = Batch::two_rows().write();
    let names = [
        "ppo",
        "gspo",
        "cispo",
        "sapo",
        "dapo",
        "grpo",
        "gmpo",
        "dual_clip_ppo",
        "topr",
        "vespo",
    ];
    let long = batch.beside("a_path_that_is_longer_than_a_column_should_ever_be.json");
    std::fs::write(&long, "{}").unwrap();
    let mut arguments = vec!["--config", long.to_str().unwrap()];
    arguments.extend(names.iter().flat_map(|name| ["--preset", name]));
    let table = compare(&batch, &arguments);
    assert!(
        table.lines().all(|line| line.chars().count() <= 100),
        "{table}"
    );
    let blocks: Vec<_> = table.trim_end().split("\n\n").collect();
    assert!(blocks.len() > 1, "{table}");
    let headers = blocks.iter().map(|block| block.lines().next().unwrap());
    let heads: Vec<_> = headers.flat_map(str::split_whitespace).collect();
    assert!(heads[0].ends_with("should_ever_be.json"), "{table}");
    assert_eq!(heads[1..], names);
    for block in blocks {
        assert!(
            block.contains("\nloss ") && block.contains("\ncosine to topr "),
            "{table}"
        );
    }
}

#[test]
fn non_finite_tokens_are_noted() {
    let log_probs = [f32::NAN, 0.3, -0.4, 0.5, -0.6, 0.05];
    let batch = Batch::two_rows()
        .f32("log_probs", &[2, 3], &log_probs)
        .write();
    let mut command = program();
    command.arg("compare").arg(batch.path());
    let output = command
        .args(["--preset", "ppo", "--preset", "gspo"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let notes = String::from_utf8(output.stderr).unwrap();
    let warning = "warning: --preset ppo, --preset gspo: 1 valid tokens hold a NaN";
    assert!(notes.contains(warning), "{notes}");
}

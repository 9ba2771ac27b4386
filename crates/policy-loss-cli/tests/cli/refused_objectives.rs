//! Objectives, totals and devices that cannot be had: each with its exit code and a telling error.

use crate::support::{Batch, Written};

fn refused_config(batch: &Written, text: &str, telling: &[&str]) {
    let path = batch.beside("config.json");
    std::fs::write(&path, text).unwrap();
    batch.refuses(&["--config", path.to_str().unwrap()], 3, telling);
}

#[test]
fn arguments_of_openrlhf() {
    let batch = Batch::two_rows().write();
    let correction = |thresholds: &str| {
        format!(
            r#"{{"enable_vllm_is_correction": true, "vllm_is_truncated_threshold": {thresholds}}}"#
        )
    };
    let cases: [(&str, &[&str]); 22] = [
        (
            r#"{"clip_eps_low": -0.1}"#,
            &["`clip_eps_low` is -0.1", "above 0"],
        ),
        (r#"{"clip_eps_high": 0}"#, &["`clip_eps_high` is 0"]),
        (r#"{"dual_clip": 1}"#, &["`dual_clip` is 1", "above 1"]),
        (r#"{"dual_clip": 0.5}"#, &["`dual_clip` is 0.5"]),
        (
            r#"{"clip_eps_high": 1e999}"#,
            &["`clip_eps_high` is 1e999", "accepted: numbers up to"],
        ),
        (
            r#"{"policy_loss_type": "grpo"}"#,
            &["`policy_loss_type` is \"grpo\"", "\"gspo\""],
        ),
        (
            r#"{"vllm_is_correction_type": "mis"}"#,
            &["`vllm_is_correction_type` is \"mis\"", "\"icepop\""],
        ),
        (
            r#"{"enable_vllm_is_correction": true}"#,
            &["`vllm_is_truncated_threshold` is missing"],
        ),
        (
            &correction("[5, 0.5]"),
            &["`vllm_is_truncated_threshold[0]` is 5", "low <= high"],
        ),
        (
            &correction("[NaN, 5]"),
            &["`vllm_is_truncated_threshold[0]`", "line 1 column"],
        ),
        (&correction("[0.5, Infinity]"), &["line 1 column"]),
        (
            &correction("[0, 5]"),
            &["`vllm_is_truncated_threshold[0]` is 0"],
        ),
        (
            &correction("[0.5]"),
            &[
                "`vllm_is_truncated_threshold` is [0.5]",
                "accepted: an array of length 2",
            ],
        ),
        (
            &correction("[0.5, 5, 6]"),
            &[
                "`vllm_is_truncated_threshold` is [0.5,5,6]",
                "accepted: an array of length 2",
            ],
        ),
        (
            r#"{"clip_eps": 0.2}"#,
            &["unknown field `clip_eps`", "accepted: `clip_eps_low`"],
        ),
        (
            r#"{"dual_clip": "3"}"#,
            &["`dual_clip` is \"3\"; accepted: a number"],
        ),
        (
            r#"{"dual_clip": 3,}"#,
            &["trailing comma", "line 1 column 17"],
        ),
        (
            "{'dual_clip': 3}",
            &["key must be a string", "line 1 column 2"],
        ),
        (r#"{"dual_clip": 3"#, &["EOF", "line 1 column"]),
        ("[0.2, 0.2]", &["expected JSON text", "[0.2, 0.2]"]),
        ("", &["expected JSON text"]),
        ("objective.json", &["expected JSON text", "$(cat FILE)"]),
    ];
    for (text, telling) in cases {
        let mut telling = telling.to_vec();
        telling.push("--openrlhf");
        batch.refuses(&["--openrlhf", text], 3, &telling);
    }
}

#[test]
fn configurations() {
    let batch = Batch::two_rows().write();
    let cases: [(&str, &[&str]); 13] = [
        (
            r#"{"surrogate": {"type": "clip", "low": -1}}"#,
            &["`surrogate.low` is -1", "above 0"],
        ),
        (
            r#"{"surrogate": {"type": "clip", "dual_clip": 1}}"#,
            &["`surrogate.dual_clip` is 1"],
        ),
        (
            r#"{"surrogate": {"type": "clip", "lo": 1}}"#,
            &["unknown field `lo` in `surrogate`", "accepted: `low`"],
        ),
        (
            r#"{"surrogate": {"type": "clop"}}"#,
            &[
                "`surrogate.type` is \"clop\"",
                "accepted: \"clip\", \"cispo\"",
            ],
        ),
        (
            r#"{"surrogat": {}}"#,
            &["unknown field `surrogat`", "accepted: `ratio`, `surrogate`"],
        ),
        (
            r#"{"reduction": "sum"}"#,
            &["`reduction` is \"sum\"", "accepted: \"token_mean\""],
        ),
        (
            r#"{"ratio": {"level": "word"}}"#,
            &["`ratio.level` is \"word\"", "accepted: \"token\""],
        ),
        (
            r#"{"rollout_correction": {"weight": {"mode": {"type": "truncate", "low": 5, "high": 0.5}}}}"#,
            &["`rollout_correction.weight.mode.low` is 5"],
        ),
        (
            r#"{"rollout_correction": {"weight": {"mode": {"type": "truncate"}}}}"#,
            &["`rollout_correction.weight.mode.high` is missing"],
        ),
        (
            r#"{"ratio": {"against": "rollout"},
                "rollout_correction": {"weight": {"mode": {"type": "raw"}}}}"#,
            &["`ratio.against = rollout` together with `rollout_correction`"],
        ),
        (
            "{\n  \"reduction\": \"token_mean\",\n}",
            &["trailing comma", "line 3 column 1"],
        ),
        ("[]", &["expected a JSON object", "policy-loss presets"]),
        ("", &["expected a JSON object"]),
    ];
    for (text, telling) in cases {
        let mut telling = telling.to_vec();
        telling.extend(["--config", "config.json"]);
        refused_config(&batch, text, &telling);
    }
}

#[test]
fn configuration_files() {
    let batch = Batch::two_rows().write();
    let absent = batch.beside("absent.json");
    let telling = ["--config", "absent.json", "No such file"];
    batch.refuses(&["--config", absent.to_str().unwrap()], 3, &telling);
    let directory = batch.path().parent().unwrap().to_owned();
    batch.refuses(
        &["--config", directory.to_str().unwrap()],
        3,
        &["directory"],
    );
    // The batch itself, by mistake.
    batch.refuses(
        &["--config", batch.path().to_str().unwrap()],
        3,
        &["--config"],
    );
}

#[test]
fn presets() {
    let batch = Batch::two_rows().write();
    let telling = ["dappo", "dual_clip_ppo", "similar value exists: 'dapo'"];
    batch.refuses(&["--preset", "dappo"], 2, &telling);
    batch.refuses(&["--preset", "a2c"], 2, &["possible values: ppo"]);
}

#[test]
fn two_objectives() {
    let batch = Batch::two_rows().write();
    for arguments in [
        ["--preset", "ppo", "--openrlhf", "{}"],
        ["--preset", "ppo", "--config", "x.json"],
        ["--openrlhf", "{}", "--config", "x.json"],
    ] {
        batch.refuses(&arguments, 2, &["cannot be used with"]);
    }
}

#[test]
fn totals() {
    let batch = Batch::two_rows().write();
    let cases: [(&[&str], &[&str]); 8] = [
        (
            &["--world-size", "4"],
            &["--global-tokens is missing", "`token_mean`"],
        ),
        (
            &["--world-size", "4", "--preset", "grpo"],
            &["--global-sequences is missing", "`sequence_mean`"],
        ),
        (
            &["--global-sequences", "4"],
            &["--global-tokens is missing"],
        ),
        (
            &["--global-tokens", "4", "--preset", "gspo"],
            &["--global-sequences is missing"],
        ),
        (
            &["--global-tokens", "0"],
            &["--global-tokens is 0", "above 0"],
        ),
        (
            &["--global-tokens", "4", "--world-size", "0"],
            &["--world-size is 0"],
        ),
        (
            &["--global-sequences", "0", "--preset", "grpo"],
            &["--global-sequences is 0"],
        ),
        // A total that this objective does not need is checked all the same.
        (
            &["--global-sequences", "0", "--global-tokens", "4"],
            &["--global-sequences is 0"],
        ),
    ];
    for (arguments, telling) in cases {
        batch.refuses(arguments, 3, telling);
    }
    for value in ["-1", "1.5", "many", "99999999999999999999999"] {
        batch.refuses(
            &[&format!("--global-tokens={value}")],
            2,
            &["--global-tokens"],
        );
    }
}

#[test]
fn devices() {
    let batch = Batch::two_rows().write();
    batch.refuses(&["--device", "tpu"], 2, &["tpu", "flex"]);
    for (backend, compiled_in) in [
        ("wgpu", cfg!(feature = "wgpu")),
        ("cuda", cfg!(feature = "cuda")),
    ] {
        if compiled_in {
            continue;
        }
        let install = format!("cargo install --path crates/policy-loss-cli --features {backend}");
        let run = format!("cargo run -p policy-loss-cli --features {backend}");
        let telling = ["was built without it", install.as_str(), run.as_str()];
        batch.refuses(&["--device", backend], 4, &telling);
    }
}

/// Without a driver wgpu panics at its first use; the adapter looks first.
#[cfg(all(feature = "wgpu", target_os = "linux"))]
#[test]
fn a_machine_without_a_driver() {
    let batch = Batch::two_rows().write();
    let mut command = batch.eval(&["--device", "wgpu"]);
    command
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .env("VK_DRIVER_FILES", "/nonexistent")
        .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
        .env("LIBGL_DRIVERS_PATH", "/nonexistent");
    let telling = ["wgpu is unavailable", "mesa-vulkan-drivers"];
    crate::support::refuses(&mut command, 4, &telling);
}

#[test]
fn usage() {
    use crate::support::{program, refuses};
    refuses(program().arg("evaluate"), 2, &["evaluate", "eval"]);
    refuses(program().arg("eval"), 2, &["BATCH.safetensors"]);
    refuses(
        program().args(["eval", "a", "b"]),
        2,
        &["unexpected argument 'b'"],
    );
    refuses(program().args(["eval", "a", "--grad"]), 2, &["--grad-out"]);
}

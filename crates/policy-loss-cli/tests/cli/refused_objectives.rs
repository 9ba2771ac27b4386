//! Objectives that cannot be had: each with an error that names the field, its value and what is
//! accepted.

use crate::support::{Batch, Written};

/// What `--config` refuses, and the error; one that ends in `...` is only the beginning.
const CONFIGS: &str = r#"
{"surrogat": {}}
    unknown field `surrogat`; accepted: `ratio`, `surrogate`, `off_policy_mask`, `entropy_mask`, `future_weight`, `rollout_correction`, `missing_rollout_log_probs`, `kl_penalty`, `entropy_bonus`, `reduction`; is it `surrogate`?
{"implementation": "fused"}
    unknown field `implementation`; accepted: `ratio`, `surrogate`, `off_policy_mask`, `entropy_mask`, `future_weight`, `rollout_correction`, `missing_rollout_log_probs`, `kl_penalty`, `entropy_bonus`, `reduction`
{"surrogate": {"clip": {"lo": 1}}}
    unknown field `surrogate.clip.lo`; accepted: `low`, `high`, `dual_clip`, `delta`; is it `low`?
{"surrogate": {"clip": {"low": 0.1, "A": 1}}}
    unknown field `surrogate.clip.A`; accepted: `low`, `high`, `dual_clip`, `delta`
{"surrogate": {"clop": {}}}
    `surrogate` is {"clop":{}}; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": {}}
    `surrogate` is {}; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": {"type": "clip", "low": 0.1}}
    `surrogate` is {"low":0.1,"type":"clip"}; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": {"clip": {}, "sigmoid_gate": {}}}
    `surrogate` is {"clip":{},"sigmoid_gate":{}}; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": "clip"}
    `surrogate` is "clip"; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": ["clip"]}
    `surrogate` is ["clip"]; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": ["clip", 0.1]}
    `surrogate` is ["clip",0.1]; accepted: {"clip": {...}}, {"policy_gradient": {...}}, ...
{"surrogate": {"clip": 0}}
    `surrogate.clip` is 0; accepted: an object of `low`, `high`, `dual_clip`, `delta`
{"surrogate": {"clip": {"low": [0.2]}}}
    `surrogate.clip.low` is [0.2]; accepted: a number
{"surrogate": {"clip": {"low": 0.3, "high": "0.2"}}}
    `surrogate.clip.high` is "0.2"; accepted: a number
{"surrogate": {"clip": {"low": null}}}
    `surrogate.clip.low` is null; accepted: a number
{"surrogate": {"clip": {"low": -1}}}
    `surrogate.clip.low` is -1; accepted: a finite number above 0
{"surrogate": {"clip": {"dual_clip": 1}}}
    `surrogate.clip.dual_clip` is 1; accepted: a finite number above 1, or none
{"surrogate": {"clip": {"high": 0.3, "low": 1e400 }}}
    `surrogate.clip.low`: 1e400 is a number out of range at line 1 column 49; accepted: up to 1.8e308
{"surrogate": {"second_moment_mask": {"threshold": 0}}}
    `surrogate.second_moment_mask.threshold` is 0; accepted: a finite number above 0
{"surrogate": {"second_moment_clip": {"low": 0.3}}}
    unknown field `surrogate.second_moment_clip.low`; accepted: `threshold`, `min_low`, `min_high`
{"surrogate": {"trust_region": {"divergence": {"kl": null}}}}
    `surrogate.trust_region.divergence` is {"kl":null}; accepted: "total_variation", "symmetric_total_variation", "kl"
{"surrogate": {"covariance_clip": {"seed": 1.5}}}
    `surrogate.covariance_clip.seed` is 1.5; accepted: an integer, 0 or above
{"ratio": []}
    `ratio` is []; accepted: an object of `level`, `against`
{"ratio": ["token", "old"]}
    `ratio` is ["token","old"]; accepted: an object of `level`, `against`
{"ratio": {"level": 0}}
    `ratio.level` is 0; accepted: "token", "sequence", "sequence_token", "sequence_sum", "segment"
{"ratio": {"level": "word"}}
    `ratio.level` is "word"; accepted: "token", "sequence", "sequence_token", "sequence_sum", "segment"
{"ratio": {"level": ["token"]}}
    `ratio.level` is ["token"]; accepted: "token", "sequence", "sequence_token", "sequence_sum", "segment"
{"ratio": {"level": {"token": null}}}
    `ratio.level` is {"token":null}; accepted: "token", "sequence", "sequence_token", "sequence_sum", "segment"
{"ratio": {"against": "rollout"}, "rollout_correction": {"weight": {"mode": "raw"}}}
    `ratio.against = rollout` together with `rollout_correction` has no meaning: the ratio already holds ...
{"missing_rollout_log_probs": "ignore"}
    `missing_rollout_log_probs` is "ignore"; accepted: "propagate", "drop", "use_old"
{"missing_rollout_log_probs": "drop"}
    `rollout_correction` is missing, but `missing_rollout_log_probs` needs it; accepted: a part that reads ...
{"off_policy_mask": [0.1]}
    `off_policy_mask` is [0.1]; accepted: an object of `delta`
{"entropy_mask": 0.2}
    `entropy_mask` is 0.2; accepted: an object of `share`
{"entropy_mask": {"share": 0}}
    `entropy_mask.share` is 0; accepted: a number above 0, 1 at most
{"future_weight": 0.9}
    `future_weight` is 0.9; accepted: an object of `discount`, `bounds`, `guard`, `max_ratio`
{"future_weight": {"discount": 1.5}}
    `future_weight.discount` is 1.5; accepted: a number from 0 to 1
{"future_weight": {"guard": {"ratio": 0}}}
    `future_weight.guard.ratio` is 0; accepted: a finite number above 0
{"kl_penalty": [0.1]}
    `kl_penalty` is [0.1]; accepted: an object of `coefficient`, `estimator`, `gradient`, `against`, `max_log_ratio`, `max_divergence`
{"kl_penalty": {}}
    `kl_penalty.coefficient` is missing; accepted: a number
{"kl_penalty": {"coefficient": {"type": "x", "low": 1}}}
    `kl_penalty.coefficient` is {"low":1,"type":"x"}; accepted: a number
{"kl_penalty": {"coefficient": 0.1, "estimator": "K3"}}
    `kl_penalty.estimator` is "K3"; accepted: "k1", "k2", "k3", "abs"
{"kl_penalty": "whatever is as long as this is not repeated from its beginning to its end"}
    `kl_penalty` is "whatever is as long as this is not repeated from its beginn...; accepted: an object of `coefficient`, `estimator`, `gradient`, `against`, `max_log_ratio`, `max_divergence`
{"reduction": null}
    `reduction` is null; accepted: "token_mean", "sequence_mean", "prompt_mean", "sequence_sum_mean", {"fixed_length": {...}}, "token_sum"
{"reduction": "sum"}
    `reduction` is "sum"; accepted: "token_mean", "sequence_mean", "prompt_mean", "sequence_sum_mean", {"fixed_length": {...}}, "token_sum"
{"reduction": "fixed_length"}
    `reduction` is "fixed_length"; accepted: "token_mean", "sequence_mean", "prompt_mean", "sequence_sum_mean", {"fixed_length": {...}}, "token_sum"
{"reduction": {"fixed_length": [10]}}
    `reduction.fixed_length` is [10]; accepted: an object of `length`
{"reduction": {"fixed_length": {"length": -1}}}
    `reduction.fixed_length.length` is -1; accepted: an integer, 0 or above
{"reduction": {"token_mean": null}}
    `reduction` is {"token_mean":null}; accepted: "token_mean", "sequence_mean", "prompt_mean", "sequence_sum_mean", {"fixed_length": {...}}, "token_sum"
{"reduction": {"token_mean": {}}}
    `reduction` is {"token_mean":{}}; accepted: "token_mean", "sequence_mean", "prompt_mean", "sequence_sum_mean", {"fixed_length": {...}}, "token_sum"
{"rollout_correction": {"normalize": 1}}
    `rollout_correction.normalize` is 1; accepted: true or false
{"rollout_correction": {"veto": -1e999}}
    `rollout_correction.veto`: -1e999 is a number out of range at line 1 column 38; accepted: up to 1.8e308
{"rollout_correction": {"weight": {}}}
    `rollout_correction.weight.mode` is missing; accepted: {"truncate": {...}}, {"mask": {...}}, "raw"
{"rollout_correction": {"weight": ["token", "raw"]}}
    `rollout_correction.weight` is ["token","raw"]; accepted: an object of `level`, `mode`
{"rollout_correction": {"weight": {"mode": ["truncate", 0.5, 2]}}}
    `rollout_correction.weight.mode` is ["truncate",0.5,2]; accepted: {"truncate": {...}}, {"mask": {...}}, "raw"
{"rollout_correction": {"weight": {"mode": {"truncate": {}}}}}
    `rollout_correction.weight.mode.truncate.high` is missing, but a range needs it; accepted: `low`, `high` or both, finite and above 0
{"rollout_correction": {"weight": {"mode": {"truncate": {"low": 5, "high": 0.5}}}}}
    `rollout_correction.weight.mode.truncate.low` is 5, above `rollout_correction.weight.mode.truncate.high` = 0.5; accepted: low <= high
{"rollout_correction": {"filters": {}}}
    `rollout_correction.filters` is {}; accepted: a list
{"rollout_correction": {"filters": [["token", "k1", {"high": 2}]]}}
    `rollout_correction.filters[0]` is ["token","k1",{"high":2}]; accepted: an object of `level`, `estimator`, `bounds`
{"rollout_correction": {"filters": [{"level": "token", "estimator": "k1", "bounds": [0.5, 2]}]}}
    `rollout_correction.filters[0].bounds` is [0.5,2]; accepted: an object of `low`, `high`
{"rollout_correction": {"filters": [{"level": "token", "estimator": "k1", "bounds": {"high": 2}}, {"level": "token", "estimator": "k1", "bounds": {"high": 3}}]}}
    `rollout_correction.filters`: two filters have the level "token" and the estimator "k1"; accepted: one range for each pair, such as the intersection of the two
{"rollout_correction": {"filters": [{"level": "token", "estimator": "k4", "bounds": {"high": 2}}]}}
    `rollout_correction.filters[0].estimator` is "k4"; accepted: "k1", "k2", "k3", "bernoulli_kl", "difference", "ratio_distance"
{"rollout_correction": {"filters": [{"level": "segment", "estimator": "k1", "bounds": {"high": 2}}]}}
    `rollout_correction.filters[0].level` is "segment"; accepted: "token", "sequence_sum", "sequence_mean", "sequence_max", "segment_mean"
{"rollout_correction": {"filters": [{"level": "token", "estimator": "difference", "bounds": {"low": 0.2, "high": -0.2}}]}}
    `rollout_correction.filters[].bounds.low` is 0.2, above `rollout_correction.filters[].bounds.high` = -0.2; accepted: low <= high
{"rollout_correction": {"weight": {"mode": "raw"}, "only_moving_away": true}}
    `rollout_correction.filters` is missing, but `rollout_correction.only_moving_away` needs it; accepted: a filter or a veto, or leave `only_moving_away` out
{"surrogate": {"clip": {"low": 0.1, "low": 0.3}}}
    `surrogate.clip`: duplicate field `low` at line 1 column 41
{"surrogate": {"clip": {}, "clip": {}}}
    `surrogate`: a name that is given twice at line 1 column 25
{"reduction": "token_sum", "reduction": "token_sum"}
    duplicate field `reduction` at line 1 column 38
{"reduction": "token_mean",}
    trailing comma at line 1 column 28
{"surrogate": {"clip": {
    `surrogate.clip`: EOF while parsing an object at line 1 column 24
{"a": nul}
    `a`: expected ident at line 1 column 10
[]
    expected a JSON object, such as `policy-loss presets` ...
"#;

/// What `--openrlhf` refuses.
const OPENRLHF: &str = r#"
{"clip_eps_low": -0.1}
    `clip_eps_low` is -0.1; accepted: a finite number above 0
{"clip_eps_high": 0}
    `clip_eps_high` is 0; accepted: a finite number above 0
{"dual_clip": 1}
    `dual_clip` is 1; accepted: a finite number above 1, or none
{"dual_clip": 0.5}
    `dual_clip` is 0.5; accepted: a finite number above 1, or none
{"clip_eps_high": 1e999}
    `clip_eps_high`: 1e999 is a number out of range at line 1 column 23; accepted: up to 1.8e308
{"policy_loss_type": "grpo"}
    `policy_loss_type` is "grpo"; accepted: "ppo", "gspo"
{"vllm_is_correction_type": "mis"}
    `vllm_is_correction_type` is "mis"; accepted: "tis", "icepop", "seq-mask-tis"
{"enable_vllm_is_correction": true}
    `vllm_is_truncated_threshold` is missing, but enable_vllm_is_correction needs it; accepted: [low, high], both finite and above 0, low <= high
{"vllm_is_truncated_threshold": [5, 0.5]}
    `vllm_is_truncated_threshold[0]` is 5, above `vllm_is_truncated_threshold[1]` = 0.5; accepted: low <= high
{"vllm_is_truncated_threshold": [0, 5]}
    `vllm_is_truncated_threshold[0]` is 0; accepted: a finite number above 0
{"vllm_is_truncated_threshold": [NaN, 5]}
    `vllm_is_truncated_threshold[0]`: expected value at line 1 column 34
{"vllm_is_truncated_threshold": [0.5, Infinity]}
    `vllm_is_truncated_threshold[1]`: expected value at line 1 column 39
{"vllm_is_truncated_threshold": [0.5]}
    `vllm_is_truncated_threshold` is [0.5]; accepted: an array of length 2
{"vllm_is_truncated_threshold": [0.5, 5, 6]}
    `vllm_is_truncated_threshold` is [0.5,5,6]; accepted: an array of length 2
{"clip_eps": 0.2}
    unknown field `clip_eps`; accepted: `clip_eps_low`, `clip_eps_high`, ...
{"policy_loss_type": 1}
    `policy_loss_type` is 1; accepted: a string
{"dual_clip": "3"}
    `dual_clip` is "3"; accepted: a number
{"dual_clip": 3,}
    trailing comma at line 1 column 17
{'dual_clip': 3}
    key must be a string at line 1 column 2
{"dual_clip": 3
    EOF while parsing an object at line 1 column 15
[0.2, 0.2]
    expected JSON text, such as '{"clip_eps_high": 0.28}', and got "[0.2, 0.2]"; to read a file, write --openrlhf "$(cat FILE)"
objective.json
    expected JSON text, such as '{"clip_eps_high": 0.28}', and got "objective.json"; to read a file, write --openrlhf "$(cat FILE)"
"#;

/// The cases of a table: a line of input, and a line of error.
fn cases(table: &'static str) -> Vec<(&'static str, &'static str)> {
    let lines: Vec<_> = table.trim().lines().collect();
    let pairs = lines.chunks(2);
    pairs.map(|pair| (pair[0], pair[1].trim())).collect()
}

/// Asserts that an objective is refused with this very error, below the name of `argument`.
fn refused(batch: &Written, argument: &str, value: &str, error: &str) {
    let place = match argument {
        "--config" => format!("--config {value}"),
        _ => argument.to_owned(),
    };
    let expected = format!("error: {place}: {}", error.trim_end_matches("..."));
    let output = batch.eval(&[argument, value]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let said = said.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    match error.ends_with("...") {
        true => assert!(said.starts_with(&expected), "{said}\n{expected}"),
        false => assert_eq!(said, expected),
    }
}

fn refused_config(batch: &Written, text: &str, error: &str) {
    refused(batch, "--config", &batch.config(text), error);
}

#[test]
fn configurations() {
    let batch = Batch::two_rows().write();
    for (text, error) in cases(CONFIGS) {
        refused_config(&batch, text, error);
    }
    refused_config(&batch, "", "expected a JSON object...");
    refused_config(
        &batch,
        "{\n  \"reduction\": \"token_mean\",\n}",
        "trailing comma at line 3 column 1",
    );
    refused_config(
        &batch,
        "{\"surrogate\": {\"clip\": {\n\"low\":\t1e400 }}}",
        "`surrogate.clip.low`: 1e400 is a number out of range at line 2 column 12...",
    );
}

#[test]
fn arguments_of_openrlhf() {
    let batch = Batch::two_rows().write();
    for (text, error) in cases(OPENRLHF) {
        refused(&batch, "--openrlhf", text, error);
    }
    refused(&batch, "--openrlhf", "", "expected JSON text...");
}

#[test]
fn nothing_is_left_that_a_terminal_obeys() {
    let batch = Batch::two_rows()
        .f32("a\u{1b}[31m\u{7f}", &[1], &[0.0])
        .write();
    for text in [
        r#"{"surr\u001b[31mogate": {}}"#,
        r#"{"surrogate": {"cl\u009bip": {}}}"#,
        r#"{"surrogate": {"clip": {"l\u202eow": 1}}}"#,
        "{\"a\\n\\u001b\": nul}",
    ] {
        let mut command = batch.eval(&["--config", &batch.config(text)]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert_printable(&output.stderr, 1);
    }
    let output = batch.eval(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    // No mask, an ignored tensor, a warning, and what else there is.
    assert_printable(&output.stderr, 4);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(r"ignored in the file: a\u{1b}[31m\u{7f}"),
        "{said}"
    );
}

fn assert_printable(stderr: &[u8], lines: usize) {
    let said = str::from_utf8(stderr).unwrap();
    assert_eq!(said.lines().count(), lines, "{said:?}");
    let is_hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!said.contains(is_hidden), "{said:?}");
}

#[test]
fn marks_in_front_of_the_text() {
    let batch = Batch::two_rows().write();
    let evaluate = |text: &str| batch.evaluate(&["--config", &batch.config(text)]).report;
    let plain = "{\"reduction\": \"token_sum\"}";
    assert_eq!(evaluate(&format!("\u{feff}{plain}")), evaluate(plain));
    let refuses = |text: &[u8], telling: &[&str]| {
        batch.refuses(&["--config", &batch.config(text)], 3, telling);
    };
    refuses(b"\xff\xfe{\0}\0", &["is UTF-16", "UTF-8"]);
    refuses(b"{\xe9}", &["is no text", "UTF-8"]);
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

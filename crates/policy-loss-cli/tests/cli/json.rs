//! Configurations that JSON can say and nobody means, and the errors that name the field.

use crate::support::{Batch, Written};

fn refused(batch: &Written, text: &str, telling: &[&str]) {
    let path = batch.beside("config.json");
    std::fs::write(&path, text).unwrap();
    let mut all = telling.to_vec();
    all.push("error: --config");
    batch.refuses(&["--config", path.to_str().unwrap()], 3, &all);
}

const WITH_A_TYPE: &str = "an object with a `type`: ";

#[test]
fn an_array_is_no_object() {
    let batch = Batch::two_rows().write();
    let weight = |weight: &str| format!(r#"{{"rollout_correction": {{"weight": {weight}}}}}"#);
    let cases: [(&str, &str, &str); 14] = [
        (
            r#"{"surrogate": ["clip"]}"#,
            r#"`surrogate` is ["clip"]"#,
            WITH_A_TYPE,
        ),
        (
            r#"{"surrogate": ["clip", 0.1]}"#,
            "`surrogate` is",
            r#""clip", "cispo""#,
        ),
        (
            r#"{"ratio": []}"#,
            "`ratio` is []",
            "an object of `level`, `against`",
        ),
        (
            r#"{"ratio": ["token", "old"]}"#,
            "`ratio` is",
            "an object of `level`",
        ),
        (
            r#"{"ratio": {"level": ["token"]}}"#,
            "`ratio.level` is",
            r#""token", "sequence""#,
        ),
        (
            r#"{"off_policy_mask": [0.1]}"#,
            "`off_policy_mask` is [0.1]",
            "of `delta`",
        ),
        (
            r#"{"kl_penalty": [0.1]}"#,
            "`kl_penalty` is [0.1]",
            "of `coefficient`",
        ),
        (
            r#"{"reduction": {"fixed_length": [10]}}"#,
            "`reduction.fixed_length` is [10]",
            "an object of `length`",
        ),
        (
            &weight(r#"["token", {"type": "raw"}]"#),
            "`rollout_correction.weight` is",
            "an object of `level`, `mode`",
        ),
        (
            &weight(r#"{"mode": ["truncate", 0.5, 2]}"#),
            r#"`rollout_correction.weight.mode` is ["truncate",0.5,2]"#,
            r#"a `type`: "truncate", "mask", "raw""#,
        ),
        (
            r#"{"rollout_correction": {"filters": [["token", "k1", {"high": 2}]]}}"#,
            "`rollout_correction.filters[0]` is",
            "an object of `level`, `estimator`, `bounds`",
        ),
        (
            r#"{"rollout_correction": {"filters":
                [{"level": "token", "estimator": "k1", "bounds": [0.5, 2]}]}}"#,
            "`rollout_correction.filters[0].bounds` is [0.5,2]",
            "an object of `low`, `high`",
        ),
        (
            r#"{"surrogate": {"type": "clip", "low": [0.2]}}"#,
            "`surrogate.low` is [0.2]",
            "a number",
        ),
        (
            r#"{"rollout_correction": {"filters": {}}}"#,
            "`rollout_correction.filters` is {}",
            "a list",
        ),
    ];
    for (text, what, accepted) in cases {
        refused(&batch, text, &[what, "; accepted: ", accepted]);
    }
}

#[test]
fn a_name_is_no_object() {
    let batch = Batch::two_rows().write();
    for (text, what, accepted) in [
        (
            r#"{"ratio": {"level": {"token": null}}}"#,
            "`ratio.level` is",
            r#"plain "token""#,
        ),
        (
            r#"{"reduction": {"token_mean": null}}"#,
            "`reduction` is",
            r#"plain "token_mean""#,
        ),
        (
            r#"{"reduction": {"token_mean": {}}}"#,
            "`reduction` is",
            r#"plain "token_mean""#,
        ),
        (
            r#"{"surrogate": {"type": "dppo", "divergence": {"kl": null}}}"#,
            r#"`surrogate.divergence` is {"kl":null}"#,
            r#""total_variation", "kl""#,
        ),
        (
            r#"{"surrogate": {"type": 0}}"#,
            "`surrogate.type` is 0",
            r#""clip""#,
        ),
        (
            r#"{"surrogate": {"clip": {}}}"#,
            "`surrogate.type` is missing",
            r#""clip""#,
        ),
    ] {
        refused(&batch, text, &[what, "; accepted: ", accepted]);
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named_by_its_path() {
    let batch = Batch::two_rows().write();
    for (text, what, accepted) in [
        (
            r#"{"ratio": {"level": 0}}"#,
            "`ratio.level` is 0",
            r#""token", "sequence""#,
        ),
        (
            r#"{"reduction": null}"#,
            "`reduction` is null",
            r#""token_mean""#,
        ),
        (
            r#"{"reduction": "fixed_length"}"#,
            r#"`reduction` is "fixed_length""#,
            r#"{"fixed_length": {"length": ...}}"#,
        ),
        (
            r#"{"surrogate": {"low": 0.3, "type": "clip", "high": "0.2"}}"#,
            r#"`surrogate.high` is "0.2""#,
            "a number",
        ),
        (
            r#"{"surrogate": {"type": "clip", "low": null}}"#,
            "`surrogate.low` is null",
            "a number",
        ),
        (
            r#"{"surrogate": {"type": "clip_cov", "seed": 1.5}}"#,
            "`surrogate.seed` is 1.5",
            "an integer, 0 or above",
        ),
        (
            "{\"surrogate\": {\"type\": \"clip\",\n\"high\": 0.3, \"low\": 1e400 }}",
            "`surrogate.low` is 1e400",
            "numbers up to 1.8e308",
        ),
        (
            r#"{"rollout_correction": {"veto": -1e999}}"#,
            "veto` is -1e999",
            "numbers up to",
        ),
        (
            r#"{"kl_penalty": {}}"#,
            "`kl_penalty.coefficient` is missing",
            "a number",
        ),
        (
            r#"{"rollout_correction": {"weight": {}}}"#,
            "`rollout_correction.weight.mode` is missing",
            WITH_A_TYPE,
        ),
        (
            r#"{"kl_penalty": {"coefficient": 0.1, "estimator": "K3"}}"#,
            r#"`kl_penalty.estimator` is "K3""#,
            r#""k1", "k2", "k3", "abs""#,
        ),
        (
            r#"{"kl_penalty": {"coefficient": {"type": "x", "low": 1}}}"#,
            "`kl_penalty.coefficient` is {",
            "a number",
        ),
        (
            r#"{"surrogate": "clip"}"#,
            r#"`surrogate` is "clip""#,
            WITH_A_TYPE,
        ),
        (
            r#"{"rollout_correction": {"filters": [
                {"level": "token", "estimator": "k1", "bounds": {"high": 2}},
                {"level": "token", "estimator": "k1", "bounds": {"high": 3}}]}}"#,
            r#"`rollout_correction.filters`: two filters have the level "token" and the estimator "k1""#,
            "one range for each",
        ),
    ] {
        refused(&batch, text, &[what, "; accepted: ", accepted]);
    }
}

#[test]
fn a_field_that_is_given_twice() {
    let batch = Batch::two_rows().write();
    for (text, field) in [
        (
            r#"{"surrogate": {"type": "clip", "low": 0.1, "low": 0.3}}"#,
            "`surrogate.low`",
        ),
        (
            r#"{"surrogate": {"type": "clip", "type": "cispo"}}"#,
            "`surrogate.type`",
        ),
        (
            r#"{"reduction": "token_sum", "reduction": "token_sum"}"#,
            "`reduction`",
        ),
    ] {
        refused(&batch, text, &[field, "given twice", "line 1 column"]);
    }
}

#[test]
fn nothing_is_left_that_a_terminal_obeys() {
    let batch = Batch::two_rows()
        .f32("a\u{1b}[31m\u{7f}", &[1], &[0.0])
        .write();
    for text in [
        r#"{"surr\u001b[31mogate": {}}"#,
        r#"{"surrogate": {"type": "cl\u009bip"}}"#,
        r#"{"surrogate": {"type": "clip", "l\u202eow": 1}}"#,
        "{\"a\\n\\u001b\": nul}",
    ] {
        let path = batch.beside("config.json");
        std::fs::write(&path, text).unwrap();
        let mut command = batch.eval(&["--config", path.to_str().unwrap()]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert_printable(&output.stderr, 1);
    }
    let output = batch.eval(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    // No mask, and an ignored tensor.
    assert_printable(&output.stderr, 2);
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
    let path = batch.beside("config.json");
    let path_text = path.to_str().unwrap();
    std::fs::write(&path, "\u{feff}{\"reduction\": \"token_sum\"}").unwrap();
    let marked = batch.evaluate(&["--config", path_text]).report;
    std::fs::write(&path, "{\"reduction\": \"token_sum\"}").unwrap();
    assert_eq!(marked, batch.evaluate(&["--config", path_text]).report);
    std::fs::write(&path, b"\xff\xfe{\0}\0").unwrap();
    batch.refuses(&["--config", path_text], 3, &["is UTF-16", "UTF-8"]);
    std::fs::write(&path, b"{\xe9}").unwrap();
    batch.refuses(&["--config", path_text], 3, &["is no text", "UTF-8"]);
}

//! Loss, metrics and gradient of batches small enough to be worked out by hand.

use serde_json::Value;

use crate::support::{Batch, CPU_BACKENDS, close};

struct Case {
    name: &'static str,
    batch: Batch,
    arguments: &'static [&'static str],
    loss: f64,
    clip_ratio: f64,
    ppo_kl: f64,
    gradient: &'static [f64],
}

const THIRD: f64 = 1.0 / 3.0;
const ONES: [f32; 3] = [1.0; 3];
const MINUS_ONES: [f32; 3] = [-1.0; 3];

/// `old - rollout` is 3 at the first token.
fn apart() -> Batch {
    Batch::row(&[0.0; 3], &ONES).f32("rollout_log_probs", &[1, 3], &[-3.0, 0.0, 0.0])
}

/// Each gives its objective, a mask or totals in another way; the library's own tests have the numbers
/// of all the others.
fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "A5: clip-higher",
            batch: Batch::row(&[0.24, 0.26, 0.0], &ONES),
            arguments: &["--preset", "dapo"],
            loss: -1.18375,
            clip_ratio: THIRD,
            ppo_kl: -0.5 / 3.0,
            gradient: &[-0.42375, 0.0, -THIRD],
        },
        Case {
            name: "B1: dual clip",
            batch: Batch::row(&[5f32.ln(), 0.0, 0.0], &MINUS_ONES),
            arguments: &["--openrlhf", r#"{"dual_clip": 3.0}"#],
            loss: 5.0 / 3.0,
            clip_ratio: 0.0,
            ppo_kl: -0.536_479_3,
            gradient: &[0.0, THIRD, THIRD],
        },
        Case {
            name: "F1: a masked row under the sequence mean",
            batch: masked_row(),
            arguments: &["--preset", "grpo"],
            loss: -1.0,
            clip_ratio: 0.0,
            ppo_kl: 0.0,
            gradient: &[-THIRD, -THIRD, -THIRD, 0.0, 0.0, 0.0],
        },
        Case {
            name: "H1: tis cuts the weight to 5",
            batch: apart(),
            arguments: &[
                "--openrlhf",
                r#"{"enable_vllm_is_correction": true, "vllm_is_truncated_threshold": [0.5, 5]}"#,
            ],
            loss: -7.0 / 3.0,
            clip_ratio: 0.0,
            ppo_kl: 0.0,
            gradient: &[-5.0 / 3.0, -THIRD, -THIRD],
        },
        Case {
            name: "I1: global totals",
            batch: Batch::row(&[0.0; 3], &ONES),
            arguments: &["--global-tokens", "10", "--world-size", "4"],
            loss: -1.2,
            clip_ratio: 0.0,
            ppo_kl: 0.0,
            gradient: &[-0.4, -0.4, -0.4],
        },
    ]
}

/// Every prompt weighs the same, in one batch and in parts of it.
#[test]
fn means_over_prompts() {
    let batch = Batch::two_rows().i64("prompt_ids", &[2], &[5, 5]);
    let written = batch.write();
    let config = [
        "--config",
        &written.config(r#"{"reduction": "prompt_mean"}"#),
    ];
    let one = written.evaluate(&config);
    // All tokens answer one prompt.
    let tokens = written.evaluate(&[]);
    let loss = |report: &Value| report["loss"].as_f64().unwrap();
    close(loss(&one.report), loss(&tokens.report), 1e-6, "loss");
    for (got, expected) in one.gradient.values.iter().zip(&tokens.gradient.values) {
        close(*got, *expected, 1e-6, "gradient");
    }

    let [global, of_two] = ["--global-prompts", "2"];
    let part = batch
        .clone()
        .i64("prompt_tokens", &[2, 1], &[12, 12])
        .write();
    let quarter = part.evaluate(&[config[0], config[1], global, of_two]);
    close(loss(&quarter.report), loss(&one.report) / 4.0, 1e-6, "loss");

    let refused: [(Batch, &[&str], &[&str]); 7] = [
        (
            batch.clone().without("prompt_ids"),
            &[],
            &["`prompt_ids` is missing"],
        ),
        (
            batch.clone(),
            &[global, of_two],
            &["`prompt_tokens` is missing", "`totals`"],
        ),
        (
            batch.clone(),
            &["--global-tokens", "6"],
            &["--global-prompts is missing"],
        ),
        (
            batch.clone().i64("prompt_tokens", &[2], &[12, 12]),
            &[],
            &["--global-prompts is missing", "`prompt_tokens`"],
        ),
        (
            batch.clone().i64("prompt_tokens", &[2], &[12, 6]),
            &[global, of_two],
            &["`prompt_tokens` is 12 for sequence 0 and 6 for sequence 1"],
        ),
        (
            batch.clone().i64("prompt_ids", &[3], &[1, 2, 3]),
            &[],
            &["`prompt_ids`", "[3]"],
        ),
        (
            batch.clone().i64("prompt_tokens", &[2], &[3, -1]),
            &[],
            &["`prompt_tokens` holds -1", "0 or above"],
        ),
    ];
    for (batch, arguments, telling) in refused {
        let written = batch.write();
        let all: Vec<&str> = config.iter().chain(arguments).copied().collect();
        written.refuses(&all, 3, telling);
    }
    let floats = batch.f32("prompt_ids", &[2], &[1.0, 2.0]).write();
    floats.refuses(&[], 3, &["`prompt_ids` is F32", "integers"]);
}

/// Segments are told by their ids, any numbers; without ids there is one.
#[test]
fn segments() {
    let batch = Batch::row(&[0.1, 0.3, -0.1, -0.1], &[1.0; 4]);
    let mean = |batch: &Batch| {
        let written = batch.write();
        let config = written.config(r#"{"ratio": {"level": "segment"}}"#);
        let report = written.evaluate(&["--config", &config]);
        report.report["metrics"]["ratio_mean"].as_f64().unwrap()
    };
    let [one, first, second] = [0.05_f64, 0.2, -0.1].map(f64::exp);
    close(mean(&batch), one, 1e-6, "one segment");
    let ids = [i64::MAX, i64::MAX, i64::MIN, i64::MIN];
    let two = batch.clone().i64("segment_ids", &[1, 4], &ids);
    close(mean(&two), (first + second) / 2.0, 1e-6, "two segments");
    // An objective without segments does not read them.
    close(
        batch.write().evaluate(&[]).report["loss"].as_f64().unwrap(),
        two.write().evaluate(&[]).report["loss"].as_f64().unwrap(),
        0.0,
        "loss",
    );
    for (batch, telling) in [
        (
            batch.clone().i64("segment_ids", &[4], &ids),
            ["`segment_ids`", "[4]", "[B, T]"],
        ),
        (
            batch.clone().i64("segment_ids", &[2, 2], &ids),
            ["`segment_ids`", "[2, 2]", "[1, 4]"],
        ),
        (
            batch.clone().f32("segment_ids", &[1, 4], &[0.0; 4]),
            ["`segment_ids` is F32", "[B, T]", "integers"],
        ),
    ] {
        batch.write().refuses(&[], 3, &telling);
    }
}

/// A part of a batch is told the quantile of the whole.
#[test]
fn an_entropy_threshold() {
    let batch = Batch::row(&[0.0; 4], &[1.0; 4]).f32("entropies", &[1, 4], &[0.1, 0.2, 0.3, 0.4]);
    let written = batch.write();
    let path = written.config(r#"{"entropy_mask": {"share": 0.5}}"#);
    let [config, path] = ["--config", &path];
    let [total, eight] = ["--global-tokens", "8"];
    let dropped = |arguments: &[&str]| {
        let all: Vec<&str> = [config, path].iter().chain(arguments).copied().collect();
        let report = written.evaluate(&all).report;
        report["metrics"]["low_entropy_dropped"].as_f64().unwrap()
    };
    assert_eq!(dropped(&[]), 0.5);
    assert_eq!(
        dropped(&[total, eight, "--entropy-threshold", "0.15"]),
        0.25
    );
    let needs = ["--entropy-threshold is missing", "`entropy_mask`"];
    written.refuses(&[config, path, total, eight], 3, &needs);
    let infinite = [config, path, "--entropy-threshold", "inf"];
    written.refuses(
        &infinite,
        3,
        &["--entropy-threshold is inf", "a finite number"],
    );
    let notes = written.evaluate(&["--entropy-threshold", "1"]).notes;
    assert!(
        notes.contains("--entropy-threshold has no effect"),
        "{notes}"
    );
}

/// A part of a batch is told from where on tokens have moved too far.
#[test]
fn a_second_moment_limit() {
    let written = Batch::row(&[0.1, 0.2, 0.5, -0.5], &[1.0; 4]).write();
    let path = written.config(r#"{"surrogate": {"second_moment_mask": {}}}"#);
    let [config, path] = ["--config", &path];
    let [total, eight] = ["--global-tokens", "8"];
    let dropped = |arguments: &[&str]| {
        let all: Vec<&str> = [config, path].iter().chain(arguments).copied().collect();
        let report = written.evaluate(&all).report;
        report["clip_ratio"].as_f64().unwrap()
    };
    assert_eq!(dropped(&[]), 0.25);
    assert_eq!(
        dropped(&[total, eight, "--second-moment-limit", "0.03"]),
        0.5
    );
    assert_eq!(
        dropped(&[total, eight, "--second-moment-limit", "inf"]),
        0.0
    );
    let needs = ["--second-moment-limit is missing", "`surrogate`"];
    written.refuses(&[config, path, total, eight], 3, &needs);
    let unknown = [config, path, "--second-moment-limit", "NaN"];
    written.refuses(&unknown, 3, &["--second-moment-limit is NaN", "0 or above"]);
    let notes = written.evaluate(&["--second-moment-limit", "1"]).notes;
    assert!(
        notes.contains("--second-moment-limit has no effect"),
        "{notes}"
    );
}

/// Two rows, of which the second one is masked, and holds what must not be looked at.
fn masked_row() -> Batch {
    let junk = [0.0, 0.0, 0.0, f32::NAN, f32::INFINITY, -1e30];
    Batch::default()
        .f32("log_probs", &[2, 3], &junk)
        .f32("old_log_probs", &[2, 3], &[0.0; 6])
        .f32("advantages", &[2], &[1.0, f32::NAN])
        .f32("action_mask", &[2, 3], &[1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
}

#[test]
fn every_case_on_every_cpu_backend() {
    for case in cases() {
        let batch = case.batch.write();
        for backend in CPU_BACKENDS {
            let what = format!("{} on {backend}", case.name);
            let mut arguments = case.arguments.to_vec();
            arguments.extend(["--device", backend]);
            let evaluated = batch.evaluate(&arguments);
            let number = |name: &str| evaluated.report[name].as_f64().unwrap();
            close(number("loss"), case.loss, 1e-5, &what);
            close(number("clip_ratio"), case.clip_ratio, 1e-6, &what);
            close(number("ppo_kl"), case.ppo_kl, 1e-6, &what);
            assert_eq!(evaluated.gradient.values.len(), case.gradient.len());
            for (got, expected) in evaluated.gradient.values.iter().zip(case.gradient) {
                close(*got, *expected, 1e-5, &what);
            }
        }
    }
}

#[test]
fn rollout_kl_is_null_without_a_correction() {
    // H5: given, and not used.
    let batch = apart().write();
    let plain = batch.evaluate(&[]).report;
    assert_eq!(plain["rollout_kl"], Value::Null);
    assert_eq!(plain["metrics"]["weight_mean"], Value::Null);
    close(plain["loss"].as_f64().unwrap(), -1.0, 1e-6, "loss");

    let config =
        r#"{"rollout_correction": {"weight": {"mode": {"truncate": {"low": 0.5, "high": 5.0}}}}}"#;
    let config = batch.config(config);
    let report = batch.evaluate(&["--config", &config]).report;
    close(
        report["rollout_kl"].as_f64().unwrap(),
        -1.0,
        1e-6,
        "rollout_kl",
    );
    let weight_mean = report["metrics"]["weight_mean"].as_f64().unwrap();
    close(weight_mean, 7.0 / 3.0, 1e-6, "weight_mean");
}

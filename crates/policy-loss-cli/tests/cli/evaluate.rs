//! Forms of input that must all be read, and what an evaluation prints and writes.

use std::process::{Command as Process, Stdio};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::support::{Batch, CPU_BACKENDS, Written, close, stdout};

/// What the mask of `two_rows` must become, whatever it is written in.
const MASK: [u8; 6] = [1, 1, 0, 0, 1, 0];

fn masked(dtype: Dtype) -> Batch {
    let bytes: Vec<u8> = MASK
        .into_iter()
        .flat_map(|bit| match dtype {
            Dtype::BOOL | Dtype::U8 | Dtype::I8 => vec![bit],
            Dtype::U16 | Dtype::I16 => u16::from(bit).to_le_bytes().to_vec(),
            Dtype::U32 | Dtype::I32 => u32::from(bit).to_le_bytes().to_vec(),
            Dtype::U64 | Dtype::I64 => u64::from(bit).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from(bit).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from(bit).to_le_bytes().to_vec(),
            Dtype::F32 => f32::from(bit).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(bit).to_le_bytes().to_vec(),
            other => panic!("{other} is no mask"),
        })
        .collect();
    Batch::two_rows().raw("action_mask", dtype, &[2, 3], bytes)
}

#[test]
fn a_mask_of_any_type_is_the_same_mask() {
    let expected = masked(Dtype::BOOL).write().evaluate(&[]);
    assert_eq!(expected.report["tokens"], 3);
    assert_eq!(expected.report["sequences"], 2);
    let untouched: Vec<_> = (0..6).filter(|at| MASK[*at] == 0).collect();
    assert!(
        untouched
            .iter()
            .all(|at| expected.gradient.values[*at] == 0.0)
    );
    for dtype in [
        Dtype::U8,
        Dtype::I8,
        Dtype::U16,
        Dtype::I16,
        Dtype::U32,
        Dtype::I32,
        Dtype::U64,
        Dtype::I64,
        Dtype::F16,
        Dtype::BF16,
        Dtype::F32,
        Dtype::F64,
    ] {
        let got = masked(dtype).write().evaluate(&[]);
        assert_eq!(got.report, expected.report, "{dtype}");
        assert_eq!(got.gradient, expected.gradient, "{dtype}");
    }
}

#[test]
fn advantages_of_any_shape_are_broadcast() {
    let expected = Batch::two_rows().write().evaluate(&[]);
    for shape in [&[2][..], &[2, 1]] {
        let batch = Batch::two_rows().f32("advantages", shape, &[1.0, -0.5]);
        let got = batch.write().evaluate(&[]);
        assert_eq!(got.report["loss"], expected.report["loss"], "{shape:?}");
        assert_eq!(got.gradient, expected.gradient, "{shape:?}");
    }
}

#[test]
fn empty_and_fully_masked_batches_are_0() {
    let empty_batch = Batch::default()
        .f32("log_probs", &[0, 5], &[])
        .f32("old_log_probs", &[0, 5], &[])
        .f32("advantages", &[0], &[])
        .f32("action_mask", &[0, 5], &[]);
    let no_tokens = Batch::default()
        .f32("log_probs", &[3, 0], &[])
        .f32("old_log_probs", &[3, 0], &[])
        .f32("advantages", &[3, 1], &[1.0, 2.0, 3.0]);
    let no_tokens_masked = no_tokens.clone().f32("action_mask", &[3, 0], &[]);
    let all_masked = Batch::two_rows().f32("action_mask", &[2, 3], &[0.0; 6]);
    // No element is stored, however large the other dimension claims to be.
    let vast = Batch::default()
        .f32("log_probs", &[0, 1 << 40], &[])
        .f32("old_log_probs", &[0, 1 << 40], &[])
        .f32("advantages", &[0, 1], &[]);
    for batch in [empty_batch, no_tokens, no_tokens_masked, all_masked, vast] {
        let batch = batch.write();
        for backend in backends() {
            for preset in ["grpo", "gspo"] {
                let got = batch.evaluate(&["--device", backend, "--preset", preset]);
                assert_eq!(got.report["loss"], 0.0, "{backend}");
                assert_eq!(got.report["clip_ratio"], 0.0);
                assert_eq!(got.report["tokens"], 0);
                assert_eq!(got.report["sequences"], 0);
                assert!(got.gradient.values.iter().all(|x| *x == 0.0));
            }
        }
    }
}

/// Every backend that this build can run.
fn backends() -> impl Iterator<Item = &'static str> {
    let wgpu = cfg!(feature = "wgpu").then_some("wgpu");
    CPU_BACKENDS.iter().copied().chain(wgpu)
}

#[test]
fn tensors_may_begin_anywhere_in_the_file() {
    let expected = Batch::two_rows().write().evaluate(&[]);
    // A header of any length is valid, and a byte tensor in front moves the others.
    for length in 1..8 {
        let padding = vec![7; length];
        let aligned = Batch::two_rows()
            .raw("a", Dtype::U8, &[length], padding)
            .bytes();
        let (size, rest) = aligned.split_first_chunk::<8>().unwrap();
        let size = u64::from_le_bytes(*size) as usize;
        let mut header: Value = serde_json::from_slice(&rest[..size]).unwrap();
        let data = &rest[size..];
        // The bytes of `a` stand last in an aligned file; move them to the front.
        let (floats, bytes) = data.split_at(data.len() - length);
        for (name, tensor) in header.as_object_mut().unwrap() {
            let [start, end] = [0, 1].map(|at| tensor["data_offsets"][at].as_u64().unwrap());
            tensor["data_offsets"] = match name == "a" {
                true => vec![0, length as u64].into(),
                false => vec![start + length as u64, end + length as u64].into(),
            };
        }
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        for part in [header.as_bytes(), bytes, floats] {
            file.extend(part);
        }
        let got = Written::new(&file).evaluate(&[]);
        assert_eq!(got.report, expected.report);
        assert_eq!(got.gradient, expected.gradient);
    }
}

#[test]
fn other_tensors_are_ignored_with_a_note() {
    let expected = Batch::two_rows().write().evaluate(&[]);
    let batch = Batch::two_rows()
        .i64("tokens", &[2, 3], &[5; 6])
        .raw("packed", Dtype::F8_E4M3, &[2], vec![1, 2])
        .f32("action_masks", &[2, 3], &[0.0; 6]);
    let got = batch.write().evaluate(&[]);
    assert_eq!(got.report, expected.report);
    assert!(got.notes.contains("action_masks, packed"));
    // A misspelt mask would change every number in silence.
    assert!(
        got.notes
            .contains("if `action_masks` is the `action_mask` of the batch, rename it")
    );
    assert!(got.notes.contains("every token counts as valid"));
}

#[test]
fn non_finite_values_reach_the_report() {
    for (value, loss) in [
        (f32::NAN, Value::from("NaN")),
        (f32::INFINITY, Value::from(-3.2f32 / 3.0)),
        (f32::NEG_INFINITY, Value::from(-2.0f32 / 3.0)),
    ] {
        let batch = Batch::row(&[value, 0.0, 0.0], &[1.0; 3]).write();
        let got = batch.evaluate(&[]);
        match loss.as_f64() {
            Some(loss) => close(got.report["loss"].as_f64().unwrap(), loss, 1e-6, "loss"),
            None => assert_eq!(got.report["loss"], loss),
        }
        assert_eq!(got.report["metrics"]["non_finite"], 1.0);
        assert!(got.notes.contains("1 valid token"), "{}", got.notes);
        let text = match value {
            value if value.is_nan() => "NaN",
            value if value > 0.0 => "-Infinity",
            _ => "Infinity",
        };
        assert_eq!(got.report["ppo_kl"], text);
    }
}

#[test]
fn json_is_one_object_with_these_fields() {
    let batch = Batch::two_rows().write();
    let report: Value = serde_json::from_str(&stdout(&mut batch.eval(&["--json"]))).unwrap();
    let mut names: Vec<_> = report.as_object().unwrap().keys().collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "clip_ratio",
            "device",
            "implementation",
            "inspection",
            "loss",
            "metrics",
            "ppo_kl",
            "rollout",
            "rollout_kl",
            "sequences",
            "tokens",
            "warnings"
        ]
    );
    assert_eq!(report["rollout"], Value::Null);
    assert_eq!(report["inspection"], Value::Null);
    let with_rollout = Batch::two_rows()
        .f32(
            "rollout_log_probs",
            &[2, 3],
            &[-0.2, 0.0, 0.1, 0.0, 0.1, 0.0],
        )
        .write()
        .evaluate(&[]);
    assert_eq!(with_rollout.report["rollout"]["kl_k1"], 0.0);
    assert_eq!(with_rollout.report["rollout"]["effective_sample_size"], 1.0);
    let metrics = report["metrics"].as_object().unwrap();
    for headline in ["loss", "clip_ratio", "ppo_kl", "rollout_kl"] {
        assert!(!metrics.contains_key(headline));
    }
    assert_eq!(metrics["weight_mean"], Value::Null);
    assert!(metrics["ratio_max"].is_f64());
    assert!(report["tokens"].is_u64());
    assert_eq!(report["tokens"], 6);
    assert_eq!(report["sequences"], 2);
}

#[test]
fn a_closer_look_is_taken_when_it_is_asked_for() {
    let batch = Batch::two_rows().f32("rollout_log_probs", &[2, 3], &[f32::NAN; 6]);
    let batch = batch.write();
    let seen = batch.evaluate(&["--inspect"]).report;
    let plain = batch.evaluate(&[]).report;
    assert_eq!(seen["metrics"], plain["metrics"]);
    let seen = seen["inspection"].as_object().unwrap();
    assert_eq!(seen["edges"].as_array().unwrap().len(), 34);
    assert_eq!(seen["log_weight"], Value::Null);
    let sum = |counts: &Value| -> u64 {
        let counts = counts.as_array().unwrap();
        counts.iter().map(|count| count.as_u64().unwrap()).sum()
    };
    assert_eq!(sum(&seen["log_ratio"]), 6);
    assert_eq!(sum(&seen["rollout_gap"]), 0);
    // One token is above 1.2 with A = 1, and one below 0.8 with A < 0.
    let clipped = 0.3f64.exp() + 0.5 * (-0.7f64).exp();
    let kept = 0.1f64.exp() + (-0.5f64).exp() + 0.5 * (0.5f64.exp() + 0.05f64.exp());
    let share = |name: &str| seen["gradient"][name].as_f64().unwrap();
    close(
        share("clipped"),
        clipped / (clipped + kept),
        1e-6,
        "clipped",
    );
    close(share("kept"), kept / (clipped + kept), 1e-6, "kept");

    let table = stdout(&mut batch.eval(&["--inspect"]));
    for part in ["log_ratio", "0.2 to 0.5", "-1 to -0.5", "truncated"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
}

#[test]
fn the_implementation_is_chosen_by_name() {
    let batch = Batch::two_rows().write();
    let [auto, composed, fused] = ["auto", "composed", "fused"]
        .map(|name| batch.evaluate(&["--implementation", name]).report);
    assert_eq!(auto, fused);
    assert_eq!(fused["implementation"], "fused");
    assert_eq!(composed["implementation"], "composed");
    let [expected, got] = [&composed, &fused].map(|report| report["loss"].as_f64().unwrap());
    close(got, expected, 1e-6, "loss");
    batch.refuses(
        &["--implementation", "fused", "--preset", "clip_cov"],
        3,
        &[
            "--preset clip_cov",
            "does not cover",
            "accepted for this objective: auto, composed",
        ],
    );
    batch.refuses(&["--implementation", "fast"], 2, &["auto, composed, fused"]);
}

#[test]
fn the_table_says_what_was_computed_and_where() {
    let batch = Batch::two_rows().write();
    let table = stdout(&mut batch.eval(&[]));
    for part in [
        "2 x 3, 6 valid tokens in 2 sequences",
        "ppo (default)",
        r#""low":0.2"#,
        "flex, f32 arithmetic",
        "clip_ratio",
        "ratio_effective_sample_size",
    ] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    assert!(!table.contains('\u{1b}'), "plain text only");
    let named = stdout(&mut batch.eval(&["--preset", "dapo"]));
    assert!(named.contains("--preset dapo"));
    assert!(named.contains(r#""high":0.28"#));
}

#[test]
fn a_gradient_names_its_objective_and_is_written_only_when_asked_for() {
    let batch = Batch::two_rows().write();
    stdout(&mut batch.eval(&["--preset", "dapo"]));
    assert_eq!(
        batch.path().parent().unwrap().read_dir().unwrap().count(),
        1
    );

    let evaluated = batch.evaluate(&["--preset", "dapo"]);
    assert_eq!(evaluated.gradient.shape, [2, 3]);
    let bytes = std::fs::read(batch.beside("gradient.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    // The text of the metadata is a configuration again.
    let again = batch.evaluate(&["--config", &batch.config(&metadata["config"])]);
    assert_eq!(again.report, evaluated.report);
    assert_eq!(again.gradient, evaluated.gradient);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let batch = Batch::two_rows().write();
    for arguments in [
        vec!["eval", batch.path().to_str().unwrap()],
        vec!["presets", "--json"],
        vec!["eval", "--help"],
    ] {
        let mut child = Process::new(env!("CARGO_BIN_EXE_policy-loss"))
            .args(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

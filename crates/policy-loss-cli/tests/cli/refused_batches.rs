//! Batches that cannot be evaluated: each with its exit code, and an error that says what to do.

use safetensors::Dtype;
use tempfile::TempDir;

use crate::support::{Batch, Written, program, refuses};

#[test]
fn tensors_that_are_missing() {
    for name in ["log_probs", "old_log_probs", "advantages"] {
        let batch = Batch::two_rows().without(name).write();
        let what = format!("`{name}` is missing; the file holds ");
        batch.refuses(&[], 3, &[&what, "batch.safetensors"]);
    }
    let misspelt =
        Batch::two_rows()
            .without("old_log_probs")
            .f32("old_logprobs", &[2, 3], &[0.0; 6]);
    let telling = [
        "the file holds advantages, log_probs, old_logprobs",
        "rename `old_logprobs`",
    ];
    misspelt.write().refuses(&[], 3, &telling);
    Batch::default()
        .write()
        .refuses(&[], 3, &["no tensor at all"]);
    let checkpoint = (0..300).fold(Batch::default(), |batch, layer| {
        batch.f32(&format!("model.layers.{layer:03}"), &[1], &[0.0])
    });
    let telling = ["model.layers.015, and 284 more"];
    checkpoint.write().refuses(&[], 3, &telling);
}

#[test]
fn a_rollout_that_is_missing() {
    let batch = Batch::two_rows().write();
    let openrlhf =
        r#"{"enable_vllm_is_correction": true, "vllm_is_truncated_threshold": [0.5, 5]}"#;
    let telling = [
        "`rollout_log_probs` is missing",
        "enable_vllm_is_correction",
        "the file holds",
    ];
    batch.refuses(&["--openrlhf", openrlhf], 3, &telling);

    let config = batch.config(r#"{"ratio": {"against": "rollout"}}"#);
    let telling = [
        "`rollout_log_probs` is missing",
        "`ratio.against = rollout`",
    ];
    batch.refuses(&["--config", &config], 3, &telling);
}

#[test]
fn shapes_that_do_not_fit() {
    for (name, shape, expected) in [
        ("log_probs", &[6][..], "; expected [B, T]"),
        ("log_probs", &[1, 2, 3], "; expected [B, T]"),
        ("log_probs", &[], ""),
        ("old_log_probs", &[3, 2], "; expected [2, 3]"),
        ("advantages", &[3], "; expected [2, 3], [2, 1] or [2]"),
        ("advantages", &[1, 3], "; expected [2, 3], [2, 1] or [2]"),
        ("advantages", &[2, 3, 1], "; expected [B, T], [B, 1] or [B]"),
        ("advantages", &[], ""),
        ("action_mask", &[2, 2], "; expected [2, 3]"),
        ("action_mask", &[6], ""),
        ("rollout_log_probs", &[2, 4], ""),
        ("ref_log_probs", &[4, 3], ""),
    ] {
        let zeros = vec![0.0; shape.iter().product()];
        let batch = Batch::two_rows().f32(name, shape, &zeros).write();
        let telling = format!("`{name}` has shape {shape:?}{expected}");
        batch.refuses(&[], 3, &[&telling]);
    }
}

#[test]
fn types_that_are_no_floats() {
    let floats = "expected a float tensor: F64, F32, F16 or BF16";
    for (name, dtype, size, expected) in [
        ("log_probs", Dtype::I64, 8, floats),
        ("advantages", Dtype::U8, 1, floats),
        ("old_log_probs", Dtype::F8_E4M3, 1, floats),
        (
            "action_mask",
            Dtype::F8_E5M2,
            1,
            "expected BOOL, an integer",
        ),
    ] {
        let batch = Batch::two_rows().raw(name, dtype, &[2, 3], vec![0; 6 * size]);
        let telling = format!("`{name}` is {dtype}; {expected}");
        batch.write().refuses(&[], 3, &[&telling]);
    }
}

#[test]
fn masks_that_are_weights() {
    let mask = |values: [f32; 6]| Batch::two_rows().f32("action_mask", &[2, 3], &values);
    let tenth = mask([1.0, 1.0, 1.0, 1.0, 1.0, 0.1]);
    tenth
        .write()
        .refuses(&[], 3, &["holds 0.1 at [1, 2]", "accepted: 0 and 1"]);
    mask([1.0, f32::NAN, 1.0, 1.0, 1.0, 1.0])
        .write()
        .refuses(&[], 3, &["holds NaN at [0, 1]"]);
    mask([1.0, 1.0, 1.0, -1.0, 1.0, 1.0])
        .write()
        .refuses(&[], 3, &["holds -1 at [1, 0]"]);
    let two = Batch::two_rows().i64("action_mask", &[2, 3], &[0, 1, 0, 1, 2, 1]);
    two.write().refuses(&[], 3, &["holds 2 at [1, 1]"]);
    // No Rust bool may hold this byte.
    let bool = Batch::two_rows().raw(
        "action_mask",
        Dtype::BOOL,
        &[2, 3],
        vec![1, 0, 255, 0, 0, 0],
    );
    bool.write().refuses(&[], 3, &["holds 255 at [0, 2]"]);
    let huge = Batch::two_rows().i64("action_mask", &[2, 3], &[i64::MIN, 1, 1, 1, 1, 1]);
    huge.write()
        .refuses(&[], 3, &["holds -9223372036854775808 at [0, 0]"]);
}

#[test]
fn files_that_are_no_safetensors() {
    let valid = Batch::two_rows().bytes();
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let mut trailing = valid.clone();
    trailing.extend([0; 4]);
    // Sizes that each fit, but whose sum with the header does not.
    let vast: Vec<_> = (0..8)
        .map(|at: u64| {
            let [start, end] = [at, at + 1].map(|at| at.wrapping_mul(1 << 61).wrapping_sub(at / 8));
            let size = end - start;
            format!(r#""t{at}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let vast = format!("{{{}}}", vast.join(","));
    let cases: [(Vec<u8>, &str); 16] = [
        (vec![], "is empty; expected a safetensors file"),
        (vec![1, 2, 3], "holds 3 bytes only"),
        (valid[..20].to_vec(), "announce a header of"),
        (
            valid[..valid.len() - 1].to_vec(),
            "is truncated: its header announces 72 bytes of data, and 71 follow",
        ),
        (trailing, "not a valid safetensors file"),
        (
            b"PK\x03\x04torch.save writes this".to_vec(),
            "is a zip archive, such as torch.save",
        ),
        (vec![0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0], "is a Python pickle"),
        (b"\x93NUMPY\x01\x00v\x00".to_vec(), "is a NumPy file"),
        (b"GGUF\x03\x00\x00\x00\x00\x00".to_vec(), "is a GGUF file"),
        (
            b"just some text, longer than 8 bytes".to_vec(),
            "or no safetensors file",
        ),
        (vec![255; 64], "or no safetensors file"),
        (header("not json", 0), "invalid JSON in header"),
        (header("[1, 2]", 0), "not a valid safetensors file"),
        (
            header(
                r#"{"log_probs": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}"#,
                4,
            ),
            "not a valid safetensors file",
        ),
        (
            header(
                r#"{"log_probs": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 4]}}"#,
                4,
            ),
            "not a valid safetensors file",
        ),
        (header(&vast, 0), "is truncated"),
    ];
    for (bytes, telling) in cases {
        Written::new(&bytes).refuses(&[], 3, &[telling, "batch.safetensors"]);
    }
}

#[test]
fn every_truncation_is_refused() {
    let valid = Batch::row(&[0.1], &[1.0]).bytes();
    for length in (0..valid.len()).step_by(7) {
        Written::new(&valid[..length]).refuses(&[], 3, &["batch.safetensors"]);
    }
}

#[test]
fn paths_that_lead_nowhere() {
    let directory = TempDir::new().unwrap();
    let absent = directory.path().join("absent.safetensors");
    let telling = ["absent.safetensors", "No such file"];
    refuses(program().arg("eval").arg(absent), 3, &telling);
    refuses(
        program().arg("eval").arg(directory.path()),
        3,
        &["is a directory"],
    );
    refuses(program().arg("eval").arg(""), 2, &["BATCH.safetensors"]);
}

#[test]
fn gradients_that_cannot_be_written() {
    let batch = Batch::two_rows().write();
    let absent = batch.beside("absent/gradient.safetensors");
    let arguments = ["--json", "--grad-out", absent.to_str().unwrap()];
    batch.refuses(
        &arguments,
        1,
        &["--grad-out", "absent/gradient.safetensors"],
    );
    let directory = batch.path().parent().unwrap().to_owned();
    batch.refuses(
        &["--grad-out", directory.to_str().unwrap()],
        1,
        &["--grad-out"],
    );

    let before = std::fs::read(batch.path()).unwrap();
    let itself = directory.join(".").join("batch.safetensors");
    let telling = ["would overwrite the batch"];
    batch.refuses(&["--grad-out", itself.to_str().unwrap()], 3, &telling);
    assert_eq!(std::fs::read(batch.path()).unwrap(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_printed() {
    let batch = Batch::two_rows().write();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_policy-loss"))
        .arg("eval")
        .arg(batch.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("cannot write to standard output"),
        "{stderr}"
    );
}

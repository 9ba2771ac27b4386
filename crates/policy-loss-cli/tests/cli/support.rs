//! Batches in temporary files, and the program run on them.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// The CPU backends that this build has.
pub const CPU_BACKENDS: &[&str] = &[
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
];

/// A file that the tests share.
pub fn data(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../../tests/data").join(name)
}

/// The program.
pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_policy-loss"))
}

/// A batch that is being written, tensor by tensor.
#[derive(Clone, Default)]
pub struct Batch {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Batch {
    /// One row of tokens with these log-ratios: `old_log_probs` is 0.
    pub fn row(log_ratios: &[f32], advantages: &[f32]) -> Self {
        let shape = [1, log_ratios.len()];
        Self::default()
            .f32("log_probs", &shape, log_ratios)
            .f32("old_log_probs", &shape, &vec![0.0; log_ratios.len()])
            .f32("advantages", &shape, advantages)
    }

    /// Two valid rows of three tokens, in which every loss and metric is something.
    pub fn two_rows() -> Self {
        Self::default()
            .f32("log_probs", &[2, 3], &[-0.1, 0.3, -0.4, 0.5, -0.6, 0.05])
            .f32("old_log_probs", &[2, 3], &[-0.2, 0.0, 0.1, 0.0, 0.1, 0.0])
            .f32("advantages", &[2, 3], &[1.0, 1.0, 1.0, -0.5, -0.5, -0.5])
    }

    /// Adds or replaces a tensor.
    pub fn raw(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.retain(|(present, ..)| present != name);
        self.tensors
            .push((name.into(), dtype, shape.to_vec(), bytes));
        self
    }

    pub fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.raw(name, Dtype::F32, shape, bytes.collect())
    }

    pub fn f64(self, name: &str, shape: &[usize], values: &[f64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.raw(name, Dtype::F64, shape, bytes.collect())
    }

    pub fn i64(self, name: &str, shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.raw(name, Dtype::I64, shape, bytes.collect())
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(present, ..)| present != name);
        self
    }

    /// The same values in another float type, rounded where it is narrower.
    pub fn cast(self, name: &str, to: Dtype) -> Self {
        let (shape, values) = self.values(name);
        let values = values.into_iter();
        let bytes: Vec<u8> = match to {
            Dtype::F64 => values.flat_map(|x| f64::from(x).to_le_bytes()).collect(),
            Dtype::F16 => values
                .flat_map(|x| f16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::BF16 => values
                .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            other => panic!("{other} is no other float type"),
        };
        self.raw(name, to, &shape, bytes)
    }

    /// The shape and the values of an f32 tensor.
    pub fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.tensors.iter().find(|(present, ..)| present == name);
        let (_, _, shape, bytes) = tensor.unwrap();
        let values = bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes));
        (shape.clone(), values.collect())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        safetensors::serialize(views, None).unwrap()
    }

    pub fn write(&self) -> Written {
        Written::new(&self.bytes())
    }
}

/// A batch in a file of its own, which is removed with this value.
pub struct Written {
    directory: TempDir,
}

/// What an evaluation said.
pub struct Evaluated {
    pub report: Value,
    pub notes: String,
    pub gradient: Gradient,
}

/// A gradient that was written, widened to f64.
#[derive(Debug, PartialEq)]
pub struct Gradient {
    pub values: Vec<f64>,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Written {
    pub fn new(bytes: &[u8]) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("batch.safetensors"), bytes).unwrap();
        Self { directory }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("batch.safetensors")
    }

    /// The path of another file beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `config.json` beside it, and says where that is.
    pub fn config(&self, text: impl AsRef<[u8]>) -> String {
        let path = self.beside("config.json");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `policy-loss eval` on this batch.
    pub fn eval(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("eval").arg(self.path()).args(arguments);
        command
    }

    /// Evaluates with `--json` and `--grad-out`, which must succeed.
    pub fn evaluate(&self, arguments: &[&str]) -> Evaluated {
        evaluate(&self.path(), self.directory.path(), arguments)
    }

    /// Asserts that an evaluation fails with this code, and that it says all of this.
    pub fn refuses(&self, arguments: &[&str], code: i32, telling: &[&str]) {
        refuses(&mut self.eval(arguments), code, telling);
    }
}

/// Evaluates the batch at `batch`, which must succeed, with the gradient in `directory`.
pub fn evaluate(batch: &Path, directory: &Path, arguments: &[&str]) -> Evaluated {
    let grad_out = directory.join("gradient.safetensors");
    let mut command = program();
    command.arg("eval").arg(batch).args(arguments);
    let output = command
        .arg("--json")
        .arg("--grad-out")
        .arg(&grad_out)
        .output()
        .unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {notes}");
    Evaluated {
        report: serde_json::from_slice(&output.stdout).unwrap(),
        notes,
        gradient: read_gradient(&grad_out),
    }
}

fn read_gradient(path: &Path) -> Gradient {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["grad_log_probs"]);
    let view = file.tensor("grad_log_probs").unwrap();
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F64 => widen(data, f64::from_le_bytes),
        Dtype::F32 => widen(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::F16 => widen(data, |bytes| f64::from(f16::from_le_bytes(bytes))),
        Dtype::BF16 => widen(data, |bytes| f64::from(bf16::from_le_bytes(bytes))),
        other => panic!("a gradient in {other}"),
    };
    Gradient {
        values,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
    }
}

fn widen<const SIZE: usize>(bytes: &[u8], read: fn([u8; SIZE]) -> f64) -> Vec<f64> {
    let (values, rest) = bytes.as_chunks::<SIZE>();
    assert!(rest.is_empty());
    values.iter().map(|bytes| read(*bytes)).collect()
}

/// What a command prints, which must succeed.
pub fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{command:?}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that a command fails with this code, with an error that says all of this and no result.
pub fn refuses(command: &mut Command, code: i32, telling: &[&str]) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let what = format!("{command:?}\n{stderr}");
    assert_eq!(output.status.code(), Some(code), "{what}");
    assert!(output.stdout.is_empty(), "{what}");
    assert!(stderr.contains("error: "), "{what}");
    assert!(!stderr.contains("panicked"), "{what}");
    for part in telling {
        assert!(stderr.contains(part), "{part:?} is not said:\n{what}");
    }
}

/// Asserts that two numbers agree to `tolerance`, relative to the greater of 1 and `expected`.
#[track_caller]
pub fn close(got: f64, expected: f64, tolerance: f64, what: &str) {
    let limit = tolerance * expected.abs().max(1.0);
    assert!(
        (got - expected).abs() <= limit,
        "{what} is {got}, expected {expected}"
    );
}

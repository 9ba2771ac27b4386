//! What can be wrong with a model's directory.

use std::path::PathBuf;

use thiserror::Error;

/// Why a model was refused, or could not be written.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The directory, or a file of it.
    #[error("{}: {source}; expected is a directory as Hugging Face lays it out, with config.json, \
             model.safetensors and tokenizer.json", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{}: {problem}", path.display())]
    Format { path: PathBuf, problem: String },
    /// A field of `config.json` whose value this model does not compute.
    #[error("{}: `{field}` is {value}; accepted is {accepted}", path.display())]
    Config {
        path: PathBuf,
        field: &'static str,
        value: String,
        accepted: String,
    },
    /// A tensor that the configuration asks for.
    #[error("{}: the tensor `{name}` is missing; the file holds {holds}", path.display())]
    MissingTensor {
        path: PathBuf,
        name: String,
        holds: String,
    },
    /// A tensor that does not fit the configuration.
    #[error("{}: the tensor `{name}` has shape {got:?}; by config.json it is {expected:?}", path.display())]
    Shape {
        path: PathBuf,
        name: String,
        expected: Vec<usize>,
        got: Vec<usize>,
    },
    /// A tensor of integers, or of a float type that is not read.
    #[error("{}: the tensor `{name}` is {got}; accepted are F32, F16 and BF16", path.display())]
    Dtype {
        path: PathBuf,
        name: String,
        got: String,
    },
    /// Tensors that the model has no place for.
    #[error("{}: the model has no place for {names}; is config.json of another model?", path.display())]
    UnknownTensors { path: PathBuf, names: String },
    /// A tokenizer of another model.
    #[error("{}: {problem}; is it of another model?", path.display())]
    Tokenizer { path: PathBuf, problem: String },
}

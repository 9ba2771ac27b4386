//! What can be wrong with a model's directory.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file of a model was refused, or could not be written.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct ModelError {
    path: PathBuf,
    problem: String,
}

impl ModelError {
    /// What is wrong with the file or directory at `path`.
    pub fn new(path: &Path, problem: impl Display) -> Self {
        let (path, problem) = (path.into(), problem.to_string());
        Self { path, problem }
    }
}

/// Reads a file of a model's directory.
///
/// # Errors
///
/// It cannot be read; then what the directory should be is said as well.
pub fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    fs::read(path).map_err(|error| {
        let problem = format!(
            "{error}; expected is a directory as Hugging Face lays it out, with config.json, \
             model.safetensors and tokenizer.json"
        );
        ModelError::new(path, problem)
    })
}

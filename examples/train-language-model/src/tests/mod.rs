//! Tests on a tiny model with random weights, which they write to a directory as Hugging Face
//! lays it out.

use std::path::PathBuf;

mod check;
mod directory;
mod forward;
mod oracle;
mod program;
mod sampler;
mod tiny;
mod training;

/// Where tests that run in a process of their own, started by another test, find what they need.
const MODEL: &str = "TRAIN_LANGUAGE_MODEL_TEST_MODEL";
const OUT: &str = "TRAIN_LANGUAGE_MODEL_TEST_OUT";

/// The model and the directory of the run.
fn given() -> [PathBuf; 2] {
    [MODEL, OUT].map(|name| std::env::var_os(name).expect("it is given").into())
}

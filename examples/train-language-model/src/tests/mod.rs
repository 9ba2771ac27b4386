//! Tests on a tiny model with random weights, which they write to a directory as Hugging Face
//! lays it out.

mod check;
mod directory;
mod forward;
mod oracle;
mod program;
mod sampler;
mod tiny;
mod training;

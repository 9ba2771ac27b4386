//! Tests on a tiny model with random weights, which they write to a directory as Hugging Face
//! lays it out.

use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::model::Llama;

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

/// The numbers of every parameter, or those of its gradient: none where it is not learned.
fn collect(model: &Llama, gradients: Option<&GradientsParams>) -> Vec<Vec<f32>> {
    struct Collect<'a>(Option<&'a GradientsParams>, Vec<Vec<f32>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = match self.0 {
                Some(gradients) => gradients.get::<D>(param.id),
                None => Some(param.val()),
            };
            let values = tensor.map(|it| it.try_into_vec_as().expect("f32"));
            self.1.push(values.unwrap_or_default());
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    model.visit(&mut collect);
    collect.1
}

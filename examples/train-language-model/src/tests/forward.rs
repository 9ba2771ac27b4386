//! The model against the plain loops.

use burn::module::Module;
use burn::tensor::Device;
use policy_loss::LogProbsConfig;
use safetensors::Dtype;

use super::oracle::next_log_probs;
use super::tiny::Tiny;
use crate::batch::{Sequence, TokenBatch};
use crate::model::Llama;
use crate::weights;

const PROMPTS: [&[u32]; 3] = [&[5, 9, 1, 14, 2], &[2], &[7, 7, 20]];
const ANSWERS: [&[u32]; 3] = [&[3, 2], &[22, 0, 11, 2], &[2]];

fn sequences() -> Vec<Sequence<'static>> {
    let pairs = PROMPTS.iter().zip(&ANSWERS);
    pairs
        .map(|(prompt, answer)| Sequence { prompt, answer })
        .collect()
}

fn trained_log_probs(model: &Llama, device: &Device) -> Vec<Vec<f32>> {
    let batch = TokenBatch::new(&sequences(), device);
    let (hidden, targets) = batch.answers(model);
    let log_probs = LogProbsConfig::new().init().expect("it has a meaning");
    let mask = Some(batch.action_mask());
    let output = log_probs.forward_linear(hidden, &model.head(), targets, mask);
    let values = output.expect("the shapes fit").log_probs;
    let [_, columns] = values.dims();
    let values = values.try_into_vec_as::<f32>().expect("f32");
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}

fn assert_equals_the_loops(tiny: &Tiny, model: &Llama, device: &Device) {
    for (row, sequence) in trained_log_probs(model, device).iter().zip(sequences()) {
        let tokens = [sequence.prompt, sequence.answer].concat();
        let expected = next_log_probs(tiny, &tokens);
        for (at, token) in sequence.answer.iter().enumerate() {
            let expected = expected[sequence.prompt.len() - 1 + at][*token as usize];
            let difference = (f64::from(row[at]) - expected).abs();
            assert!(difference < 2e-5, "{} is not {expected}", row[at]);
        }
    }
}

/// Prompts and answers of different length, so that there is padding on either side, and a token
/// that ends answers within a prompt.
#[test]
fn log_probs_are_those_of_plain_loops() {
    let device = Device::flex();
    for tied in [true, false] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let tiny = Tiny::new(1, tied).with_dtype(dtype);
            let directory = tiny.write();
            let model = weights::load(directory.path(), &device).expect("it is whole");
            assert_equals_the_loops(&tiny, &model, &device);
        }
    }
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let device = Device::flex();
    for tied in [true, false] {
        let tiny = Tiny::new(2, tied);
        let directory = tiny.write();
        let model = weights::load(directory.path(), &device).expect("it is whole");
        let copy = Tiny::new(3, tied).write();
        let path = copy.path().join("model.safetensors");
        // A model that is being trained is saved as well as one that is not.
        weights::save(&model.train(), copy.path()).expect("it is written");
        let bytes = std::fs::read(path).expect("it is there");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("it is whole");
        assert_eq!(file.len(), tiny.tensors.len());
        for (name, tensor) in &tiny.tensors {
            let view = file.tensor(name).expect("it has the name of Hugging Face");
            let (chunks, _) = view.data().as_chunks::<4>();
            let values: Vec<f32> = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
            assert_eq!(
                (view.shape(), values),
                (&tensor.shape[..], tensor.values.clone())
            );
        }
        let again = weights::load(copy.path(), &device).expect("it is whole");
        assert_equals_the_loops(&tiny, &again, &device);
    }
}

#[test]
fn gradients_reach_every_weight() {
    let device = Device::flex();
    let directory = Tiny::new(4, false).write();
    let model = weights::load(directory.path(), &device).expect("it is whole");
    let model = model.train();
    let batch = TokenBatch::new(&sequences(), &device.autodiff());
    let (hidden, targets) = batch.answers(&model);
    let log_probs = LogProbsConfig::new().init().expect("it has a meaning");
    let mask = Some(batch.action_mask());
    let output = log_probs.forward_linear(hidden, &model.head(), targets, mask);
    let loss = output.expect("the shapes fit").log_probs.sum();
    let gradients = burn::optim::GradientsParams::from_grads(loss.backward(), &model);
    let tensors = Tiny::new(4, false).tensors.len();
    assert_eq!(gradients.len(), tensors);
}

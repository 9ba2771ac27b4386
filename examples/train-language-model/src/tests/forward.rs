//! The model against the plain loops.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use policy_loss::LogProbsConfig;
use safetensors::Dtype;

use super::collect;
use super::oracle::next_log_probs;
use super::tiny::Tiny;
use super::training::tensors;
use crate::batch::{Sequence, TokenBatch};
use crate::model::Llama;
use crate::weights;

/// Some prompts stand side by side more than once, with answers that share them.
const PROMPTS: [&[u32]; 6] = [
    &[5, 9, 1, 14, 2],
    &[5, 9, 1, 14, 2],
    &[5, 9, 1, 14, 2],
    &[2],
    &[7, 7, 20],
    &[7, 7, 20],
];
const ANSWERS: [&[u32]; 6] = [&[3, 2], &[8, 8, 8, 2], &[2], &[22, 0, 11, 2], &[2], &[1, 2]];

fn sequences() -> Vec<Sequence<'static>> {
    let pairs = PROMPTS.iter().zip(&ANSWERS);
    pairs
        .map(|(prompt, answer)| Sequence { prompt, answer })
        .collect()
}

fn trained_log_probs(model: &Llama, device: &Device) -> Vec<Vec<f32>> {
    let batch = TokenBatch::new(&sequences(), device);
    let log_probs = LogProbsConfig::new().init().expect("it has a meaning");
    let rows = batch.log_prob_rows(model, &log_probs);
    rows.expect("the shapes fit")
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

/// Prompts and answers of different length, so that there is padding, and a token that ends answers
/// within a prompt.
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
        assert_eq!(tensors(&path), tiny.tensors);
        let again = weights::load(copy.path(), &device).expect("it is whole");
        assert_equals_the_loops(&tiny, &again, &device);
    }
}

/// The gradient of the sum of all log-probs, by the numbers of the parameters.
fn gradients(model: &Llama, sequences: &[Sequence], device: &Device) -> Vec<Vec<f32>> {
    let batch = TokenBatch::new(sequences, &device.clone().autodiff());
    let log_probs = LogProbsConfig::new().init().expect("it has a meaning");
    let log_probs = batch.log_probs(model, &log_probs);
    let loss = log_probs.expect("the shapes fit").sum();
    let gradients = GradientsParams::from_grads(loss.backward(), model);
    collect(model, Some(&gradients))
}

/// So many answers to a prompt that they take several rows.
#[test]
fn answers_in_several_rows_are_those_of_one() {
    const COPIES: usize = 300;
    let device = Device::flex();
    let tiny = Tiny::new(6, false);
    let model = weights::load(tiny.write().path(), &device).expect("it is whole");
    let log_probs = LogProbsConfig::new().init().expect("it has a meaning");
    let of = |sequences: &[Sequence]| {
        let rows = TokenBatch::new(sequences, &device).log_prob_rows(&model, &log_probs);
        rows.expect("the shapes fit")
    };
    let sequence = sequences()[1];
    let one = of(&[sequence]);
    let many = of(&[sequence; COPIES]);
    assert_eq!(many.len(), COPIES);
    for row in &many {
        for (a, b) in row.iter().zip(&one[0]) {
            assert!((a - b).abs() < 2e-5, "{a} is not {b}");
        }
    }
}

/// Every weight has one, and sharing a prompt changes none.
#[test]
fn gradients_are_those_of_separate_sequences() {
    let device = Device::flex();
    let tiny = Tiny::new(4, false);
    let model = weights::load(tiny.write().path(), &device).expect("it is whole");
    let model = model.train();
    let together = gradients(&model, &sequences(), &device);
    assert_eq!(together.len(), tiny.tensors.len());
    let mut apart: Vec<Vec<f32>> = together.iter().map(|one| vec![0.0; one.len()]).collect();
    for sequence in sequences() {
        for (sum, part) in apart
            .iter_mut()
            .zip(gradients(&model, &[sequence], &device))
        {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
    }
    for (together, apart) in together.iter().zip(&apart) {
        let size = apart
            .iter()
            .fold(0.0_f32, |size, value| size.max(value.abs()));
        assert!(size > 1e-3, "it is reached");
        for (a, b) in together.iter().zip(apart) {
            assert!((a - b).abs() < 1e-5 * size.max(1.0), "{a} is not {b}");
        }
    }
}

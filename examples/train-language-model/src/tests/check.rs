//! The comparison with another implementation, and the rollouts that it refuses.

use std::collections::HashMap;
use std::fs;

use burn::module::Module;
use burn::tensor::Device;
use policy_loss::LogProbsConfig;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::NamedTempFile;

use super::tiny::Tiny;
use super::training::{begin, guesser, settings, steps};
use crate::batch::{Sequence, TokenBatch};
use crate::check::check;
use crate::checkpoint;
use crate::model::Llama;
use crate::weights;

const PROMPT: [u32; 3] = [1, 2, 3];

/// One row: tokens, and where they are valid.
struct Rollout {
    tokens: Vec<i32>,
    mask: Vec<f32>,
    log_probs: Vec<f32>,
}

impl Rollout {
    fn write(&self) -> NamedTempFile {
        let bytes = |values: &[f32]| bytes_of(values, f32::to_le_bytes);
        let shape = vec![1, self.tokens.len()];
        let columns = [
            (
                "tokens",
                Dtype::I32,
                shape.clone(),
                bytes_of(&self.tokens, i32::to_le_bytes),
            ),
            ("action_mask", Dtype::F32, shape.clone(), bytes(&self.mask)),
            ("ref_log_probs", Dtype::F32, shape, bytes(&self.log_probs)),
            ("group_id", Dtype::I32, vec![1], vec![0; 4]),
        ];
        let views = columns.iter().map(|(name, dtype, shape, bytes)| {
            (
                *name,
                TensorView::new(*dtype, shape.clone(), bytes).expect("it fits"),
            )
        });
        let prompts = format!("{:?}", [PROMPT]);
        let metadata = HashMap::from([("prompt_token_ids".to_string(), prompts)]);
        let file = NamedTempFile::new().expect("a file");
        safetensors::serialize_to_file(views, Some(metadata), file.path()).expect("it is written");
        file
    }
}

fn bytes_of<T: Copy>(values: &[T], bytes: fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}

/// An answer of three tokens, with the log-probs that the model gives them, and padding.
fn rollout_of(model: &Llama, device: &Device) -> Rollout {
    let answer = [4, 5, 6];
    let sequence = Sequence {
        prompt: &PROMPT,
        answer: &answer,
    };
    let batch = TokenBatch::new(&[sequence], device);
    let log_probs = LogProbsConfig::new().init().expect("it is valid");
    let rows = batch.log_prob_rows(model, &log_probs);
    let mut log_probs = rows.expect("it is computed").remove(0);
    log_probs.push(f32::NAN);
    Rollout {
        tokens: vec![4, 5, 6, -1],
        mask: vec![1.0, 1.0, 1.0, 0.0],
        log_probs,
    }
}

#[test]
fn adapters_are_compared_with_their_base() {
    let device = Device::flex();
    let base = guesser();
    let out = tempfile::tempdir().expect("a directory");
    let mut trainer = begin(base.path(), &settings("--lora 2"));
    steps(&mut trainer, 3);
    let saved = checkpoint::save(&trainer, base.path(), out.path()).expect("it is written");
    let rollout = rollout_of(&trainer.model.valid().materialize(), &device).write();
    let compared = |adapters| {
        check(base.path(), adapters, rollout.path(), &device).map_err(|it| it.to_string())
    };
    compared(Some(saved.as_path())).expect("they are the same");
    let error = compared(None).expect_err("the base is another model");
    assert!(error.contains("the largest difference"), "{error}");

    let path = saved.join("adapter_config.json");
    let config = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, config.replace("\"r\": 2", "\"r\": 3")).expect("it is written");
    let error = compared(Some(saved.as_path())).expect_err("another scale");
    assert!(error.contains("`r` is 3 and `lora_alpha` is 4"), "{error}");
}

#[test]
fn a_rollout_is_compared_or_refused_by_name() {
    let device = Device::flex();
    let directory = Tiny::new(3, true).write();
    let model = weights::load(directory.path(), &device).expect("it is whole");
    let rollout = || rollout_of(&model, &device);
    let compared = |rollout: &Rollout| {
        check(directory.path(), None, rollout.write().path(), &device).map_err(|it| it.to_string())
    };
    compared(&rollout()).expect("the model is the same");

    let refused = |change: fn(&mut Rollout), said: &str| {
        let mut rollout = rollout();
        change(&mut rollout);
        let error = compared(&rollout).expect_err("refused");
        assert!(error.contains(said), "{error}");
    };
    refused(|it| it.log_probs[1] += 0.01, "the largest difference");
    refused(|it| it.log_probs[1] = f32::NAN, "the largest difference");
    refused(|it| it.mask[1] = 0.0, "not one run of tokens");
    refused(|it| it.mask = vec![0.0; 4], "not one run of tokens");
    refused(
        |it| it.tokens[2] = 23,
        "row 0 has the token 23; accepted: 0 to 22",
    );
    refused(|it| it.tokens[2] = -1, "accepted: 0 to 22");
    let long = |it: &mut Rollout| {
        it.tokens = vec![4; 100];
        it.mask = vec![1.0; 100];
        it.log_probs = vec![0.0; 100];
    };
    refused(long, "a context of");
}

//! The comparison with another implementation, and the rollouts that it refuses.

use std::collections::HashMap;

use burn::tensor::Device;
use policy_loss::LogProbsConfig;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::NamedTempFile;

use super::tiny::Tiny;
use crate::batch::{Sequence, TokenBatch};
use crate::check::check;
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

#[test]
fn a_rollout_is_compared_or_refused_by_name() {
    let device = Device::flex();
    let directory = Tiny::new(3, true).write();
    let model = weights::load(directory.path(), &device).expect("it is whole");
    let answer = [4, 5, 6];
    let sequence = Sequence {
        prompt: &PROMPT,
        answer: &answer,
    };
    let batch = TokenBatch::new(&[sequence], &device);
    let (hidden, targets) = batch.answers(&model);
    let log_probs = LogProbsConfig::new().init().expect("it is valid");
    let output = log_probs.forward_linear(hidden, &model.head(), targets);
    let output = output.expect("it is computed").log_probs;
    let mut log_probs = output.try_into_vec_as::<f32>().expect("f32");
    log_probs.push(f32::NAN);
    let rollout = || Rollout {
        tokens: vec![4, 5, 6, -1],
        mask: vec![1.0, 1.0, 1.0, 0.0],
        log_probs: log_probs.clone(),
    };
    let compared = |rollout: &Rollout| {
        check(directory.path(), rollout.write().path(), &device).map_err(|it| it.to_string())
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

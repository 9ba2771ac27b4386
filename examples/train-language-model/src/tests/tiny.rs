//! A tiny model, as numbers and as a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tokens that the model knows.
pub const VOCABULARY: usize = 23;
pub const LAYERS: usize = 2;
pub const HEADS: usize = 4;
pub const SHARED: usize = 2;
pub const HEAD_SIZE: usize = 6;
pub const HIDDEN: usize = 20;
pub const FEED_FORWARD: usize = 28;
pub const EPSILON: f64 = 1e-5;
pub const THETA: f64 = 1e4;
/// Ends an answer.
pub const END: u32 = 2;

/// A tensor as the file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The files of a model, to be changed before they are written.
pub struct Tiny {
    pub config: Value,
    pub tensors: BTreeMap<String, HostTensor>,
    pub tokenizer: Value,
    pub dtype: Dtype,
}

impl Tiny {
    /// A model with random weights; with a head of its own, if it is not tied.
    pub fn new(seed: u64, tied: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = BTreeMap::new();
        let mut put = |name: String, shape: &[usize], center: f32, width: f32| {
            let count = shape.iter().product();
            let values = (0..count).map(|_| center + width * rng.random_range(-1.0..1.0_f32));
            let values = values.collect();
            let shape = shape.to_vec();
            tensors.insert(name, HostTensor { shape, values });
        };
        put(
            "model.embed_tokens.weight".into(),
            &[VOCABULARY, HIDDEN],
            0.0,
            1.0,
        );
        put("model.norm.weight".into(), &[HIDDEN], 1.0, 0.5);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let (queries, keys) = (HEADS * HEAD_SIZE, SHARED * HEAD_SIZE);
            put(name("input_layernorm"), &[HIDDEN], 1.0, 0.5);
            put(name("post_attention_layernorm"), &[HIDDEN], 1.0, 0.5);
            put(name("self_attn.q_proj"), &[queries, HIDDEN], 0.0, 0.6);
            put(name("self_attn.k_proj"), &[keys, HIDDEN], 0.0, 0.6);
            put(name("self_attn.v_proj"), &[keys, HIDDEN], 0.0, 0.6);
            put(name("self_attn.o_proj"), &[HIDDEN, queries], 0.0, 0.6);
            put(name("mlp.gate_proj"), &[FEED_FORWARD, HIDDEN], 0.0, 0.4);
            put(name("mlp.up_proj"), &[FEED_FORWARD, HIDDEN], 0.0, 0.4);
            put(name("mlp.down_proj"), &[HIDDEN, FEED_FORWARD], 0.0, 0.4);
        }
        if !tied {
            put("lm_head.weight".into(), &[VOCABULARY, HIDDEN], 0.0, 0.8);
        }
        let vocabulary: serde_json::Map<_, _> = (0..VOCABULARY)
            .map(|id| (format!("t{id}"), json!(id)))
            .collect();
        Self {
            config: json!({
                "model_type": "llama",
                "hidden_act": "silu",
                "hidden_size": HIDDEN,
                "intermediate_size": FEED_FORWARD,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS,
                "num_key_value_heads": SHARED,
                "head_dim": HEAD_SIZE,
                "max_position_embeddings": 64,
                "rms_norm_eps": EPSILON,
                "rope_theta": THETA,
                "rope_scaling": null,
                "attention_bias": false,
                "vocab_size": VOCABULARY,
                "tie_word_embeddings": tied,
                "eos_token_id": END,
            }),
            tensors,
            tokenizer: json!({
                "version": "1.0",
                "truncation": null,
                "padding": null,
                "added_tokens": [],
                "normalizer": null,
                "pre_tokenizer": { "type": "WhitespaceSplit" },
                "post_processor": null,
                "decoder": null,
                "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "t0" },
            }),
            dtype: Dtype::F32,
        }
    }

    /// Rounds the weights as the type of the file does.
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        for tensor in self.tensors.values_mut() {
            for value in &mut tensor.values {
                *value = match dtype {
                    Dtype::F16 => f16::from_f32(*value).to_f32(),
                    Dtype::BF16 => bf16::from_f32(*value).to_f32(),
                    _ => *value,
                };
            }
        }
        self
    }

    /// Writes the three files.
    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        self.write_to(directory.path());
        directory
    }

    fn write_to(&self, directory: &Path) {
        let write = |name: &str, value: &Value| {
            fs::write(directory.join(name), value.to_string()).expect("it is written");
        };
        write("config.json", &self.config);
        write("tokenizer.json", &self.tokenizer);
        let bytes: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name, &tensor.shape, self.bytes(&tensor.values)))
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(self.dtype, shape.to_vec(), bytes);
            (name, view.expect("the bytes fit the shape"))
        });
        let path = directory.join("model.safetensors");
        safetensors::serialize_to_file(views, None, &path).expect("it is written");
    }

    fn bytes(&self, values: &[f32]) -> Vec<u8> {
        let values = values.iter().copied();
        match self.dtype {
            Dtype::F16 => values
                .flat_map(|x| f16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::BF16 => values
                .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Dtype::I32 => values.flat_map(|x| (x as i32).to_le_bytes()).collect(),
            other => panic!("{other} is not written"),
        }
    }
}

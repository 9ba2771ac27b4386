//! `config.json` of a model of the Llama architecture.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{ModelError, read};

/// The numbers of a model; the names of the fields are those of the file.
#[derive(Debug, Clone, Deserialize)]
pub struct LlamaConfig {
    /// Numbers in a hidden state.
    pub hidden_size: usize,
    /// Numbers between the two halves of the feed-forward network.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of the keys and values, each shared by several heads of queries; as many as those when
    /// left out.
    num_key_value_heads: Option<usize>,
    /// Numbers in a head; `hidden_size / num_attention_heads` when left out.
    head_dim: Option<usize>,
    /// Positions that the model was trained with: the longest sequence.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    /// Written here, or in `rope_parameters`; 10,000 when left out.
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    pub vocab_size: usize,
    /// Whether the embedding is the head as well.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    eos_token_id: EndOfSequence,
}

/// How positions are rotated, as newer versions of Hugging Face write it.
#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    #[serde(default = "ordinary")]
    rope_type: String,
    rope_theta: Option<f64>,
}

fn ordinary() -> String {
    ORDINARY.into()
}

/// The rotation that is not scaled.
const ORDINARY: &str = "default";

/// The token that ends an answer, or several of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum EndOfSequence {
    One(u32),
    Several(Vec<u32>),
}

/// What the file may say of parts that this model does not have.
const ONLY: [(&str, Value, &str); 4] = [
    ("attention_bias", Value::Bool(false), "false"),
    ("mlp_bias", Value::Bool(false), "false"),
    ("rope_scaling", Value::Null, "null"),
    ("quantization_config", Value::Null, "null"),
];

impl LlamaConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    ///
    /// The file is missing or damaged, a field is missing, or one says something that is not
    /// computed here.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bad = |error: serde_json::Error| ModelError::new(path, error);
        let fields: Value = serde_json::from_slice(&read(path)?).map_err(bad)?;
        let refused = |field, value: String, accepted: String| {
            let problem = format!("`{field}` is {value}; accepted is {accepted}");
            ModelError::new(path, problem)
        };
        for (field, word) in [("model_type", "llama"), ("hidden_act", "silu")] {
            let value = &fields[field];
            if value != word {
                return Err(refused(field, value.to_string(), format!("\"{word}\"")));
            }
        }
        for (field, only, accepted) in ONLY {
            let value = &fields[field];
            if !value.is_null() && *value != only {
                return Err(refused(field, value.to_string(), accepted.into()));
            }
        }
        let config: Self = serde_json::from_value(fields).map_err(bad)?;
        config.check(&refused)?;
        Ok(config)
    }

    fn check(
        &self,
        refused: &dyn Fn(&'static str, String, String) -> ModelError,
    ) -> Result<(), ModelError> {
        for (field, value) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_value_heads()),
            ("max_position_embeddings", self.max_position_embeddings),
            ("vocab_size", self.vocab_size),
        ] {
            if value == 0 {
                return Err(refused(field, "0".into(), "an integer above 0".into()));
            }
        }
        for (field, value) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta()),
        ] {
            if !(value.is_finite() && value > 0.0) {
                let accepted = "a finite number above 0";
                return Err(refused(field, value.to_string(), accepted.into()));
            }
        }
        let heads = self.num_attention_heads;
        if !heads.is_multiple_of(self.key_value_heads()) {
            return Err(refused(
                "num_key_value_heads",
                self.key_value_heads().to_string(),
                format!("a divisor of `num_attention_heads`, {heads}"),
            ));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            return Err(refused(
                "hidden_size",
                self.hidden_size.to_string(),
                format!("a multiple of `num_attention_heads`, {heads}"),
            ));
        }
        let size = self.head_size();
        if size == 0 || !size.is_multiple_of(2) {
            let accepted = "an even number, since numbers are rotated in pairs";
            return Err(refused("head_dim", size.to_string(), accepted.into()));
        }
        if let Some(rope) = &self.rope_parameters
            && rope.rope_type != ORDINARY
        {
            let accepted = format!("\"{ORDINARY}\"");
            let value = format!("\"{}\"", rope.rope_type);
            return Err(refused("rope_parameters.rope_type", value, accepted));
        }
        if self.end_tokens().is_empty() {
            let accepted = "a token, or a list of one or more";
            return Err(refused("eos_token_id", "[]".into(), accepted.into()));
        }
        for id in self.end_tokens() {
            if *id as usize >= self.vocab_size {
                return Err(refused(
                    "eos_token_id",
                    id.to_string(),
                    format!("below `vocab_size`, {}", self.vocab_size),
                ));
            }
        }
        Ok(())
    }

    /// Heads of the keys, and of the values.
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// What the angles of the rotation are powers of.
    pub fn rope_theta(&self) -> f64 {
        let newer = self.rope_parameters.as_ref();
        newer
            .and_then(|rope| rope.rope_theta)
            .or(self.rope_theta)
            .unwrap_or(10_000.0)
    }

    /// Numbers in a head.
    pub fn head_size(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Lets another token end an answer, too.
    pub fn add_end_token(&mut self, id: u32) {
        if !self.end_tokens().contains(&id) {
            let ids = self.end_tokens().iter().copied().chain([id]);
            self.eos_token_id = EndOfSequence::Several(ids.collect());
        }
    }

    /// The tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        match &self.eos_token_id {
            EndOfSequence::One(id) => std::slice::from_ref(id),
            EndOfSequence::Several(ids) => ids,
        }
    }
}

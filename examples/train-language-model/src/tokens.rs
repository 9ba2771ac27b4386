//! `tokenizer.json`: text to tokens and back.

use std::path::{Path, PathBuf};

use crate::config::LlamaConfig;
use crate::error::ModelError;

/// The tokenizer of a model.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads the tokenizer in `directory`.
    ///
    /// # Errors
    ///
    /// The file is missing or damaged, or it has tokens that the model does not know.
    pub fn load(directory: &Path, config: &LlamaConfig) -> Result<Self, ModelError> {
        let path = directory.join("tokenizer.json");
        let text = std::fs::read_to_string(&path).map_err(|source| ModelError::File {
            path: path.clone(),
            source,
        })?;
        let inner: tokenizers::Tokenizer =
            text.parse()
                .map_err(|error: tokenizers::Error| ModelError::Format {
                    path: path.clone(),
                    problem: format!("not a tokenizer: {error}"),
                })?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let bad = |problem| ModelError::Tokenizer {
            path: path.clone(),
            problem,
        };
        if largest as usize >= config.vocab_size {
            return Err(bad(format!(
                "its largest token is {largest}, but by config.json the model has {} tokens, \
                 the first of them 0",
                config.vocab_size
            )));
        }
        if let Some(id) = config
            .end_tokens()
            .iter()
            .find(|id| inner.id_to_token(**id).is_none())
        {
            return Err(bad(format!(
                "it has no token {id}, which ends an answer by `eos_token_id` of config.json"
            )));
        }
        Ok(Self { path, inner })
    }

    /// The tokens of `text`, in which special tokens stand by their names.
    ///
    /// # Errors
    ///
    /// The tokenizer has no tokens for it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode(text, false);
        Ok(encoding
            .map_err(|error| self.bad(error))?
            .get_ids()
            .to_vec())
    }

    /// The text of `tokens`, without special ones.
    ///
    /// # Errors
    ///
    /// The tokenizer cannot decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.inner
            .decode(tokens, true)
            .map_err(|error| self.bad(error))
    }

    fn bad(&self, error: tokenizers::Error) -> ModelError {
        ModelError::Tokenizer {
            path: self.path.clone(),
            problem: error.to_string(),
        }
    }
}

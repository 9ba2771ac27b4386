//! `tokenizer.json`: text to tokens and back.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::config::LlamaConfig;
use crate::error::{ModelError, read};

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
        let mut inner = tokenizers::Tokenizer::from_bytes(read(&path)?)
            .map_err(|error| ModelError::new(&path, format!("not a tokenizer: {error}")))?;
        // The file keeps what was last set where it was saved; a prompt is taken as it is.
        inner.with_padding(None);
        let whole = inner.with_truncation(None);
        whole.map_err(|error| ModelError::new(&path, error))?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let bad = |problem: String| Err(of_another_model(&path, problem));
        if largest as usize >= config.vocab_size {
            return bad(format!(
                "its largest token is {largest}, but by config.json the model has {} tokens, \
                 the first of them 0",
                config.vocab_size
            ));
        }
        if let Some(id) = config
            .end_tokens()
            .iter()
            .find(|id| inner.id_to_token(**id).is_none())
        {
            return bad(format!(
                "it has no token {id}, which ends an answer by `eos_token_id` of config.json"
            ));
        }
        Ok(Self { path, inner })
    }

    /// The token with this name, if there is one.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
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
        of_another_model(&self.path, error)
    }
}

fn of_another_model(path: &Path, problem: impl Display) -> ModelError {
    ModelError::new(path, format!("{problem}; is it of another model?"))
}

//! How log-probs are computed, as a value.

use burn::config::Config;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, Implementation};
use policy_loss_kernels::objective::check::positive;

/// Configuration of [`TokenLogProbs`].
///
/// ```
/// use policy_loss::{Entropy, LogProbsConfig};
///
/// let log_probs = LogProbsConfig::new()
///     .with_temperature(0.7)
///     .with_entropy(Entropy::Metric)
///     .init()?;
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
///
/// As JSON, fields that are left out take their default, and unknown ones are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogProbsConfig {
    /// What logits are divided by; that of the sampler, so that ratios mean something.
    pub temperature: f64,
    /// Whether the entropies of the next token are computed, too.
    pub entropy: Entropy,
    /// Bytes that the logits of a chunk of tokens may take, where the library holds them. On Flex
    /// and NdArray nothing else of that size is held; elsewhere the softmax needs about four times
    /// as much. It does not bound the results, the gradients, or the logits that you give.
    pub memory_budget: usize,
    /// Tokens in a chunk; replaces what follows from the memory budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<usize>,
    /// Whether targets outside of the vocabulary are an error. Finding them reads the targets
    /// back, which a GPU has to wait for; without it such a target at a valid token makes its
    /// log-prob, and gradients that come from there, NaN.
    pub check_targets: bool,
    /// How it is computed; the results agree. `fused` is a chunk at a time. `composed` is plain
    /// tensor operations, which hold all logits; there, logits that are not finite make their
    /// gradient NaN even where none reaches their token.
    pub implementation: Implementation,
}

/// What is wanted of the entropy of the next token, `-sum_v p(v) log p(v)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entropy {
    /// Nothing.
    #[default]
    None,
    /// Its value, without a gradient.
    Metric,
    /// Its value, tracked, for an entropy bonus.
    Tracked,
}

/// 128 MiB: 667 tokens of a vocabulary of 50,000, or 222 of 150,000.
const MEMORY_BUDGET: usize = 128 << 20;

impl Default for LogProbsConfig {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            entropy: Entropy::None,
            memory_budget: MEMORY_BUDGET,
            chunk_tokens: None,
            check_targets: false,
            implementation: Implementation::Auto,
        }
    }
}

impl Config for LogProbsConfig {}

impl LogProbsConfig {
    /// Temperature 1, no entropies, a memory budget of 128 MiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what logits are divided by.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// Sets what is wanted of the entropies.
    pub fn with_entropy(mut self, entropy: Entropy) -> Self {
        self.entropy = entropy;
        self
    }

    /// Sets the bytes that the logits of a chunk may take.
    pub fn with_memory_budget(mut self, bytes: usize) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Sets the number of tokens in a chunk, whatever the memory budget.
    pub fn with_chunk_tokens(mut self, tokens: impl Into<Option<usize>>) -> Self {
        self.chunk_tokens = tokens.into();
        self
    }

    /// Sets whether targets outside of the vocabulary are an error.
    pub fn with_check_targets(mut self, check_targets: bool) -> Self {
        self.check_targets = check_targets;
        self
    }

    /// Sets how the log-probs are computed.
    pub fn with_implementation(mut self, implementation: Implementation) -> Self {
        self.implementation = implementation;
        self
    }

    /// Checks the configuration and builds what computes.
    ///
    /// # Errors
    ///
    /// A temperature that is not finite or not above 0, or a memory budget or chunk of 0.
    pub fn init(&self) -> Result<TokenLogProbs, ConfigError> {
        positive("temperature", self.temperature)?;
        positive("1 / temperature", self.temperature.recip())?;
        not_zero("memory_budget", self.memory_budget)?;
        if let Some(tokens) = self.chunk_tokens {
            not_zero("chunk_tokens", tokens)?;
        }
        Ok(TokenLogProbs { config: *self })
    }
}

fn not_zero(field: &'static str, value: usize) -> Result<(), ConfigError> {
    if value > 0 {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        accepted: "an integer above 0",
    })
}

/// Log-probs, and entropies, of the tokens that a policy took.
///
/// With `z = logits / temperature`,
///
/// ```text
/// log_prob = z[target] - log(sum_v exp(z_v))
/// entropy  = -sum_v p_v log(p_v),   p = softmax(z)
/// ```
///
/// [`forward`](Self::forward) takes logits; [`forward_linear`](Self::forward_linear) takes hidden
/// states and a head, and never holds the logits of more than a chunk of tokens;
/// [`PolicyLoss::forward_linear`](crate::PolicyLoss::forward_linear) goes all the way to the loss.
///
/// It is a [`Module`] without parameters, so that it can sit inside a model.
#[derive(Module, Debug)]
pub struct TokenLogProbs {
    #[module(skip)]
    pub(super) config: LogProbsConfig,
}

impl TokenLogProbs {
    /// The configuration that this was built from.
    pub fn config(&self) -> &LogProbsConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::{Entropy, LogProbsConfig};

    #[test]
    fn json_is_read_back() {
        let config = LogProbsConfig::new()
            .with_temperature(0.7)
            .with_entropy(Entropy::Tracked)
            .with_chunk_tokens(64);
        let json = serde_json::to_string(&config).expect("it has a form");
        assert_eq!(
            serde_json::from_str::<LogProbsConfig>(&json).ok(),
            Some(config)
        );
        let empty: LogProbsConfig = serde_json::from_str("{}").expect("all defaults");
        assert_eq!(empty, LogProbsConfig::new());
        let unknown = serde_json::from_str::<LogProbsConfig>(r#"{"temprature": 1.0}"#);
        assert!(unknown.is_err_and(|error| error.to_string().contains("temprature")));
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        let config = LogProbsConfig::new();
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY, 5e-324] {
            let error = config
                .with_temperature(temperature)
                .init()
                .expect_err("refused");
            assert!(error.to_string().contains("temperature"), "{error}");
        }
        let error = config.with_memory_budget(0).init().expect_err("refused");
        assert!(
            error.to_string().contains("`memory_budget` is 0"),
            "{error}"
        );
        let error = config.with_chunk_tokens(0).init().expect_err("refused");
        assert!(error.to_string().contains("`chunk_tokens` is 0"), "{error}");
    }
}

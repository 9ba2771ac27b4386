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
    /// What logits are divided by; that of the sampler, so that ratios mean something. One for each
    /// token comes with [`LogProbsTokens::with_temperatures`](crate::LogProbsTokens::with_temperatures).
    pub temperature: f64,
    /// Where logits are bounded before that: `cap * tanh(logits / cap)`, as Gemma does with 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// Whether the entropies of the next token are computed, too.
    pub entropy: Entropy,
    /// Whether the sums of its squared probabilities are, `sum_v p(v)^2`: what the variance of a
    /// policy gradient at a token is made of, and with it a baseline that is optimal for each token.
    /// They are tracked. A sum is the probability that two draws agree, from 1 down to
    /// `1 / vocabulary`.
    pub sum_of_squares: bool,
    /// Bytes that logits and their gradient may take at once, where the library holds them;
    /// without it 128 MiB on a CPU, and on a GPU a share of its memory, at most 1 GiB. It does not
    /// bound the results, the gradients, or the logits that you give. A softcap, kept tokens and, on a
    /// CPU, shards of the vocabulary take up to four times as much. Where tensor operations compute
    /// (`composed`, and a backend that is not connected), all logits are held, whatever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<usize>,
    /// Tokens whose logits are held at once; replaces what follows from the memory budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<usize>,
    /// Words whose logits are held at once in the backward pass; replaces what follows from the
    /// memory budget. With fewer than all of them each part of the weight's gradient is written
    /// once, instead of one sum over all chunks of tokens, and the logits are computed a second
    /// time. A GPU chooses that where the sum would take more than the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_words: Option<usize>,
    /// How hidden states and weight of a half type are multiplied.
    pub half_products: HalfProducts,
    /// Whether targets outside of the vocabulary, and temperatures of tokens that are not finite and
    /// above 0, are an error. Finding them reads both back, which a GPU has to wait for; without it
    /// such a value at a valid token makes its log-prob, and gradients that come from there, NaN.
    pub check_targets: bool,
    /// How it is computed; the results agree. `fused` is a chunk at a time. `composed` is plain
    /// tensor operations, which hold all logits; there, logits that are not finite make their
    /// gradient NaN even where none reaches their token.
    pub implementation: Implementation,
}

/// How hidden states and weight that are both f16, or both bf16, are multiplied. Logits, softmax
/// and sums are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HalfProducts {
    /// `Native` on GPUs, else `Widened`.
    #[default]
    Auto,
    /// As they are, in the GPU's matrix units; the gradient of the logits is rounded once to the
    /// half type, for its two products.
    Native,
    /// As f32, which takes a copy of the weight of twice its size; exact but for the sums.
    Widened,
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

impl Default for LogProbsConfig {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            logit_softcap: None,
            entropy: Entropy::None,
            sum_of_squares: false,
            memory_budget: None,
            chunk_tokens: None,
            chunk_words: None,
            half_products: HalfProducts::Auto,
            check_targets: false,
            implementation: Implementation::Auto,
        }
    }
}

impl Config for LogProbsConfig {}

impl LogProbsConfig {
    /// Temperature 1, no entropies, a memory budget that fits the device.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets what logits are divided by.
        with_temperature(temperature: f64);
        /// Sets the bound of logits, `cap * tanh(logits / cap)`.
        with_logit_softcap(logit_softcap: impl Into<Option<f64>>);
        /// Sets what is wanted of the entropies.
        with_entropy(entropy: Entropy);
        /// Sets whether the sums of squared probabilities are computed.
        with_sum_of_squares(sum_of_squares: bool);
        /// Sets the bytes that logits and their gradient may take at once.
        with_memory_budget(memory_budget: impl Into<Option<usize>>);
        /// Sets the number of tokens whose logits are held at once, whatever the memory budget.
        with_chunk_tokens(chunk_tokens: impl Into<Option<usize>>);
        /// Sets the number of words whose logits are held at once in the backward pass, whatever the
        /// memory budget.
        with_chunk_words(chunk_words: impl Into<Option<usize>>);
        /// Sets how a half type is multiplied.
        with_half_products(half_products: HalfProducts);
        /// Sets whether targets outside of the vocabulary are an error.
        with_check_targets(check_targets: bool);
        /// Sets how the log-probs are computed.
        with_implementation(implementation: Implementation);
    }

    /// Checks the configuration and builds what computes.
    ///
    /// # Errors
    ///
    /// A temperature or softcap that is not finite or not above 0, or so small or large that f32 does
    /// not hold it; a memory budget or chunk of 0.
    pub fn init(&self) -> Result<TokenLogProbs, ConfigError> {
        positive("temperature", self.temperature)?;
        if let Some(cap) = self.logit_softcap {
            positive("logit_softcap", cap)?;
        }
        not_zero("memory_budget", self.memory_budget)?;
        not_zero("chunk_tokens", self.chunk_tokens)?;
        not_zero("chunk_words", self.chunk_words)?;
        Ok(TokenLogProbs { config: *self })
    }
}

fn not_zero(field: &'static str, value: Option<usize>) -> Result<(), ConfigError> {
    if value != Some(0) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value: "0".into(),
        accepted: "an integer above 0",
    })
}

/// Log-probs, and entropies, of the tokens that a policy took.
///
/// With `z = logits / temperature`, or `z = cap * tanh(logits / cap) / temperature` where there is a
/// softcap,
///
/// ```text
/// log_prob       = z[target] - log(sum_v exp(z_v))
/// entropy        = -sum_v p_v log(p_v),   p = softmax(z)
/// sum_of_squares = sum_v p_v^2
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
    use super::{Entropy, HalfProducts, LogProbsConfig};

    #[test]
    fn json_is_read_back() {
        let config = LogProbsConfig::new()
            .with_temperature(0.7)
            .with_entropy(Entropy::Tracked)
            .with_sum_of_squares(true)
            .with_chunk_tokens(64)
            .with_half_products(HalfProducts::Widened);
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
        // f32 holds the last two only as subnormal numbers, or not at all.
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-40, 5e-324] {
            let error = config.with_temperature(value).init().expect_err("refused");
            let shown = match value > 0.0 && value < 1.0 {
                true => format!("{value:e}"),
                false => value.to_string(),
            };
            let starts = format!("`temperature` is {shown}; accepted: ");
            assert!(error.to_string().starts_with(&starts), "{error}");
            let error = config.with_logit_softcap(value).init();
            let error = error.expect_err("refused");
            let starts = format!("`logit_softcap` is {shown}; accepted: ");
            assert!(error.to_string().starts_with(&starts), "{error}");
        }
        assert!(config.with_logit_softcap(1e39).init().is_err());
        let config = config.with_temperature(2e-38).with_logit_softcap(2e-38);
        assert!(config.init().is_ok());
        let error = config.with_memory_budget(0).init().expect_err("refused");
        assert!(
            error.to_string().contains("`memory_budget` is 0"),
            "{error}"
        );
        let error = config.with_chunk_tokens(0).init().expect_err("refused");
        assert!(error.to_string().contains("`chunk_tokens` is 0"), "{error}");
        let error = config.with_chunk_words(0).init().expect_err("refused");
        assert!(error.to_string().contains("`chunk_words` is 0"), "{error}");
    }
}

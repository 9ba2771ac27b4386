//! How token losses become one number.

use serde::{Deserialize, Serialize};

use super::check::ConfigError;

/// How token losses become one number. With `n` valid tokens, `n_b` of them in sequence `b`, and
/// `B` sequences with `n_b > 0`; `n_p` of them answer prompt `p`, and `P` prompts have `n_p > 0`:
///
/// ```text
/// token_mean         sum(token_loss) / n
/// sequence_mean      sum_b(sum_t(token_loss) / n_b) / B
/// prompt_mean        sum_p(sum of token_loss of p / n_p) / P
/// sequence_sum_mean  sum(token_loss) / B
/// fixed_length       sum(token_loss) / (B * length)
/// token_sum          sum(token_loss)
/// ```
///
/// Each is a numerator over a denominator, and both add up over shards of a batch: with the totals
/// of the global batch every one is exact.
///
/// `fixed_length` is that of Dr. GRPO ([arXiv 2503.20783](https://arxiv.org/abs/2503.20783)): long
/// and short sequences weigh a token the same, whatever else is in the batch.
///
/// `prompt_mean` is that of SkyRL: every prompt weighs the same, and within it every token. The
/// batch says which sequences answer which prompt; any other numbers of sequences do as well. SkyRL
/// counts prompts without a valid token in `P`, too: the totals of the global batch may do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reduction {
    /// Every valid token weighs the same.
    #[default]
    TokenMean,
    /// Every sequence that holds a valid token weighs the same.
    SequenceMean,
    /// Every prompt weighs the same.
    PromptMean,
    /// The mean of the sequences' sums: every sequence weighs as much as it is long.
    SequenceSumMean,
    /// As the mean of the sequences' sums, divided by a constant length.
    FixedLength {
        /// The length that a sequence's sum is divided by; usually the longest completion that
        /// the sampler allows. Above 0.
        length: usize,
    },
    /// The plain sum.
    TokenSum,
}

/// What a [`Reduction`] divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denominator {
    /// The number of valid tokens.
    Tokens,
    /// The number of sequences that hold a valid token, times the [`length`](Reduction::length).
    Sequences,
    /// The number of prompts that a valid token answers.
    Prompts,
    /// Nothing.
    One,
}

impl Reduction {
    /// All of them, the one of a fixed length with this one.
    #[must_use]
    pub const fn all(length: usize) -> [Self; 6] {
        [
            Self::TokenMean,
            Self::SequenceMean,
            Self::PromptMean,
            Self::SequenceSumMean,
            Self::FixedLength { length },
            Self::TokenSum,
        ]
    }

    /// Whether the numerator adds up the means of the sequences, and not all their tokens.
    #[must_use]
    pub const fn takes_sequence_means(self) -> bool {
        matches!(self, Self::SequenceMean)
    }

    /// Whether the batch brings what the tokens of each sequence count for: `1 / n_p`.
    #[must_use]
    pub const fn has_sequence_weights(self) -> bool {
        matches!(self.denominator(), Denominator::Prompts)
    }

    /// What the numerator is divided by.
    #[must_use]
    pub const fn denominator(self) -> Denominator {
        match self {
            Self::TokenMean => Denominator::Tokens,
            Self::SequenceMean | Self::SequenceSumMean | Self::FixedLength { .. } => {
                Denominator::Sequences
            }
            Self::PromptMean => Denominator::Prompts,
            Self::TokenSum => Denominator::One,
        }
    }

    /// What the number of sequences is multiplied by where it is divided by; 1 unless it is fixed.
    #[must_use]
    pub const fn length(self) -> f64 {
        match self {
            Self::FixedLength { length } => length as f64,
            _ => 1.0,
        }
    }

    /// The number that the numerator is divided by, with `tokens` valid tokens in `sequences`
    /// sequences that answer `prompts` prompts. A batch without any is divided as one with 1 of each.
    #[must_use]
    pub const fn count(self, tokens: f64, sequences: f64, prompts: f64) -> f64 {
        match self.denominator() {
            Denominator::Tokens => tokens.max(1.0),
            Denominator::Sequences => sequences.max(1.0) * self.length(),
            // A part of a batch may answer a part of a prompt.
            Denominator::Prompts if prompts > 0.0 => prompts,
            Denominator::Prompts | Denominator::One => 1.0,
        }
    }

    /// As it is written in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenMean => "token_mean",
            Self::SequenceMean => "sequence_mean",
            Self::PromptMean => "prompt_mean",
            Self::SequenceSumMean => "sequence_sum_mean",
            Self::FixedLength { .. } => "fixed_length",
            Self::TokenSum => "token_sum",
        }
    }

    /// Checks the length.
    ///
    /// # Errors
    ///
    /// A fixed length of 0.
    pub fn validate(self) -> Result<(), ConfigError> {
        if self == (Self::FixedLength { length: 0 }) {
            return Err(ConfigError::OutOfRange {
                field: "reduction.fixed_length.length",
                value: "0".into(),
                accepted: "an integer above 0",
            });
        }
        Ok(())
    }
}

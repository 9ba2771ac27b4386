//! How token losses become one number.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::valid::Valid;
use crate::{ConfigError, sum};

/// How token losses become one number. With `n` valid tokens, `n_b` of them in sequence `b`, and
/// `B` sequences with `n_b > 0`:
///
/// ```text
/// token_mean         sum(token_loss) / n
/// sequence_mean      sum_b(sum_t(token_loss) / n_b) / B
/// sequence_sum_mean  sum(token_loss) / B
/// fixed_length       sum(token_loss) / (B * length)
/// token_sum          sum(token_loss)
/// ```
///
/// Each is a numerator over a denominator, and both add up over shards of a batch: with
/// [`GlobalTotals`](crate::GlobalTotals) every one is exact.
///
/// `fixed_length` is that of Dr. GRPO ([arXiv 2503.20783](https://arxiv.org/abs/2503.20783)): long
/// and short sequences weigh a token the same, whatever else is in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reduction {
    /// Every valid token weighs the same.
    #[default]
    TokenMean,
    /// Every sequence that holds a valid token weighs the same.
    SequenceMean,
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

/// What a reduction divides by.
pub(crate) enum Denominator {
    /// The number of valid tokens.
    Tokens,
    /// The number of sequences that hold a valid token, times a constant.
    Sequences(f64),
    /// Nothing.
    One,
}

impl Reduction {
    pub(crate) fn denominator(self) -> Denominator {
        match self {
            Self::TokenMean => Denominator::Tokens,
            Self::SequenceMean | Self::SequenceSumMean => Denominator::Sequences(1.0),
            Self::FixedLength { length } => Denominator::Sequences(length as f64),
            Self::TokenSum => Denominator::One,
        }
    }

    /// `[1]`. Where global totals are given, `scale` replaces the division by a local count.
    pub(crate) fn reduce(
        self,
        token_loss: Tensor<2>,
        valid: &Valid,
        scale: Option<f64>,
    ) -> Tensor<1> {
        let numerator = match self {
            Self::SequenceMean => sum::total(valid.mean_per_sequence(token_loss)),
            _ => sum::total(token_loss),
        };
        if let Some(scale) = scale {
            return numerator * scale;
        }
        match self.denominator() {
            Denominator::Tokens => numerator / valid.total.clone().clamp_min(1),
            Denominator::Sequences(length) => {
                numerator / (valid.sequences.clone().clamp_min(1) * length)
            }
            Denominator::One => numerator,
        }
    }

    pub(crate) fn validate(self) -> Result<(), ConfigError> {
        match self {
            Self::FixedLength { length: 0 } => Err(ConfigError::OutOfRange {
                field: "reduction.fixed_length.length",
                value: "0".into(),
                accepted: "an integer above 0",
            }),
            _ => Ok(()),
        }
    }
}

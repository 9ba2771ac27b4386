//! How token losses become one number.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::sum;
use crate::valid::Valid;

/// How token losses become one number. With `n` valid tokens, `n_b` of them in sequence `b`:
///
/// ```text
/// token_mean     sum(token_loss) / n
/// sequence_mean  mean over sequences with n_b > 0 of sum_t(token_loss) / n_b
/// ```
///
/// Both are exact over shards of a batch with [`GlobalTotals`](crate::GlobalTotals).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Every valid token weighs the same.
    #[default]
    TokenMean,
    /// Every sequence that holds a valid token weighs the same.
    SequenceMean,
}

impl Reduction {
    /// `[1]`. Where global totals are given, `scale` replaces the division by a local count.
    pub(crate) fn reduce(
        self,
        token_loss: Tensor<2>,
        valid: &Valid,
        scale: Option<f64>,
    ) -> Tensor<1> {
        let (sum, count) = match self {
            Self::TokenMean => (sum::total(token_loss), &valid.total),
            Self::SequenceMean => (
                sum::total(valid.mean_per_sequence(token_loss)),
                &valid.sequences,
            ),
        };
        match scale {
            Some(scale) => sum * scale,
            None => sum / count.clone().clamp_min(1),
        }
    }
}

//! Whitening: one scale for the advantages of a batch.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use super::lowest;
use crate::BatchError;
use crate::alike::Alike;
use crate::composed::arithmetic;
use crate::valid::{Valid, total};

/// Keeps a batch of equal values finite.
const VARIANCE_FLOOR: f64 = 1e-8;

/// Whitening over the valid tokens of a batch, `n` of them:
///
/// ```text
/// mean     = sum(x) / n
/// variance = sum((x - mean)^2) / (n - 1)
/// y        = (x - mean) / sqrt(variance + 1e-8), and + mean where the mean is not shifted
/// ```
///
/// or over its sequences: mean and variance are then those of the sequences' means, so that long ones
/// do not weigh more.
///
/// A single valid token has variance 0, none at all gives 0 everywhere. The statistics are those of
/// the batch that is passed: under data parallelism, estimate advantages before the batch is split.
///
/// Source: `masked_whiten` of OpenAI's
/// [lm-human-preferences](https://github.com/openai/lm-human-preferences)
/// ([arXiv 1909.08593](https://arxiv.org/abs/1909.08593)), with the unbiased variance of verl. That
/// one divides by `n + 1e-8`; the difference is below 1e-8 / n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Whitening {
    /// Whether the mean becomes 0; otherwise it stays what it was, and only the scale changes.
    pub shift_mean: bool,
    /// What the statistics are taken over.
    pub over: WhiteningOver,
}

/// What the mean and the variance of a [`Whitening`] are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhiteningOver {
    /// The valid tokens of the batch.
    #[default]
    Tokens,
    /// The means of its sequences, of those with a valid token.
    Sequences,
}

impl Default for Whitening {
    fn default() -> Self {
        Self {
            shift_mean: true,
            over: WhiteningOver::Tokens,
        }
    }
}

impl Whitening {
    /// Mean 0, standard deviation 1.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets whether the mean becomes 0.
        with_shift_mean(shift_mean: bool);
        /// Sets what the statistics are taken over.
        with_over(over: WhiteningOver);
    }

    /// Whitens `values` over the valid tokens; 0 at masked positions, whatever stood there. The
    /// result is detached, f64 where `values` is, else f32.
    ///
    /// # Shapes
    ///
    /// - `values`: `[B, T]`
    /// - `action_mask`: `[B, T]`; absent: every token is valid
    /// - output: `[B, T]`
    ///
    /// # Errors
    ///
    /// A mask of another shape or on another device, a type that the device does not compute.
    pub fn forward(
        &self,
        values: Tensor<2>,
        action_mask: Option<Tensor<2, Bool>>,
    ) -> Result<Tensor<2>, BatchError> {
        let alike = Alike::of("values", &values)?;
        let mask = alike.mask(action_mask)?;
        let dtype = arithmetic(values.dtype());
        let values = values.without_autodiff().cast(dtype);
        if values.dims().contains(&0) {
            return Ok(values);
        }
        let valid = Valid::new(mask, dtype);
        Ok(self.of(valid.select(values), &valid))
    }

    /// Whitens values that are 0 at padding.
    pub(crate) fn of(&self, values: Tensor<2>, valid: &Valid) -> Tensor<2> {
        let shape = values.dims();
        let spread = |x: Tensor<1>| x.reshape([1, 1]).expand(shape);
        // Distances to the largest value, so that equal values are exactly as large as their mean:
        // a rounding there would be blown up by the small deviation.
        let largest = values
            .clone()
            .mask_fill(valid.padding.clone(), lowest(values.dtype()))
            .max();
        let below = valid.select(values - spread(largest.clone()));
        // What the statistics are those of, 0 where there is nothing, and its number.
        let (members, count) = match self.over {
            WhiteningOver::Tokens => (below.clone(), valid.total.clone()),
            WhiteningOver::Sequences => {
                let means = valid.mean_per_sequence(below.clone());
                (means, valid.sequences.clone())
            }
        };
        let mean = total(members.clone()) / count.clone().clamp_min(1);
        let among_members = mean.clone().reshape([1, 1]).expand(members.dims());
        let squares = valid.select(members - among_members).square();
        let variance = total(squares) / count.sub_scalar(1).clamp_min(1);
        let centered = valid.select(below - spread(mean.clone()));
        let deviation = (variance + VARIANCE_FLOOR).sqrt();
        let whitened = centered / spread(deviation);
        match self.shift_mean {
            true => whitened,
            false => valid.select(whitened + spread(largest + mean)),
        }
    }
}

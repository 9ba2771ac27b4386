//! How far the policy moves behind a token, as its weight.

use burn::tensor::Tensor;

use super::ratio::{limited, moved_into};
use crate::FutureWeight;
use crate::advantages::backwards;

/// The weights of tokens, `[B, T]`, of log-ratios that are 0 at padding. `ratio`, which a guard asks for,
/// and `advantages` are `[B, T]` or `[B, 1]`. All of them are constants.
pub(crate) fn future_weights(
    config: &FutureWeight,
    log_ratio: Tensor<2>,
    ratio: impl FnOnce() -> Tensor<2>,
    advantages: &Tensor<2>,
) -> Tensor<2> {
    let shape = log_ratio.dims();
    let counted = match config.max_ratio {
        Some(max_ratio) => {
            let beyond = limited(log_ratio.clone()).exp().greater_elem(max_ratio);
            log_ratio.mask_fill(beyond, 0)
        }
        None => log_ratio,
    };
    let future = backwards(counted.full_like(config.discount), counted);
    let weight = limited(future).exp();
    let weight = match config.bounds {
        Some(bounds) => moved_into(bounds, weight),
        None => weight,
    };
    let Some(guard) = config.guard else {
        return weight;
    };
    let large = ratio().greater_elem(guard.ratio).expand(shape);
    let negative = advantages.clone().lower_elem(0).expand(shape);
    let guarded = moved_into(guard.bounds, weight.clone());
    weight.mask_where(large.bool_and(negative), guarded)
}

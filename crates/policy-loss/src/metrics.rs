//! The metrics of a batch, from the values that the loss was computed from.

use burn::tensor::{Bool, DType, Tensor};

use crate::output::{PolicyLossMetrics, SeparateMetrics};
use crate::ratio::LOG_RATIO_LIMIT;
use crate::rollout::Weights;
use crate::valid::Valid;

/// What a forward pass saw, all of it outside autodiff; `[B, T]`, or `[B, 1]` where a whole
/// sequence shares a value.
pub(crate) struct Observed {
    /// `log_probs - old_log_probs`, `[B, T]`, 0 at padding.
    pub old_log_ratio: Tensor<2>,
    /// `log_probs - rollout_log_probs`, `[B, T]`, 0 at padding, where the ratio is made of it.
    pub rollout_log_ratio: Option<Tensor<2>>,
    pub ratio: Tensor<2>,
    /// 0 at padding.
    pub advantages: Tensor<2>,
    pub clipped: Tensor<2, Bool>,
    pub dual_clipped: Option<Tensor<2, Bool>>,
    pub weights: Option<Weights>,
}

pub(crate) fn observe(valid: &Valid, observed: Observed) -> PolicyLossMetrics {
    let Observed {
        old_log_ratio,
        rollout_log_ratio,
        ratio,
        advantages,
        clipped,
        dual_clipped,
        weights,
    } = observed;
    let shape = old_log_ratio.dims();
    let zero = valid.total.clone().zeros_like();

    let ppo_kl = valid.mean(old_log_ratio.clone()).neg();
    let clip_ratio = valid.fraction(clipped.clone());
    let clipped_above = valid.fraction(clipped.bool_and(advantages.clone().greater_elem(0)));
    // A clipped token has A > 0 or A < 0: at A = 0 neither branch is below the other.
    let clipped_below = clip_ratio.clone() - clipped_above.clone();

    // Finite addends of this size never overflow, and an infinity or NaN survives the sum.
    let mut magnitude = old_log_ratio.clone().abs() + advantages.abs();
    if let Some(rollout_log_ratio) = rollout_log_ratio {
        magnitude = magnitude + rollout_log_ratio.abs();
    }
    if let Some(weights) = &weights {
        magnitude = magnitude + weights.gap.clone().abs();
    }
    let largest = match magnitude.dtype() {
        DType::F64 => f64::MAX,
        _ => f64::from(f32::MAX),
    };
    let non_finite = valid.count(magnitude.lower_equal_elem(largest).bool_not());

    let ratio = ratio.expand(shape);
    let (ratio_mean, ratio_effective_sample_size) =
        mean_and_effective_sample_size(valid, valid.select(ratio.clone()));
    // Padding must not win: fill it with the ratio that no valid token can undercut or exceed.
    let any = valid.total.clone().clamp_max(1);
    let highest = LOG_RATIO_LIMIT.exp() * 2.0;
    let ratio_min = ratio
        .clone()
        .mask_fill(valid.padding.clone(), highest)
        .min()
        * any;
    let ratio_max = ratio.mask_fill(valid.padding.clone(), 0).max();

    let kl_k2 = valid.mean(old_log_ratio.clone().square()) * 0.5;
    let kl_k3 = valid.mean(expm1_minus_identity(
        old_log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT),
    ));

    let fraction = |condition: Option<Tensor<2, Bool>>| match condition {
        Some(condition) => valid.fraction(condition),
        None => zero.clone(),
    };
    let weights = weights.map(|weights| {
        let (mean, effective_sample_size) =
            mean_and_effective_sample_size(valid, valid.select(weights.weight));
        WeightMetrics {
            rollout_kl: valid.mean(weights.gap).neg(),
            mean,
            effective_sample_size,
            truncated: fraction(weights.truncated),
            zeroed: fraction(weights.zeroed),
        }
    });
    SeparateMetrics {
        clip_ratio,
        kl_k1: ppo_kl.clone(),
        ppo_kl,
        clipped_above,
        clipped_below,
        dual_clipped: fraction(dual_clipped),
        ratio_mean,
        ratio_min,
        ratio_max,
        ratio_effective_sample_size,
        kl_k2,
        kl_k3,
        valid_tokens: valid.total.clone(),
        valid_sequences: valid.sequences.clone(),
        non_finite,
        rollout_kl: weights.as_ref().map(|w| w.rollout_kl.clone()),
        weight_mean: weights.as_ref().map(|w| w.mean.clone()),
        weight_effective_sample_size: weights.as_ref().map(|w| w.effective_sample_size.clone()),
        weight_truncated: weights.as_ref().map(|w| w.truncated.clone()),
        weight_zeroed: weights.map(|w| w.zeroed),
    }
    .pack()
}

struct WeightMetrics {
    rollout_kl: Tensor<1>,
    mean: Tensor<1>,
    effective_sample_size: Tensor<1>,
    truncated: Tensor<1>,
    zeroed: Tensor<1>,
}

/// The mean of `x` and `sum(x)^2 / (n * sum(x^2))`; 0 where every `x` is 0.
fn mean_and_effective_sample_size(valid: &Valid, selected: Tensor<2>) -> (Tensor<1>, Tensor<1>) {
    let mean = valid.mean(selected.clone());
    let mean_square = valid.mean(selected.square());
    let nothing = mean_square.clone().equal_elem(0);
    let effective_sample_size = mean.clone().square() / mean_square.mask_fill(nothing, 1);
    (mean, effective_sample_size)
}

/// `expm1(x) - x`, accurate to a few roundings.
///
/// In f32, `exp(x) - 1 - x` is 3.3 times too large at `x = 1e-4`, and `expm1(x) - x` still loses
/// three digits there to cancellation. Near 0 the series `x^2 (1/2! + x/3! + x^2/4! + ...)` has
/// none.
fn expm1_minus_identity(x: Tensor<2>) -> Tensor<2> {
    // With this many terms, the first one left out is below half a rounding at the limit.
    let (limit, terms) = match x.dtype() {
        DType::F64 => (0.5, 15),
        _ => (0.5, 8),
    };
    let mut inverse_factorials = vec![0.5];
    for k in 3..=terms {
        let last = inverse_factorials[inverse_factorials.len() - 1];
        inverse_factorials.push(last / k as f64);
    }
    // Horner's rule, from the smallest coefficient.
    let mut series = x.clone() * inverse_factorials[inverse_factorials.len() - 1];
    for coefficient in inverse_factorials[1..inverse_factorials.len() - 1]
        .iter()
        .rev()
    {
        series = (series + *coefficient) * x.clone();
    }
    let series = (series + inverse_factorials[0]) * x.clone().square();
    let direct = x.clone().exp() - 1.0 - x.clone();
    direct.mask_where(x.abs().lower_elem(limit), series)
}

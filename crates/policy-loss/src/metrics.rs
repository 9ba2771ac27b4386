//! The metrics of a batch, from the values that the loss was computed from.

use burn::tensor::{Bool, DType, Tensor};

use crate::divergence::{expm1_minus_identity, k3_limit};
use crate::groups::Groups;
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
    /// Where the off-policy mask dropped a token, `[B, T]`.
    pub off_policy: Option<Tensor<2, Bool>>,
    /// The divergence of the KL penalty, 0 at padding.
    pub kl: Option<Tensor<2>>,
    /// `log_probs - ref_log_probs`, 0 at padding, where there is a penalty.
    pub kl_log_ratio: Option<Tensor<2>>,
    /// 0 at padding.
    pub entropy: Option<Tensor<2>>,
}

pub(crate) fn observe(valid: &Valid, observed: Observed, groups: Groups) -> PolicyLossMetrics {
    let Observed {
        old_log_ratio,
        rollout_log_ratio,
        ratio,
        advantages,
        clipped,
        dual_clipped,
        weights,
        off_policy,
        kl,
        kl_log_ratio,
        entropy,
    } = observed;
    let shape = old_log_ratio.dims();
    let zero = valid.total.clone().zeros_like();

    let ppo_kl = valid.mean(old_log_ratio.clone()).neg();
    let clip_ratio = valid.fraction(clipped.clone());
    let spread = |condition: Tensor<2, Bool>| condition.expand(shape);
    let clipped = spread(clipped);
    let positive = spread(advantages.clone().greater_elem(0));
    let negative = spread(advantages.clone().lower_elem(0));
    let clipped_above = valid.fraction(clipped.clone().bool_and(positive));
    let clipped_below = valid.fraction(clipped.bool_and(negative));

    // Finite addends of this size never overflow, and an infinity or NaN survives the sum.
    let mut magnitude = old_log_ratio.clone().abs() + advantages.abs();
    if let Some(rollout_log_ratio) = rollout_log_ratio {
        magnitude = magnitude + rollout_log_ratio.abs();
    }
    if let Some(weights) = &weights {
        magnitude = magnitude + weights.gap.clone().abs();
    }
    for values in [&kl_log_ratio, &entropy].into_iter().flatten() {
        magnitude = magnitude + values.clone().abs();
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
    let kl_k3 = valid.mean(expm1_minus_identity(k3_limit(old_log_ratio)));

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
        off_policy_dropped: off_policy.map(|dropped| valid.fraction(dropped)),
        kl: kl.map(|kl| valid.mean(kl)),
        entropy: entropy.map(|entropy| valid.mean(entropy)),
    }
    .pack(groups)
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

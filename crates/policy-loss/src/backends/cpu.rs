//! What the CPU backends share: from slices to loss, metrics and gradient.

use burn::tensor::{DType, Element as BurnElement, TensorData};
use policy_loss_kernels::cpu::{self, Batch, Element};
use policy_loss_kernels::{Objective, Summary};

use crate::groups::Groups;
use crate::ops::groups;
use crate::output::MetricValues;

/// One pass over a batch, with results as tensor data.
pub(crate) struct Pass {
    pub loss: TensorData,
    pub metrics: TensorData,
    pub gradient: TensorData,
    pub factor: TensorData,
}

/// Computes a batch whose slices fit together; the caller took them from checked tensors. `E` is f32
/// or f64, the type of the arithmetic.
pub(crate) fn forward<E: Element + BurnElement>(
    objective: &Objective,
    batch: &Batch<'_, E>,
    with_gradient: bool,
) -> Pass {
    let (summary, gradient) = match with_gradient {
        true => {
            let (summary, gradient) = cpu::forward_with_gradient(objective, batch).expect(CHECKED);
            let shape = [batch.sequences, batch.tokens];
            (summary, TensorData::new(gradient, shape))
        }
        false => {
            let summary = cpu::forward(objective, batch).expect(CHECKED);
            (summary, TensorData::new(vec![E::from_elem(0)], [1, 1]))
        }
    };
    let dtype = E::dtype();
    Pass {
        loss: data(vec![summary.loss], dtype),
        metrics: data(metrics(&summary, groups(objective)), dtype),
        gradient,
        // The kernel has applied the factor of the reduction already.
        factor: data(vec![1.0], dtype),
    }
}

const CHECKED: &str = "the batch was checked before it came here";

fn data(values: Vec<f64>, dtype: DType) -> TensorData {
    let shape = [values.len()];
    TensorData::new(values, shape).convert_dtype(dtype)
}

fn metrics(summary: &Summary, groups: Groups) -> Vec<f64> {
    let n = summary.valid_tokens.max(1.0);
    let effective_sample_size = |sum: f64, squares: f64| match squares {
        0.0 => 0.0,
        squares => sum * sum / (n * squares),
    };
    let ppo_kl = summary.negative_log_ratio / n;
    let of_weights = |value: f64| groups.rollout_correction.then_some(value);
    MetricValues {
        clip_ratio: (summary.clipped_above + summary.clipped_below) / n,
        ppo_kl,
        clipped_above: summary.clipped_above / n,
        clipped_below: summary.clipped_below / n,
        dual_clipped: summary.dual_clipped / n,
        ratio_mean: summary.ratio / n,
        ratio_min: summary.min_ratio,
        ratio_max: summary.max_ratio,
        ratio_effective_sample_size: effective_sample_size(summary.ratio, summary.squared_ratio),
        kl_k1: ppo_kl,
        kl_k2: summary.squared_log_ratio / (2.0 * n),
        kl_k3: summary.k3 / n,
        valid_tokens: summary.valid_tokens,
        valid_sequences: summary.valid_sequences,
        non_finite: summary.non_finite,
        rollout_kl: of_weights(summary.rollout_log_ratio / n),
        weight_mean: of_weights(summary.weight / n),
        weight_effective_sample_size: of_weights(effective_sample_size(
            summary.weight,
            summary.squared_weight,
        )),
        weight_truncated: of_weights(summary.truncated / n),
        weight_zeroed: of_weights(summary.zeroed / n),
        off_policy_dropped: groups.off_policy_mask.then_some(summary.dropped / n),
        kl: groups.kl_penalty.then_some(summary.kl / n),
        entropy: None,
    }
    .packed()
}

/// Calls `$body` with `$E` bound to the element type of `$dtype`.
macro_rules! for_float {
    ($dtype:expr, $E:ident => $body:expr, [$($variant:ident => $type:ty),*]) => {
        match $dtype {
            $(burn::tensor::DType::$variant => { type $E = $type; $body })*
            // The batch's types were checked against what the device computes.
            dtype => unreachable!("{dtype:?} is not computed on this device"),
        }
    };
}
pub(crate) use for_float;

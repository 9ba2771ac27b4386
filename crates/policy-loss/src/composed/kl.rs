//! Estimates of a KL divergence from one sampled token, and the penalty that is made of them.

use burn::tensor::{DType, Tensor};

use policy_loss_kernels::objective::LOG_RATIO_LIMIT;

use super::ratio::limited;
use crate::{KlEstimator, KlGradient, KlPenalty};

/// The divergence that a penalty multiplies by its coefficient, `[B, T]`, of
/// `q`, the log-ratio against the base of the penalty, which is 0 at padding.
pub(super) fn penalized_divergence(
    penalty: KlPenalty,
    q: Tensor<2>,
    ratio: &Tensor<2>,
) -> Tensor<2> {
    let q = within(penalty.max_log_ratio, q);
    let divergence = match penalty.gradient {
        KlGradient::Estimator | KlGradient::ImportanceCorrected => estimate(penalty.estimator, q),
        KlGradient::StraightThrough => {
            let constant = q.clone().without_autodiff();
            let value = estimate(penalty.estimator, constant.clone());
            // The difference is 0 and has the slope of k2. Not k2 - sg(k2): that is infinity
            // minus infinity where q is large.
            value + (q - constant.clone()) * constant
        }
        KlGradient::ScoreFunction => {
            let q = match penalty.estimator {
                KlEstimator::K3 => within(Some(LOG_RATIO_LIMIT), q),
                KlEstimator::K1 | KlEstimator::K2 | KlEstimator::Abs => q,
            };
            let constant = q.clone().without_autodiff();
            let value = estimate(penalty.estimator, constant.clone());
            estimate(penalty.estimator, q.clone()) + (q - constant) * value
        }
    };
    let divergence = within(penalty.max_divergence, divergence);
    match penalty.gradient {
        KlGradient::ImportanceCorrected => divergence * ratio.clone(),
        KlGradient::Estimator | KlGradient::StraightThrough | KlGradient::ScoreFunction => {
            divergence
        }
    }
}

/// `x` moved into a range around 0, without a gradient where it was moved.
fn within(most: Option<f64>, x: Tensor<2>) -> Tensor<2> {
    let Some(most) = most else {
        return x;
    };
    let constant = x.clone().without_autodiff();
    let beyond = constant.clone().abs().greater_elem(most);
    x.mask_where(beyond, constant.clamp(-most, most))
}

/// The estimate of KL(policy, reference) from `q`, the log-prob of the policy minus that of the
/// reference; 0 where `q` is 0.
pub(crate) fn estimate(estimator: KlEstimator, q: Tensor<2>) -> Tensor<2> {
    match estimator {
        KlEstimator::K1 => q,
        KlEstimator::K2 => k2(q),
        KlEstimator::K3 => k3(q.neg()),
        KlEstimator::Abs => q.abs(),
    }
}

/// `x^2 / 2`.
pub(super) fn k2(x: Tensor<2>) -> Tensor<2> {
    x.square() * 0.5
}

/// `expm1(x) - x`, with `x` clamped to ±20.
pub(crate) fn k3(x: Tensor<2>) -> Tensor<2> {
    expm1_minus_identity(limited(x))
}

/// `exp(x) - 1`, of which little is left near 0, with `x` clamped to ±20.
pub(crate) fn expm1(x: Tensor<2>) -> Tensor<2> {
    k3(x.clone()) + limited(x)
}

/// `expm1(x) - x`, accurate to a few roundings.
///
/// In f32, `exp(x) - 1 - x` is 3.3 times too large at `x = 1e-4`, and `expm1(x) - x` still loses
/// three digits there to cancellation. Near 0 the series `x^2 (1/2! + x/3! + x^2/4! + ...)` has
/// none.
fn expm1_minus_identity(x: Tensor<2>) -> Tensor<2> {
    // The first term that is left out is below half a rounding where the series is taken.
    let last = match x.dtype() {
        DType::F64 => 15,
        _ => 8,
    };
    let inverse_factorial = |n: i32| 1.0 / (2..=n).map(f64::from).product::<f64>();
    // Horner's rule, from the smallest coefficient. Products alone: the gradient of a division by a
    // scalar is computed in f32, whatever the type.
    let mut series = x.clone() * inverse_factorial(last);
    for n in (3..last).rev() {
        series = (series + inverse_factorial(n)) * x.clone();
    }
    let series = (series + 0.5) * x.clone().square();
    let direct = x.clone().exp() - 1.0 - x.clone();
    direct.mask_where(x.abs().lower_elem(0.5), series)
}

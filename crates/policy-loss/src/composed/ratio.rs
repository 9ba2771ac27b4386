//! Ratios of probabilities, and the ranges that they are kept in.

use burn::tensor::{Bool, Tensor};
use policy_loss_kernels::objective::LOG_RATIO_LIMIT;

use crate::valid::{Valid, sum_per_row};
use crate::{Bounds, Ratio, RatioLevel};

/// `r` of a log-ratio `[B, T]` that is 0 at padding: `[B, T]`, or `[B, 1]` where a sequence shares
/// it.
pub(crate) fn ratio(
    ratio: Ratio,
    log_ratio: Tensor<2>,
    log_probs: &Tensor<2>,
    valid: &Valid,
) -> Tensor<2> {
    match ratio.level {
        RatioLevel::Token => limited(log_ratio).exp(),
        RatioLevel::Sequence => limited(valid.mean_per_sequence(log_ratio)).exp(),
        RatioLevel::SequenceSum => limited(sum_per_row(log_ratio)).exp(),
        RatioLevel::Segment => limited(valid.mean_per_segment(log_ratio)).exp(),
        RatioLevel::SequenceToken => {
            let constant = log_probs.clone().without_autodiff();
            let mean = valid.mean_per_sequence(log_ratio.without_autodiff());
            let beyond = mean.clone().abs().greater_elem(LOG_RATIO_LIMIT);
            let value = limited(mean).exp().expand(constant.dims());
            // exp(0), with the slope 1.
            let one = (log_probs.clone() - constant).exp();
            (one * value.clone()).mask_where(beyond.expand(value.dims()), value)
        }
    }
}

/// A log-ratio within the limit beyond which it is not exponentiated.
pub(crate) fn limited(log_ratio: Tensor<2>) -> Tensor<2> {
    log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
}

/// `x` moved into a range. A NaN stays one.
pub(super) fn moved_into(bounds: Bounds, x: Tensor<2>) -> Tensor<2> {
    match (bounds.low, bounds.high) {
        (Some(low), Some(high)) => x.clamp(low, high),
        (Some(low), None) => x.clamp_min(low),
        (None, Some(high)) => x.clamp_max(high),
        (None, None) => x,
    }
}

/// Where `x` is moved to become part of a range. A NaN is not.
pub(super) fn is_moved_into(bounds: Bounds, x: Tensor<2>) -> Tensor<2, Bool> {
    let number = x.clone().equal(x.clone());
    is_within(bounds, x).bool_not().bool_and(number)
}

/// Where `x` lies in a range. A NaN lies in none.
pub(super) fn is_within(bounds: Bounds, x: Tensor<2>) -> Tensor<2, Bool> {
    match (bounds.low, bounds.high) {
        (Some(low), Some(high)) => {
            let above = x.clone().greater_equal_elem(low);
            above.bool_and(x.lower_equal_elem(high))
        }
        (Some(low), None) => x.greater_equal_elem(low),
        (None, Some(high)) => x.lower_equal_elem(high),
        (None, None) => x.clone().equal(x),
    }
}

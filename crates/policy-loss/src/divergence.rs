//! The accurate parts of the divergence estimates.

use burn::tensor::Tensor;

use crate::ratio::LOG_RATIO_LIMIT;

/// A log-ratio within the range in which k3 does not overflow.
pub(crate) fn k3_limit(x: Tensor<2>) -> Tensor<2> {
    x.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
}

/// `expm1(x) - x`, accurate to a few roundings.
///
/// In f32, `exp(x) - 1 - x` is 3.3 times too large at `x = 1e-4`, and `expm1(x) - x` still loses
/// three digits there to cancellation. Near 0 the series `x^2 (1/2! + x/3! + x^2/4! + ...)` has
/// none.
pub(crate) fn expm1_minus_identity(x: Tensor<2>) -> Tensor<2> {
    // With this many terms, the first one left out is below half a rounding at the limit.
    let (limit, terms) = match x.dtype() {
        burn::tensor::DType::F64 => (0.5, 15),
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

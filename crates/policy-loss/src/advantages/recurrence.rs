//! Linear recurrences that run backwards along the tokens.

use burn::tensor::Tensor;

/// `x_t = addend_t + factor_t * x_{t+1}` with `x_T = 0`, `[B, T]`.
///
/// Two neighbouring steps are again a step of this form, so that spans of 1, 2, 4, … steps are
/// joined: the device runs `log2(T)` rounds of a few operations on the whole batch, where a loop
/// over the tokens would launch several for each of them.
pub(crate) fn backwards(mut factor: Tensor<2>, mut addend: Tensor<2>) -> Tensor<2> {
    let [_, tokens] = addend.dims();
    let mut span = 1;
    while span < tokens {
        addend = addend.clone() + factor.clone() * ahead(&addend, span);
        span *= 2;
        if span < tokens {
            factor = factor.clone() * ahead(&factor, span / 2);
        }
    }
    addend
}

/// What stands `span` tokens further on, 0 beyond the end; `[B, T]`, `span <= T`.
pub(crate) fn ahead(x: &Tensor<2>, span: usize) -> Tensor<2> {
    let [batch, tokens] = x.dims();
    let beyond = Tensor::zeros([batch, span], (&x.device(), x.dtype()));
    if span == tokens {
        return beyond;
    }
    let rest = x.clone().narrow(1, span, tokens - span);
    Tensor::cat(vec![rest, beyond], 1)
}

/// What stands `span` tokens before, 0 before the start; `[B, T]`, `span <= T`.
pub(crate) fn behind(x: &Tensor<2>, span: usize) -> Tensor<2> {
    let [batch, tokens] = x.dims();
    let before = Tensor::zeros([batch, span], (&x.device(), x.dtype()));
    if span == tokens {
        return before;
    }
    Tensor::cat(vec![before, x.clone().narrow(1, 0, tokens - span)], 1)
}

//! Linear recurrences that run backwards along the tokens.

use burn::tensor::{Tensor, TensorData};

use crate::device::is_host;

/// `x_t = addend_t + factor_t * x_{t+1}` with `x_T = 0`, of constants `[B, T]`.
pub(crate) fn backwards(factor: Tensor<2>, addend: Tensor<2>) -> Tensor<2> {
    match is_host(&addend.device()) {
        true => backwards_in_turn(factor, addend),
        false => backwards_by_doubling(factor, addend),
    }
}

/// One token after the other, in f64.
fn backwards_in_turn(factor: Tensor<2>, addend: Tensor<2>) -> Tensor<2> {
    let shape @ [_, tokens] = addend.dims();
    let (device, dtype) = (addend.device(), addend.dtype());
    let numbers = |x: Tensor<2>| -> Vec<f64> {
        let data = x.into_data().convert::<f64>();
        data.try_into_vec().expect("converted to f64")
    };
    let (factor, mut numbers) = (numbers(factor), numbers(addend));
    let rows = numbers.chunks_exact_mut(tokens);
    for (row, factors) in rows.zip(factor.chunks_exact(tokens)) {
        let mut next = 0.0;
        for (x, factor) in row.iter_mut().zip(factors).rev() {
            *x += factor * next;
            next = *x;
        }
    }
    let data = TensorData::new(numbers, shape).convert_dtype(dtype);
    Tensor::from_data(data, (&device, dtype))
}

/// Two neighbouring steps are again a step of this form, so that spans of 1, 2, 4, … steps are
/// joined: the device runs `log2(T)` rounds of a few operations on the whole batch, where a loop
/// over the tokens would launch several for each of them.
fn backwards_by_doubling(mut factor: Tensor<2>, mut addend: Tensor<2>) -> Tensor<2> {
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;

    #[test]
    fn doubling_gives_what_turns_give() {
        for tokens in [1, 2, 3, 7, 8, 64, 100] {
            let numbers = |seed: usize| -> Tensor<2> {
                // 0 and 1 among them.
                let number = |i: usize| ((i * 7919 + seed) % 101) as f64 / 80.0 - 0.25;
                let numbers: Vec<f64> = (0..3 * tokens).map(number).collect();
                let data = TensorData::new(numbers, [3, tokens]);
                Tensor::from_data(data, (&Device::flex(), DType::F64))
            };
            let (factor, addend) = (numbers(1), numbers(50));
            let in_turn = backwards_in_turn(factor.clone(), addend.clone());
            let by_doubling = backwards_by_doubling(factor, addend);
            let numbers = |x: Tensor<2>| x.into_data().try_into_vec::<f64>().expect("f64");
            for (a, b) in numbers(in_turn).into_iter().zip(numbers(by_doubling)) {
                assert!(
                    (a - b).abs() < 1e-12 * a.abs().max(1.0),
                    "{tokens}: {a}, {b}"
                );
            }
        }
    }
}

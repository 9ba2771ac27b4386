//! Sums that stay right however many addends there are.
//!
//! Burn adds a row up in one running sum on some backends, which in f32 loses digits from some
//! thousand addends on. And a software renderer ends every loop after 65,536 turns, silently: a row
//! of 100,000 ones sums to 65,532 there. So long rows are added up block by block.

use burn::tensor::Tensor;

/// Addends of a block.
const BLOCK: usize = 512;

/// The sum of each row of `[B, T]`, `[B, 1]`.
pub(crate) fn per_row(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let blocks = columns / BLOCK;
    if blocks < 2 {
        return x.sum_dim(1);
    }
    let whole = blocks * BLOCK;
    let in_blocks = |x: Tensor<2>| {
        let sums = x.reshape([rows * blocks, BLOCK]).sum_dim(1);
        per_row(sums.reshape([rows, blocks]))
    };
    match columns - whole {
        0 => in_blocks(x),
        _ => {
            let rest = x.clone().slice([0..rows, whole..columns]).sum_dim(1);
            in_blocks(x.slice([0..rows, 0..whole])) + rest
        }
    }
}

/// The sum of all of `[B, T]`, `[1]`: of rows first, then of their sums.
pub(crate) fn total(x: Tensor<2>) -> Tensor<1> {
    let [rows, _] = x.dims();
    per_row(per_row(x).reshape([1, rows])).reshape([1])
}

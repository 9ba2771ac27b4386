//! Reductions of rows that stay right however long the rows are.
//!
//! Burn adds a row up in one running sum on some backends, which in f32 loses digits from some
//! thousand addends on. And a software renderer ends every loop after 65,536 turns, silently: a row
//! of 100,000 ones sums to 65,532 there. So long rows are added up block by block.

use burn::tensor::Tensor;

/// Addends of a block.
const BLOCK: usize = 512;

/// The sum of each row of `[B, T]`, `[B, 1]`.
pub(crate) fn per_row(x: Tensor<2>) -> Tensor<2> {
    in_blocks(x, &|x| x.sum_dim(1), &|left, right| left + right)
}

/// The largest value of each row of `[B, T]`, `[B, 1]`.
pub(crate) fn largest_per_row(x: Tensor<2>) -> Tensor<2> {
    in_blocks(x, &|x| x.max_dim(1), &|left, right| left.max_pair(right))
}

/// The sum of all of `[B, T]`, `[1]`: of rows first, then of their sums.
pub(crate) fn total(x: Tensor<2>) -> Tensor<1> {
    let [rows, _] = x.dims();
    per_row(per_row(x).reshape([1, rows])).reshape([1])
}

fn in_blocks(
    x: Tensor<2>,
    reduce: &dyn Fn(Tensor<2>) -> Tensor<2>,
    combine: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let blocks = columns / BLOCK;
    if blocks < 2 {
        return reduce(x);
    }
    let whole = blocks * BLOCK;
    let of_blocks = |x: Tensor<2>| {
        let reduced = reduce(x.reshape([rows * blocks, BLOCK]));
        in_blocks(reduced.reshape([rows, blocks]), reduce, combine)
    };
    match columns - whole {
        0 => of_blocks(x),
        _ => {
            let rest = reduce(x.clone().slice([0..rows, whole..columns]));
            combine(of_blocks(x.slice([0..rows, 0..whole])), rest)
        }
    }
}

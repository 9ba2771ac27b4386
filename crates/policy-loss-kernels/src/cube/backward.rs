//! The backward pass: the gradient that the forward pass has left, times its factors.

use cubecl::prelude::*;

use super::geometry::CUBE_SIZE;

/// `gradient * factor * upstream`. A token without a gradient keeps 0, whatever the factors are.
/// `output` may be the memory of `gradient`.
#[cube(launch_unchecked)]
pub fn scale<F: Float, A: Float, N: Size>(
    gradient: &[Vector<F, N>],
    factor: &[A],
    upstream: &[A],
    output: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F, A)] _types: [ElemType; 2],
) {
    let step = CUBE_COUNT * comptime!(CUBE_SIZE as usize);
    let zero = Vector::<A, N>::new(A::new(0.0));
    let scale = Vector::<A, N>::new(factor[0] * upstream[0]);
    let mut index = CUBE_POS * comptime!(CUBE_SIZE as usize) + UNIT_POS as usize;
    while index < vectors {
        let value = Vector::<A, N>::cast_from(gradient[index]);
        let scaled = select_many(value.equal(&zero), zero, value * scale);
        output[index] = Vector::cast_from(scaled);
        index += step;
    }
}

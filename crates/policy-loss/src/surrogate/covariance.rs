//! What the two surrogates of high covariance share.

use burn::tensor::{Tensor, TensorData};

use super::Tokens;

/// `(A - mean A) * (log_probs - mean log_probs)`, means over the valid tokens of the batch; 0 at
/// padding, a constant, `[B, T]`.
pub(super) fn covariance(tokens: &Tokens) -> Tensor<2> {
    let shape = tokens.shape();
    let valid = tokens.valid;
    let centred = |x: Tensor<2>| {
        let mean = valid.mean(x.clone()).reshape([1, 1]).expand(shape);
        // Where all are the same, the rounding of their mean must not decide who is the largest.
        let at_padding = |value: f32| x.clone().mask_fill(valid.padding.clone(), value);
        let same = at_padding(f32::MIN)
            .max()
            .lower_equal(at_padding(f32::MAX).min());
        (x - mean).mask_fill(same.reshape([1, 1]).expand(shape), 0)
    };
    let advantages = valid.select(tokens.advantages.clone().expand(shape));
    let log_probs = tokens.log_probs.clone().without_autodiff();
    valid.select(centred(advantages) * centred(log_probs))
}

/// The `k`-th smallest value of `x` (`[1]`), where `k = max(1, floor(share * n))` of `n` valid
/// tokens.
pub(super) fn smallest(x: Tensor<2>, share: f64, tokens: &Tokens) -> Tensor<1> {
    let [batch, length] = x.dims();
    // A share that is a whole number of tokens must not lose one to a rounding.
    let count = (tokens.valid.total.clone() * (share * (1.0 + 1e-6))).floor();
    let index = (count.clamp_min(1) - 1.0).int();
    x.reshape([batch * length]).sort(0).gather(0, index)
}

/// A permutation of the positions `0..B * T`, row by row, the same for the same seed: the order of
/// SplitMix64's numbers.
pub(super) fn shuffled(seed: u64, like: &Tensor<2>) -> Tensor<2> {
    let length = like.dims().iter().product();
    let mut positions: Vec<usize> = (0..length).collect();
    positions.sort_by_key(|position| split_mix(seed, *position as u64));
    let mut ranks = vec![0.0f64; length];
    for (rank, position) in positions.into_iter().enumerate() {
        ranks[position] = rank as f64;
    }
    let data = TensorData::new(ranks, like.dims()).convert_dtype(like.dtype());
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

/// The `index`-th number of SplitMix64 from `seed`.
fn split_mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

//! Rewards in the form that an estimator computes with.

use burn::tensor::Tensor;

use super::Rewards;
use crate::valid::{Valid, largest_per_row, places, sum_per_row};

/// `[B, T]`, 0 at padding. The reward of a sequence stands at its last valid token.
pub(crate) fn per_token(rewards: Rewards, valid: &Valid) -> Tensor<2> {
    let rewards = match rewards {
        Rewards::Token(rewards) => return valid.select(rewards),
        Rewards::Sequence(rewards) => rewards,
    };
    let [batch, tokens] = valid.tokens.dims();
    // Counted from 1, so that a sequence without a valid token has its last one nowhere.
    let places = places(tokens, &valid.tokens.device(), valid.total.dtype());
    let places = valid.select(places.expand([batch, tokens]));
    let last = largest_per_row(places.clone()).expand([batch, tokens]);
    let elsewhere = places.equal(last).bool_not();
    let rewards = rewards.reshape([batch, 1]).expand([batch, tokens]);
    valid.select(rewards.mask_fill(elsewhere, 0))
}

/// `[B, 1]`, the sum over the valid tokens of each sequence.
pub(super) fn per_sequence(rewards: Rewards, valid: &Valid) -> Tensor<2> {
    match rewards {
        Rewards::Token(rewards) => sum_per_row(valid.select(rewards)),
        Rewards::Sequence(rewards) => {
            let [batch, _] = valid.tokens.dims();
            // A mask of one column is itself one value a sequence.
            valid.select(rewards.reshape([batch, 1]))
        }
    }
}

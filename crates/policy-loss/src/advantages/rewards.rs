//! Rewards in the form that an estimator computes with.

use burn::tensor::{Int, Tensor};

use super::Rewards;
use crate::valid::Valid;

/// `[B, T]`, 0 at padding. The reward of a sequence stands at its last valid token.
pub(crate) fn per_token(rewards: Rewards, valid: &Valid) -> Tensor<2> {
    let rewards = match rewards {
        Rewards::Token(rewards) => return valid.select(rewards),
        Rewards::Sequence(rewards) => rewards,
    };
    let [batch, tokens] = valid.tokens.dims();
    // Counted from 1, so that a sequence without a valid token has its last one nowhere.
    let position = Tensor::<1, Int>::arange(1..tokens as i64 + 1, &valid.tokens.device())
        .reshape([1, tokens])
        .expand([batch, tokens])
        .mask_fill(valid.padding.clone(), 0);
    let last = position.clone().max_dim(1).expand([batch, tokens]);
    let elsewhere = position.equal(last).bool_not();
    let rewards = rewards.reshape([batch, 1]).expand([batch, tokens]);
    valid.select(rewards.mask_fill(elsewhere, 0))
}

/// `[B, 1]`, the sum over the valid tokens of each sequence.
pub(super) fn per_sequence(rewards: Rewards, valid: &Valid) -> Tensor<2> {
    match rewards {
        Rewards::Token(rewards) => valid.select(rewards).sum_dim(1),
        Rewards::Sequence(rewards) => {
            let [batch, _] = valid.tokens.dims();
            // A mask of one column is itself one value a sequence.
            valid.select(rewards.reshape([batch, 1]))
        }
    }
}

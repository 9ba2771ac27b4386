//! A sigmoid of the ratio.

use policy_loss::Sapo;

use super::{Batch, Token, follow, valid};

pub(super) fn fill(sapo: &Sapo, batch: &Batch, tokens: &mut [Token]) {
    for i in valid(batch) {
        let advantage = batch.advantages[i];
        let tau = match advantage > 0.0 {
            true => sapo.positive_temperature,
            false => sapo.negative_temperature,
        };
        let token = &mut tokens[i];
        let x = tau * (token.ratio - 1.0);
        let (gate, closed) = (1.0 / (1.0 + (-x).exp()), 1.0 / (1.0 + x.exp()));
        token.surrogate = advantage * gate * 4.0 / tau;
        follow(token, advantage * 4.0 * gate * closed);
    }
}

//! A weight of the ratio of the whole sequence.

use policy_loss::Vespo;

use super::{Batch, LIMIT, Margin, Token};

pub(super) fn fill(vespo: &Vespo, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for row in batch.rows() {
        let mut sum = 0.0;
        for &i in &row {
            sum += tokens[i].constant_log_ratio.clamp(-LIMIT, LIMIT);
        }
        let least = 1e-8f64.ln();
        margin.meet(sum, least);
        margin.meet(sum, LIMIT);
        let log_ratio = sum.clamp(least, LIMIT);
        for &i in &row {
            let advantage = batch.advantages[i];
            let (k, lambda) = match advantage < 0.0 {
                true => (vespo.negative_k, vespo.negative_lambda),
                false => (vespo.positive_k, vespo.positive_lambda),
            };
            let phi = (lambda + k * log_ratio - lambda * log_ratio.exp()).exp();
            tokens[i].surrogate = phi * advantage * batch.log_probs[i];
            tokens[i].by_log_prob = phi * advantage;
        }
    }
}

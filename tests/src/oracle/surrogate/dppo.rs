//! A trust region of the divergence.

use policy_loss::{Divergence, Dppo};

use super::{Batch, LIMIT, Margin, Token, valid};

pub(super) fn fill(dppo: &Dppo, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for i in valid(batch) {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let (log_p, log_q) = (batch.constant_log_probs[i], token.base);
        let (p, q) = (log_p.exp(), log_q.exp());
        token.clipped = match dppo.divergence {
            Divergence::TotalVariation => {
                (margin.exceeds(p - q, dppo.high) && advantage > 0.0)
                    || (margin.exceeds(q - p, dppo.low) && advantage < 0.0)
            }
            Divergence::Kl => {
                let rest = |p: f64| (1.0 - p).max(1e-8);
                let kl = q * (log_q - log_p) + (1.0 - q) * (rest(q) / rest(p)).ln();
                (margin.exceeds(kl, dppo.high) && advantage > 0.0 && p > q)
                    || (margin.exceeds(kl, dppo.low) && advantage < 0.0 && p < q)
            }
        };
        let ratio = token.constant_log_ratio.clamp(-LIMIT, LIMIT).exp();
        margin.meet(token.constant_log_ratio, dppo.max_ratio.ln());
        if !token.clipped {
            let slope = ratio.min(dppo.max_ratio) * advantage;
            token.surrogate = slope * batch.log_probs[i];
            token.by_log_prob = slope;
        }
    }
}

//! A constant weight times A log_probs.

use super::{Batch, LIMIT, Margin, Token, valid};

/// `bounds` are those of the ratio where the weight is cut.
pub(super) fn fill(
    weight: impl Fn(f64, f64) -> f64,
    bounds: [Option<f64>; 2],
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    for i in valid(batch) {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let constant_ratio = token.constant_log_ratio.clamp(-LIMIT, LIMIT).exp();
        for bound in bounds.into_iter().flatten() {
            margin.meet(token.constant_log_ratio, bound.ln());
        }
        let [low, high] = bounds;
        let outside = low.is_some_and(|low| constant_ratio < low)
            || high.is_some_and(|high| constant_ratio > high);
        token.clipped = outside && advantage != 0.0;
        let slope = weight(constant_ratio, advantage) * advantage;
        token.surrogate = slope * batch.log_probs[i];
        token.by_log_prob = slope;
    }
}

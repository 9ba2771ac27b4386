//! min(r A, clamp(r) A), with a dual clip or a delta.

use policy_loss::Clip;

use super::{Batch, Margin, Token, follow, valid};

pub(super) fn fill(clip: &Clip, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for i in valid(batch) {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let ratio = token.ratio;
        for bound in [1.0 - clip.low, 1.0 + clip.high] {
            margin.meet(ratio.ln(), bound.ln());
        }
        for bound in [clip.dual_clip, clip.delta].into_iter().flatten() {
            margin.meet(ratio.ln(), bound.ln());
        }
        let beyond = clip.delta.is_some_and(|delta| ratio > delta);
        let free = match clip.delta {
            Some(delta) => ratio.min(delta) * advantage,
            None => ratio * advantage,
        };
        let bounded = ratio.clamp(1.0 - clip.low, 1.0 + clip.high) * advantage;
        // Where `delta` is the upper bound itself, it is the bound that is met.
        token.clipped = bounded < ratio * advantage;
        token.surrogate = bounded.min(free);
        token.dual_clipped = beyond && !token.clipped && advantage != 0.0;
        if let Some(dual_clip) = clip.dual_clip
            && advantage < 0.0
            && token.surrogate < dual_clip * advantage
        {
            token.surrogate = dual_clip * advantage;
            token.dual_clipped = true;
        }
        if !token.clipped && !token.dual_clipped {
            follow(token, advantage);
        }
    }
}

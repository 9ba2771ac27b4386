//! What is done to tokens of high covariance.

use policy_loss::{Clip, ClipCov, KlCov};

use super::{Batch, Margin, Token, clip, follow, valid};
use crate::busy::Random;

pub(super) fn clip_cov(config: &ClipCov, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    clip::fill(&Clip::new(config.low, config.high), batch, tokens, margin);
    let mut candidates = Vec::new();
    for (i, covariance) in covariances(batch) {
        let above = margin.exceeds(covariance, config.min_covariance);
        let below = margin.exceeds(config.max_covariance, covariance);
        if above && below && !tokens[i].clipped {
            candidates.push(i);
        }
    }
    let mut random = Random(config.seed);
    let numbers: Vec<u64> = (0..tokens.len()).map(|_| random.bits()).collect();
    candidates.sort_by_key(|i| numbers[*i]);
    candidates.truncate(count(config.share, batch));
    for i in candidates {
        tokens[i].surrogate = 0.0;
        tokens[i].clipped = true;
        follow(&mut tokens[i], 0.0);
    }
}

pub(super) fn kl_cov(config: &KlCov, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    let mut covariances = covariances(batch);
    covariances.sort_by(|one, other| other.1.total_cmp(&one.1));
    let largest = count(config.share, batch);
    for (rank, (i, covariance)) in covariances.iter().enumerate() {
        let advantage = batch.advantages[*i];
        let token = &mut tokens[*i];
        token.surrogate = token.ratio * advantage;
        follow(token, advantage);
        // Those that tie with the last one count as well.
        let last = covariances[largest.min(covariances.len()) - 1].1;
        if rank + 1 != largest {
            margin.meet(*covariance, last);
        }
        if *covariance >= last {
            margin.meet(token.log_ratio, 0.0);
            token.surrogate -= config.coefficient * token.log_ratio.abs();
            if token.log_ratio != 0.0 {
                token.by_log_prob = -config.coefficient * token.log_ratio.signum();
            }
        }
    }
}

fn count(share: f64, batch: &Batch) -> usize {
    ((valid(batch).len() as f64 * share + 1e-3) as usize).max(1)
}

/// Each valid token with its covariance.
fn covariances(batch: &Batch) -> Vec<(usize, f64)> {
    let valid = valid(batch);
    let mean = |values: &[f64]| valid.iter().map(|&i| values[i]).sum::<f64>() / valid.len() as f64;
    let (advantage, log_prob) = (mean(&batch.advantages), mean(&batch.constant_log_probs));
    let covariance =
        |i: usize| (batch.advantages[i] - advantage) * (batch.constant_log_probs[i] - log_prob);
    valid.iter().map(|&i| (i, covariance(i))).collect()
}

//! The row of sums, and what its errors are relative to.

use policy_loss_kernels::objective::{Objective, Reduction};

use crate::{Answer, Batch, LIMIT, Token, k3};

/// Fills in the sums, and their sizes.
pub fn fill(objective: &Objective, batch: &Batch, tokens: &[Token], answer: &mut Answer) {
    let one = |condition: bool| f64::from(u8::from(condition));
    let (sums, sizes) = (&mut answer.sums, &mut answer.sizes.sums);
    let mut condition = 1.0_f64;
    for row in batch.rows() {
        sums.valid_sequences += 1.0;
        for &i in &row {
            let token = &tokens[i];
            let advantage = batch.advantages[i];
            let d = batch.log_ratio(i);
            let bounded = d.clamp(-LIMIT, LIMIT);
            sums.loss += answer.token_losses[i] * token.of_mean;
            sums.valid_tokens += 1.0;
            if objective.reduction == Reduction::PromptMean {
                sums.valid_prompts += token.of_mean;
            }
            sums.non_finite += one(batch.is_non_finite(objective, i));
            sums.missing_rollout_log_probs += one(token.missing);
            sums.clipped_above += one(token.clipped && advantage > 0.0);
            sums.clipped_below += one(token.clipped && advantage < 0.0);
            sums.dual_clipped += one(token.dual_clipped);
            sums.log_ratio += d;
            sizes.log_ratio += d.abs();
            sums.squared_log_ratio += d * d;
            sums.k3 += k3(bounded);
            sums.ratio += token.ratio;
            sizes.ratio += token.size.ratio;
            sums.squared_ratio += token.ratio * token.ratio;
            sizes.squared_ratio += token.ratio * token.size.ratio;
            // Neither takes a NaN.
            sums.least_ratio = sums.least_ratio.min(token.ratio);
            sums.largest_ratio = sums.largest_ratio.max(token.ratio);
            condition = condition.max(token.size.ratio / token.ratio);
            if objective.rollout_correction.is_some() {
                sums.rollout_gap += batch.gap(i);
                sizes.rollout_gap += batch.gap(i).abs();
                // Neither takes a NaN.
                sums.least_rollout_gap = sums.least_rollout_gap.min(batch.gap(i));
                sums.largest_rollout_gap = sums.largest_rollout_gap.max(batch.gap(i));
                sums.weight += token.weight;
                sizes.weight += token.size.weight;
                sums.squared_weight += token.weight * token.weight;
                sizes.squared_weight += token.weight * token.size.weight;
                sums.truncated_weights += one(token.truncated);
                sums.rejected_weights += one(token.zeroed);
            }
            if objective.off_policy_mask.is_some() {
                sums.off_policy_dropped += one(token.off_policy);
            }
            if objective.entropy_mask.is_some() {
                sums.low_entropy_dropped += one(token.low_entropy);
            }
            if objective.kl_penalty.is_some() {
                sums.kl += token.kl;
                sizes.kl += token.size.kl;
            }
            if objective.entropy_bonus.is_some() {
                sums.entropy += batch.entropy(i);
                sizes.entropy += batch.entropy(i).abs();
            }
        }
    }
    sizes.valid_prompts = sums.valid_prompts;
    sizes.squared_log_ratio = sums.squared_log_ratio;
    sizes.k3 = sums.k3;
    sizes.least_ratio = sums.least_ratio * condition;
    sizes.largest_ratio = sums.largest_ratio * condition;
    sizes.least_rollout_gap = sums.least_rollout_gap.abs();
    sizes.largest_rollout_gap = sums.largest_rollout_gap.abs();
}

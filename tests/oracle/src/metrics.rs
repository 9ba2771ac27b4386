//! The row of sums, with what its errors are relative to, and the metrics, each a loop of its own.

use policy_loss_kernels::objective::{Behavior, KlBase, Objective, Reduction};

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

/// Name and value of every metric; `None` where the objective has none of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics(pub Vec<(&'static str, Option<f64>)>);

impl Metrics {
    /// The value of a metric that the objective has.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == name)?.1
    }
}

pub fn of(objective: &Objective, batch: &Batch, tokens: &[Token]) -> Metrics {
    let seen = Seen {
        valid: batch.valid_tokens(),
        tokens,
    };
    let log_ratio = |i: usize| batch.log_ratio(i);
    let k3 = |i: usize| crate::k3(log_ratio(i).clamp(-LIMIT, LIMIT));
    let ratios: Vec<f64> = seen.valid.iter().map(|i| tokens[*i].ratio).collect();
    let weights: Vec<f64> = seen.valid.iter().map(|i| tokens[*i].weight).collect();
    let above = |i: usize| tokens[i].clipped && batch.advantages[i] > 0.0;
    let below = |i: usize| tokens[i].clipped && batch.advantages[i] < 0.0;
    let extreme = |of: fn(f64, f64) -> f64| ratios.iter().copied().reduce(of).unwrap_or(0.0);
    let non_finite = |i: &&usize| batch.is_non_finite(objective, **i);
    let everywhere = [
        ("clip_ratio", seen.fraction(|token| token.clipped)),
        ("ppo_kl", seen.mean(|i| -log_ratio(i))),
        ("clipped_above", seen.mean(|i| f64::from(above(i)))),
        ("clipped_below", seen.mean(|i| f64::from(below(i)))),
        ("dual_clipped", seen.fraction(|token| token.dual_clipped)),
        ("ratio_mean", seen.mean(|i| tokens[i].ratio)),
        ("ratio_min", extreme(f64::min)),
        ("ratio_max", extreme(f64::max)),
        (
            "ratio_effective_sample_size",
            effective_sample_size(&ratios),
        ),
        ("kl_k1", seen.mean(|i| -log_ratio(i))),
        ("kl_k2", seen.mean(|i| log_ratio(i).powi(2) / 2.0)),
        ("kl_k3", seen.mean(k3)),
        ("valid_tokens", ratios.len() as f64),
        ("valid_sequences", batch.rows().len() as f64),
        (
            "non_finite",
            seen.valid.iter().filter(non_finite).count() as f64,
        ),
        (
            "missing_rollout_log_probs",
            seen.valid.iter().filter(|i| tokens[**i].missing).count() as f64,
        ),
    ];
    let mut metrics: Vec<_> = everywhere
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .collect();
    let mut of_part = |has_part: bool, name, value: &dyn Fn() -> f64| {
        metrics.push((name, has_part.then(value)));
    };
    let corrected = objective.rollout_correction.is_some();
    of_part(corrected, "rollout_kl", &|| seen.mean(|i| -batch.gap(i)));
    let gaps: Vec<f64> = match corrected {
        true => seen.valid.iter().map(|i| batch.gap(*i)).collect(),
        false => Vec::new(),
    };
    let end = |of: fn(f64, f64) -> f64| gaps.iter().copied().reduce(of).unwrap_or(0.0);
    of_part(corrected, "rollout_gap_min", &|| end(f64::min));
    of_part(corrected, "rollout_gap_max", &|| end(f64::max));
    of_part(corrected, "weight_mean", &|| {
        seen.mean(|i| tokens[i].weight)
    });
    of_part(corrected, "weight_effective_sample_size", &|| {
        effective_sample_size(&weights)
    });
    of_part(corrected, "weight_truncated", &|| {
        seen.fraction(|token| token.truncated)
    });
    of_part(corrected, "weight_zeroed", &|| {
        seen.fraction(|token| token.zeroed)
    });
    of_part(
        objective.off_policy_mask.is_some(),
        "off_policy_dropped",
        &|| seen.fraction(|token| token.off_policy),
    );
    of_part(
        objective.entropy_mask.is_some(),
        "low_entropy_dropped",
        &|| seen.fraction(|token| token.low_entropy),
    );
    of_part(objective.kl_penalty.is_some(), "kl", &|| {
        seen.mean(|i| tokens[i].kl)
    });
    of_part(objective.entropy_bonus.is_some(), "entropy", &|| {
        seen.mean(|i| batch.entropy(i))
    });
    Metrics(metrics)
}

impl Batch {
    /// Whether an input that the objective reads is NaN or infinite.
    pub(crate) fn is_non_finite(&self, objective: &Objective, i: usize) -> bool {
        let mut read = vec![self.log_probs[i], self.old(i), self.advantages[i]];
        let against_rollout = objective.ratio.against == Behavior::Rollout;
        let penalized_against = |base| {
            objective
                .kl_penalty
                .is_some_and(|penalty| penalty.against == base)
        };
        for (values, is_read) in [
            (
                &self.rollout,
                against_rollout
                    || objective.rollout_correction.is_some()
                    || penalized_against(KlBase::Rollout),
            ),
            (&self.reference, penalized_against(KlBase::Reference)),
            (&self.entropies, objective.reads_entropies()),
        ] {
            if let (Some(values), true) = (values, is_read) {
                read.push(values[i]);
            }
        }
        read.iter().any(|value| !value.is_finite())
    }
}

struct Seen<'a> {
    valid: Vec<usize>,
    tokens: &'a [Token],
}

impl Seen<'_> {
    fn mean(&self, value: impl Fn(usize) -> f64) -> f64 {
        match self.valid.len() {
            0 => 0.0,
            count => self.valid.iter().map(|i| value(*i)).sum::<f64>() / count as f64,
        }
    }

    fn fraction(&self, condition: impl Fn(&Token) -> bool) -> f64 {
        self.mean(|i| f64::from(condition(&self.tokens[i])))
    }
}

/// `sum(x)^2 / (n sum(x^2))`, 0 where there is nothing.
fn effective_sample_size(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|x| x * x).sum();
    match squares == 0.0 {
        true => 0.0,
        false => sum * sum / (values.len() as f64 * squares),
    }
}

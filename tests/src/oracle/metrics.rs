//! The metrics, each a loop of its own.

use policy_loss::{Behavior, KlGradient, PolicyLossConfig};

use super::{Batch, LIMIT, Token};

/// Name and value of every metric; `None` where the objective has none of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics(pub Vec<(&'static str, Option<f64>)>);

impl Metrics {
    /// The value of a metric that the objective has.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == name)?.1
    }
}

pub(super) struct Observed<'a> {
    pub objective: &'a PolicyLossConfig,
    pub batch: &'a Batch,
    pub tokens: &'a [Token],
}

impl Observed<'_> {
    pub fn metrics(&self) -> Metrics {
        let batch = self.batch;
        let difference = |i: usize| batch.log_probs[i] - batch.old(i);
        let k3 = |i: usize| {
            let d = difference(i).clamp(-LIMIT, LIMIT);
            d.exp_m1() - d
        };
        let ratios: Vec<f64> = self.valid().map(|i| self.tokens[i].ratio).collect();
        let weights: Vec<f64> = self.valid().map(|i| self.tokens[i].weight).collect();
        let clipped = |i: usize| self.tokens[i].clipped;
        let sequences = batch.rows().len();
        let mut named = vec![
            ("clip_ratio", self.fraction(clipped)),
            ("ppo_kl", self.mean(|i| -difference(i))),
            (
                "clipped_above",
                self.fraction(|i| clipped(i) && batch.advantages[i] > 0.0),
            ),
            (
                "clipped_below",
                self.fraction(|i| clipped(i) && batch.advantages[i] < 0.0),
            ),
            (
                "dual_clipped",
                self.fraction(|i| self.tokens[i].dual_clipped),
            ),
            ("ratio_mean", self.mean(|i| self.tokens[i].ratio)),
            (
                "ratio_min",
                ratios.iter().copied().reduce(f64::min).unwrap_or(0.0),
            ),
            (
                "ratio_max",
                ratios.iter().copied().reduce(f64::max).unwrap_or(0.0),
            ),
            (
                "ratio_effective_sample_size",
                effective_sample_size(&ratios),
            ),
            ("kl_k1", self.mean(|i| -difference(i))),
            ("kl_k2", self.mean(|i| difference(i).powi(2) / 2.0)),
            ("kl_k3", self.mean(k3)),
            ("valid_tokens", ratios.len() as f64),
            ("valid_sequences", sequences as f64),
            (
                "non_finite",
                self.valid().filter(|i| self.non_finite(*i)).count() as f64,
            ),
        ]
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .collect::<Vec<_>>();
        let corrected = |value: f64| self.objective.rollout_correction.map(|_| value);
        named.extend([
            ("rollout_kl", corrected(self.rollout_kl())),
            (
                "weight_mean",
                corrected(self.mean(|i| self.tokens[i].weight)),
            ),
            (
                "weight_effective_sample_size",
                corrected(effective_sample_size(&weights)),
            ),
            (
                "weight_truncated",
                corrected(self.fraction(|i| self.tokens[i].truncated)),
            ),
            (
                "weight_zeroed",
                corrected(self.fraction(|i| self.tokens[i].zeroed)),
            ),
            (
                "off_policy_dropped",
                self.objective
                    .off_policy_mask
                    .map(|_| self.fraction(|i| self.tokens[i].off_policy)),
            ),
            (
                "kl",
                self.objective.kl_penalty.map(|penalty| {
                    let corrected = penalty.gradient == KlGradient::ImportanceCorrected;
                    self.mean(|i| match corrected {
                        true => self.tokens[i].kl * self.tokens[i].ratio,
                        false => self.tokens[i].kl,
                    })
                }),
            ),
            (
                "entropy",
                self.objective.entropy_bonus.map(|_| {
                    let entropies = self.batch.entropies.as_ref().expect("the bonus reads them");
                    self.mean(|i| entropies[i])
                }),
            ),
        ]);
        Metrics(named)
    }

    fn rollout_kl(&self) -> f64 {
        match (&self.objective.rollout_correction, &self.batch.rollout) {
            (Some(_), Some(rollout)) => self.mean(|i| rollout[i] - self.batch.old(i)),
            _ => 0.0,
        }
    }

    fn non_finite(&self, i: usize) -> bool {
        let batch = self.batch;
        let mut read = vec![batch.log_probs[i], batch.old(i), batch.advantages[i]];
        let against_rollout = self.objective.ratio.against == Behavior::Rollout;
        for (values, is_read) in [
            (
                &batch.rollout,
                against_rollout || self.objective.rollout_correction.is_some(),
            ),
            (&batch.reference, self.objective.kl_penalty.is_some()),
            (&batch.entropies, self.objective.entropy_bonus.is_some()),
        ] {
            if let (Some(values), true) = (values, is_read) {
                read.push(values[i]);
            }
        }
        read.iter().any(|value| !value.is_finite())
    }

    fn valid(&self) -> impl Iterator<Item = usize> {
        (0..self.batch.valid.len()).filter(|i| self.batch.valid[*i])
    }

    fn mean(&self, value: impl Fn(usize) -> f64) -> f64 {
        let count = self.valid().count();
        match count {
            0 => 0.0,
            _ => self.valid().map(value).sum::<f64>() / count as f64,
        }
    }

    fn fraction(&self, condition: impl Fn(usize) -> bool) -> f64 {
        self.mean(|i| f64::from(u8::from(condition(i))))
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

//! Advantage estimators as loops over `f64`, written from the definitions; no Burn in here, and
//! nothing of the library but the types of its configurations.

use policy_loss::{
    AdvantageEstimatorConfig as Config, Among, Deviation, GroupBaseline, GroupRelative, MeanScale,
    SingleScore, TeacherSignalConfig, TokenBaseline,
};
use policy_loss_oracle::k3;

use super::case::Case;

/// A batch with its rewards per token; whatever stands at invalid tokens is not looked at.
pub struct Batch<'a> {
    /// Everything but the rewards.
    pub case: &'a Case,
    /// `[B, T]`.
    pub rewards: Vec<f64>,
}

/// Advantages, and returns where there are any; 0 at invalid tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `[B, T]`.
    pub advantages: Vec<f64>,
    /// `[B, T]`.
    pub returns: Option<Vec<f64>>,
}

impl Batch<'_> {
    /// The valid tokens of a sequence, in order, as indices into `[B, T]`.
    fn row(&self, sequence: usize) -> Vec<usize> {
        let tokens = self.case.tokens;
        (sequence * tokens..(sequence + 1) * tokens)
            .filter(|i| self.case.is_valid(*i))
            .collect()
    }

    /// The sequences that hold a valid token.
    fn present(&self) -> Vec<usize> {
        let all = 0..self.case.sequences;
        all.filter(|s| self.case.is_present(*s)).collect()
    }

    /// Those of them that answer the prompt of this one.
    fn group(&self, sequence: usize) -> Vec<usize> {
        let ids = &self.case.group_ids;
        let mut group = self.present();
        group.retain(|other| ids[*other] == ids[sequence]);
        group
    }

    fn score(&self, sequence: usize) -> f64 {
        self.row(sequence).iter().map(|i| self.rewards[*i]).sum()
    }
}

/// What an estimator makes of a batch, before anything is whitened.
pub fn estimate(config: &Config, batch: &Batch) -> Answer {
    let case = batch.case;
    let mut advantages = vec![0.0; batch.rewards.len()];
    let mut returns = vec![0.0; batch.rewards.len()];
    match config {
        Config::Generalized(c) => {
            for sequence in 0..case.sequences {
                // A list of the valid tokens has no gaps.
                let row = batch.row(sequence);
                let policy = match c.length_adaptive {
                    Some(share) => 1.0 - 1.0 / (share * row.len() as f64).max(1.0),
                    None => c.lambda,
                };
                let critic = c.return_lambda.unwrap_or(c.lambda);
                let (mut next_value, mut next_policy, mut next_critic) = (0.0, 0.0, 0.0);
                for i in row.into_iter().rev() {
                    let delta = batch.rewards[i] + c.gamma * next_value - case.values[i];
                    next_policy = delta + c.gamma * policy * next_policy;
                    next_critic = delta + c.gamma * critic * next_critic;
                    next_value = case.values[i];
                    advantages[i] = next_policy;
                    returns[i] = next_critic + case.values[i];
                }
            }
        }
        Config::ReturnToGo(c) => {
            for sequence in 0..case.sequences {
                let mut behind = 0.0;
                for i in batch.row(sequence).into_iter().rev() {
                    behind = batch.rewards[i] + c.gamma * behind;
                    returns[i] = behind;
                    advantages[i] = match c.subtract_baseline {
                        true => behind - case.baselines[sequence],
                        false => behind,
                    };
                }
            }
            if let Some(of_tokens) = c.token_baseline {
                for sequence in 0..case.sequences {
                    for (t, i) in batch.row(sequence).into_iter().enumerate() {
                        advantages[i] -= token_baseline(batch, sequence, t, of_tokens, &returns);
                    }
                }
            }
        }
        Config::GroupRelative(c) => {
            for sequence in batch.present() {
                let mut advantage = against_group(batch, sequence, c);
                if c.active_share {
                    let present = batch.present();
                    let active = present.iter().filter(|s| batch.score(**s) != 0.0).count();
                    advantage *= present.len() as f64 / active.max(1) as f64;
                }
                for i in batch.row(sequence) {
                    advantages[i] = advantage;
                }
            }
            return Answer {
                advantages,
                returns: None,
            };
        }
        other => panic!("the oracle has no words for {other:?}"),
    }
    Answer {
        advantages,
        returns: Some(returns),
    }
}

/// The mean of the returns of a group's `t`-th valid tokens, each weighted by how large the gradient of
/// its sequence is up to there.
fn token_baseline(
    batch: &Batch,
    sequence: usize,
    t: usize,
    of_tokens: TokenBaseline,
    returns: &[f64],
) -> f64 {
    let case = batch.case;
    let group = batch.group(sequence).into_iter();
    let group: Vec<Vec<usize>> = group.map(|other| batch.row(other)).collect();
    let long_enough: Vec<&Vec<usize>> = group.iter().filter(|row| row.len() > t).collect();
    let is_tail = long_enough.len() == 1 && of_tokens.tail != SingleScore::Zero;
    if group.len() == 1 || is_tail {
        return 0.0;
    }
    let size = |row: &[usize]| -> f64 {
        let squared = |i: usize| {
            let weight = case.importance_weights.as_ref().map_or(1.0, |w| w[i]);
            let p = case.log_probs[i].exp();
            weight * weight * (1.0 - 2.0 * p + case.sums_of_squares[i]).max(0.0)
        };
        row[..=t].iter().map(|i| squared(*i)).sum()
    };
    let sizes: f64 = long_enough.iter().map(|row| size(row)).sum();
    let weighted: f64 = long_enough
        .iter()
        .map(|row| size(row) * returns[row[t]])
        .sum();
    weighted / (sizes + of_tokens.epsilon)
}

fn against_group(batch: &Batch, sequence: usize, config: &GroupRelative) -> f64 {
    let group = batch.group(sequence);
    let others: Vec<usize> = group.iter().copied().filter(|s| *s != sequence).collect();
    let score = batch.score(sequence);
    let mean = |of: &[usize]| of.iter().map(|s| batch.score(*s)).sum::<f64>() / of.len() as f64;
    let lonely = others.is_empty();
    let distance = match config.baseline {
        _ if lonely && config.single == SingleScore::Zero => 0.0,
        _ if lonely => score,
        GroupBaseline::Mean => score - mean(&group),
        GroupBaseline::LeaveOneOut => score - mean(&others),
        GroupBaseline::LengthWeighted => {
            let length = |s: &usize| batch.row(*s).len() as f64;
            let total: f64 = group.iter().map(length).sum();
            let weighted: f64 = group.iter().map(|s| length(s) * batch.score(*s)).sum();
            score - weighted / total
        }
        GroupBaseline::BestOther => {
            let best = others.iter().map(|s| batch.score(*s));
            (score - best.fold(f64::NEG_INFINITY, f64::max)).max(0.0)
        }
    };
    let deviation = |of: &[usize]| {
        let mean = mean(of);
        let squares = of.iter().map(|s| (batch.score(*s) - mean).powi(2));
        (squares.sum::<f64>() / (of.len() - 1) as f64).sqrt()
    };
    match (config.deviation, config.mean_scale) {
        (None, None) => distance,
        (None, Some(_)) if lonely => distance,
        (None, Some(_)) if mean(&group) <= 0.0 => 0.0,
        (None, Some(MeanScale { epsilon })) => distance / (mean(&group) + epsilon),
        (Some(Deviation { epsilon, .. }), None) if lonely => distance / (1.0 + epsilon),
        (Some(Deviation { among, epsilon }), None) => match among {
            Among::Group => distance / (deviation(&group) + epsilon),
            Among::Others => {
                let first = batch.score(others[0]);
                match others.iter().all(|s| batch.score(*s) == first) {
                    true => distance,
                    false => distance / (deviation(&others) + epsilon),
                }
            }
            Among::Batch => distance / (deviation(&batch.present()) + epsilon),
        },
        both => panic!("no configuration: {both:?}"),
    }
}

/// Mean 0 (unless it stays) and standard deviation 1 over the valid tokens. Means are divided by
/// their count plus `offset`: 0, or what another library adds.
pub fn whiten(values: &[f64], valid: &[bool], shift_mean: bool, offset: f64) -> Vec<f64> {
    let chosen: Vec<f64> = (0..values.len())
        .filter(|i| valid[*i])
        .map(|i| values[i])
        .collect();
    let count = chosen.len() as f64;
    let mean = chosen.iter().sum::<f64>() / (count + offset).max(1.0);
    let squares = chosen.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let variance = match chosen.len() {
        0 | 1 => 0.0,
        _ => squares / (count + offset) * count / (count - 1.0),
    };
    let whitened = |i: usize| {
        let x = (values[i] - mean) / (variance + 1e-8).sqrt();
        match (valid[i], shift_mean) {
            (false, _) => 0.0,
            (true, true) => x,
            (true, false) => x + mean,
        }
    };
    (0..values.len()).map(whitened).collect()
}

/// The same over the means of sequences, rows of `tokens` values.
pub fn whiten_by_sequences(
    values: &[f64],
    valid: &[bool],
    tokens: usize,
    shift_mean: bool,
) -> Vec<f64> {
    let mut means = Vec::new();
    for start in (0..values.len()).step_by(tokens.max(1)) {
        let row = start..start + tokens;
        let row: Vec<f64> = row.filter(|i| valid[*i]).map(|i| values[i]).collect();
        if !row.is_empty() {
            means.push(row.iter().sum::<f64>() / row.len() as f64);
        }
    }
    let mean = means.iter().sum::<f64>() / means.len().max(1) as f64;
    let squares: f64 = means.iter().map(|x| (x - mean).powi(2)).sum();
    let variance = squares / means.len().saturating_sub(1).max(1) as f64;
    let whitened = |i: usize| {
        let x = (values[i] - mean) / (variance + 1e-8).sqrt();
        match (valid[i], shift_mean) {
            (false, _) => 0.0,
            (true, true) => x,
            (true, false) => x + mean,
        }
    };
    (0..values.len()).map(whitened).collect()
}

/// An estimate of the KL from one token; `distance` is `log_probs - ref_log_probs`.
pub fn kl(name: &str, distance: f64) -> f64 {
    match name {
        "k1" => distance,
        "k2" => distance * distance / 2.0,
        "k3" => k3((-distance).clamp(-20.0, 20.0)),
        "abs" => distance.abs(),
        other => panic!("no estimate of that name: {other}"),
    }
}

/// The advantages of one sequence with a teacher in them; `gaps` are teacher minus policy.
///
/// # Panics
///
/// The signal is not known.
pub fn taught(
    signal: &TeacherSignalConfig,
    advantages: &[f64],
    gaps: &[f64],
    valid: &[bool],
) -> Vec<f64> {
    let tokens = 0..gaps.len();
    let at = |t: usize, x: f64| if valid[t] { x } else { 0.0 };
    let changed = |t: usize| match signal {
        TeacherSignalConfig::ReverseKl(c) => {
            let clamped = |t: usize| {
                let limit = c.clamp.unwrap_or(f64::INFINITY);
                at(t, gaps[t]).max(-limit).min(limit)
            };
            let all: f64 = tokens.clone().map(|t| clamped(t).abs()).sum();
            let weighed = |t: usize| {
                let before: f64 = (0..t).map(|s| clamped(s).abs()).sum();
                let left = 1.0 - before / all.max(1e-8);
                clamped(t) * (1.0 + c.early_weight.unwrap_or(0.0) * left)
            };
            let ahead = (t..gaps.len()).map(|k| c.discount.powi((k - t) as i32) * weighed(k));
            advantages[t] + c.coefficient * ahead.sum::<f64>()
        }
        TeacherSignalConfig::Factor(c) => match advantages[t] {
            0.0 => 0.0,
            a if a > 0.0 && c.negative_only => a,
            a => {
                let factor = (a.signum() * gaps[t]).exp();
                a * (1.0 - c.mix + c.mix * factor.clamp(1.0 - c.clip, 1.0 + c.clip))
            }
        },
        other => panic!("the oracle has no words for {other:?}"),
    };
    tokens
        .clone()
        .map(|t| at(t, if valid[t] { changed(t) } else { 0.0 }))
        .collect()
}

//! Advantage estimators as loops over `f64`, written from the definitions; no Burn in here.

/// A batch on the host; whatever stands at invalid tokens is not looked at.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `B`.
    pub sequences: usize,
    /// `T`.
    pub tokens: usize,
    /// `[B, T]`.
    pub rewards: Vec<f64>,
    /// `[B, T]`.
    pub valid: Vec<bool>,
    /// `[B, T]`.
    pub values: Vec<f64>,
    /// `[B]`.
    pub group_ids: Vec<i64>,
    /// `[B]`.
    pub baselines: Vec<f64>,
    /// `[B, T]`.
    pub log_probs: Vec<f64>,
    /// `[B, T]`.
    pub sums_of_squares: Vec<f64>,
    /// `[B, T]`; absent: 1.
    pub importance_weights: Option<Vec<f64>>,
}

/// What a score is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Compared {
    Mean,
    Others,
    ByLength,
    BestOther,
}

/// What the distance to the baseline is divided by; each deviation with its epsilon, the mean too.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Divided {
    Not,
    ByGroup(f64),
    ByOthers(f64),
    ByBatch(f64),
    ByMean(f64),
}

/// What returns are compared with, token by token.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct OfTokens {
    pub tail_is_zero: bool,
    pub epsilon: f64,
}

/// How advantages come about.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Estimator {
    Critic {
        gamma: f64,
        lambda: f64,
        length_adaptive: Option<f64>,
        return_lambda: Option<f64>,
    },
    Return {
        gamma: f64,
        baseline: bool,
        of_tokens: Option<OfTokens>,
    },
    Group {
        compared: Compared,
        divided: Divided,
        single_is_zero: bool,
        active_share: bool,
    },
}

/// Advantages, and returns where there are any; 0 at invalid tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `[B, T]`.
    pub advantages: Vec<f64>,
    /// `[B, T]`.
    pub returns: Option<Vec<f64>>,
}

impl Batch {
    /// The valid tokens of a sequence, in order, as indices into `[B, T]`.
    fn row(&self, sequence: usize) -> Vec<usize> {
        (sequence * self.tokens..(sequence + 1) * self.tokens)
            .filter(|i| self.valid[*i])
            .collect()
    }

    fn score(&self, sequence: usize) -> f64 {
        self.row(sequence).iter().map(|i| self.rewards[*i]).sum()
    }
}

/// What an estimator makes of a batch, before anything is whitened.
pub fn estimate(estimator: &Estimator, batch: &Batch) -> Answer {
    let mut advantages = vec![0.0; batch.valid.len()];
    let mut returns = vec![0.0; batch.valid.len()];
    match *estimator {
        Estimator::Critic {
            gamma,
            lambda,
            length_adaptive,
            return_lambda,
        } => {
            for sequence in 0..batch.sequences {
                // A list of the valid tokens has no gaps.
                let row = batch.row(sequence);
                let policy = match length_adaptive {
                    Some(share) => 1.0 - 1.0 / (share * row.len() as f64).max(1.0),
                    None => lambda,
                };
                let critic = return_lambda.unwrap_or(lambda);
                let (mut next_value, mut next_policy, mut next_critic) = (0.0, 0.0, 0.0);
                for i in row.into_iter().rev() {
                    let delta = batch.rewards[i] + gamma * next_value - batch.values[i];
                    next_policy = delta + gamma * policy * next_policy;
                    next_critic = delta + gamma * critic * next_critic;
                    next_value = batch.values[i];
                    advantages[i] = next_policy;
                    returns[i] = next_critic + batch.values[i];
                }
            }
        }
        Estimator::Return {
            gamma,
            baseline,
            of_tokens,
        } => {
            for sequence in 0..batch.sequences {
                let mut behind = 0.0;
                for i in batch.row(sequence).into_iter().rev() {
                    behind = batch.rewards[i] + gamma * behind;
                    returns[i] = behind;
                    advantages[i] = match baseline {
                        true => behind - batch.baselines[sequence],
                        false => behind,
                    };
                }
            }
            if let Some(of_tokens) = of_tokens {
                for sequence in 0..batch.sequences {
                    for (t, i) in batch.row(sequence).into_iter().enumerate() {
                        advantages[i] -= token_baseline(batch, sequence, t, of_tokens, &returns);
                    }
                }
            }
        }
        Estimator::Group {
            compared,
            divided,
            single_is_zero,
            active_share,
        } => {
            for sequence in 0..batch.sequences {
                let mut advantage =
                    against_group(batch, sequence, compared, divided, single_is_zero);
                if active_share {
                    let present = (0..batch.sequences).filter(|s| !batch.row(*s).is_empty());
                    let active = present.clone().filter(|s| batch.score(*s) != 0.0);
                    advantage *= present.count() as f64 / active.count().max(1) as f64;
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
    of_tokens: OfTokens,
    returns: &[f64],
) -> f64 {
    let group: Vec<Vec<usize>> = (0..batch.sequences)
        .filter(|other| batch.group_ids[*other] == batch.group_ids[sequence])
        .map(|other| batch.row(other))
        .filter(|row| !row.is_empty())
        .collect();
    let long_enough: Vec<&Vec<usize>> = group.iter().filter(|row| row.len() > t).collect();
    let is_tail = long_enough.len() == 1 && !of_tokens.tail_is_zero;
    if group.len() == 1 || is_tail {
        return 0.0;
    }
    let size = |row: &[usize]| -> f64 {
        let squared = |i: usize| {
            let weight = batch.importance_weights.as_ref().map_or(1.0, |w| w[i]);
            let p = batch.log_probs[i].exp();
            weight * weight * (1.0 - 2.0 * p + batch.sums_of_squares[i]).max(0.0)
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

fn against_group(
    batch: &Batch,
    sequence: usize,
    compared: Compared,
    divided: Divided,
    single_is_zero: bool,
) -> f64 {
    let group: Vec<usize> = (0..batch.sequences)
        .filter(|other| batch.group_ids[*other] == batch.group_ids[sequence])
        .filter(|other| !batch.row(*other).is_empty())
        .collect();
    let others: Vec<usize> = group.iter().copied().filter(|s| *s != sequence).collect();
    let score = batch.score(sequence);
    let mean = |of: &[usize]| of.iter().map(|s| batch.score(*s)).sum::<f64>() / of.len() as f64;
    let lonely = others.is_empty();
    let distance = match compared {
        _ if lonely && single_is_zero => 0.0,
        _ if lonely => score,
        Compared::Mean => score - mean(&group),
        Compared::Others => score - mean(&others),
        Compared::ByLength => {
            let length = |s: &usize| batch.row(*s).len() as f64;
            let total: f64 = group.iter().map(length).sum();
            let weighted: f64 = group.iter().map(|s| length(s) * batch.score(*s)).sum();
            score - weighted / total
        }
        Compared::BestOther => {
            let best = others.iter().map(|s| batch.score(*s));
            (score - best.fold(f64::NEG_INFINITY, f64::max)).max(0.0)
        }
    };
    let deviation = |of: &[usize]| {
        let mean = mean(of);
        let squares = of.iter().map(|s| (batch.score(*s) - mean).powi(2));
        (squares.sum::<f64>() / (of.len() - 1) as f64).sqrt()
    };
    match divided {
        Divided::Not => distance,
        Divided::ByMean(_) if lonely => distance,
        Divided::ByMean(_) if mean(&group) <= 0.0 => 0.0,
        Divided::ByMean(epsilon) => distance / (mean(&group) + epsilon),
        Divided::ByGroup(epsilon) | Divided::ByOthers(epsilon) | Divided::ByBatch(epsilon)
            if lonely =>
        {
            distance / (1.0 + epsilon)
        }
        Divided::ByGroup(epsilon) => distance / (deviation(&group) + epsilon),
        Divided::ByOthers(epsilon) => {
            let first = batch.score(others[0]);
            match others.iter().all(|s| batch.score(*s) == first) {
                true => distance,
                false => distance / (deviation(&others) + epsilon),
            }
        }
        Divided::ByBatch(epsilon) => {
            let all: Vec<usize> = (0..batch.sequences)
                .filter(|s| !batch.row(*s).is_empty())
                .collect();
            distance / (deviation(&all) + epsilon)
        }
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
        "k3" => {
            let x = (-distance).clamp(-20.0, 20.0);
            match x.abs() < 1e-2 {
                // Six terms: the next one is below 1e-15 of the sum.
                true => (2..8).map(|k| x.powi(k) / factorial(k)).sum(),
                false => x.exp_m1() - x,
            }
        }
        "abs" => distance.abs(),
        other => panic!("no estimate of that name: {other}"),
    }
}

fn factorial(k: i32) -> f64 {
    (1..=k).map(f64::from).product()
}

/// What a teacher adds to an advantage, or multiplies it by.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Teacher {
    Adds {
        coefficient: f64,
        clamp: Option<f64>,
        discount: f64,
        early_weight: Option<f64>,
    },
    Multiplies {
        mix: f64,
        clip: f64,
        negative_only: bool,
    },
}

/// The advantages of one sequence with a teacher in them; `gaps` are teacher minus policy.
pub fn taught(teacher: &Teacher, advantages: &[f64], gaps: &[f64], valid: &[bool]) -> Vec<f64> {
    let tokens = 0..gaps.len();
    let at = |t: usize, x: f64| if valid[t] { x } else { 0.0 };
    let changed = |t: usize| match *teacher {
        Teacher::Adds {
            coefficient,
            clamp,
            discount,
            early_weight,
        } => {
            let clamped = |t: usize| {
                let limit = clamp.unwrap_or(f64::INFINITY);
                at(t, gaps[t]).max(-limit).min(limit)
            };
            let all: f64 = tokens.clone().map(|t| clamped(t).abs()).sum();
            let weighed = |t: usize| {
                let before: f64 = (0..t).map(|s| clamped(s).abs()).sum();
                let left = 1.0 - before / all.max(1e-8);
                clamped(t) * (1.0 + early_weight.unwrap_or(0.0) * left)
            };
            let ahead = (t..gaps.len()).map(|k| discount.powi((k - t) as i32) * weighed(k));
            advantages[t] + coefficient * ahead.sum::<f64>()
        }
        Teacher::Multiplies {
            mix,
            clip,
            negative_only,
        } => match advantages[t] {
            0.0 => 0.0,
            a if a > 0.0 && negative_only => a,
            a => {
                let factor = (a.signum() * gaps[t]).exp();
                a * (1.0 - mix + mix * factor.clamp(1.0 - clip, 1.0 + clip))
            }
        },
    };
    tokens
        .clone()
        .map(|t| at(t, if valid[t] { changed(t) } else { 0.0 }))
        .collect()
}

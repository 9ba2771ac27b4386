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

/// How advantages come about.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Estimator {
    Critic {
        gamma: f64,
        lambda: f64,
    },
    Return {
        gamma: f64,
        baseline: bool,
    },
    Group {
        compared: Compared,
        deviation_epsilon: Option<f64>,
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
        Estimator::Critic { gamma, lambda } => {
            for sequence in 0..batch.sequences {
                // A list of the valid tokens has no gaps.
                let (mut next_value, mut next_advantage) = (0.0, 0.0);
                for i in batch.row(sequence).into_iter().rev() {
                    let delta = batch.rewards[i] + gamma * next_value - batch.values[i];
                    next_advantage = delta + gamma * lambda * next_advantage;
                    next_value = batch.values[i];
                    advantages[i] = next_advantage;
                    returns[i] = next_advantage + batch.values[i];
                }
            }
        }
        Estimator::Return { gamma, baseline } => {
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
        }
        Estimator::Group {
            compared,
            deviation_epsilon,
            active_share,
        } => {
            for sequence in 0..batch.sequences {
                let mut advantage = against_group(batch, sequence, compared, deviation_epsilon);
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

fn against_group(
    batch: &Batch,
    sequence: usize,
    compared: Compared,
    deviation_epsilon: Option<f64>,
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
    let Some(epsilon) = deviation_epsilon else {
        return distance;
    };
    let deviation = match lonely {
        true => 1.0,
        false => {
            let mean = mean(&group);
            let squares = group.iter().map(|s| (batch.score(*s) - mean).powi(2));
            (squares.sum::<f64>() / (group.len() - 1) as f64).sqrt()
        }
    };
    distance / (deviation + epsilon)
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

//! The policy loss as plain loops over `f64`: no tensor, no broadcasting, no automatic
//! differentiation, and no line shared with the library.
//!
//! The gradient is derived by hand, with the declared sub-gradients: inside a clamp it is 1, a
//! clipped branch carries none, a tie takes the unclipped branch, and beyond a log-ratio of ±20
//! it is 0.

mod answer;
mod metrics;
mod objective;

pub use answer::Answer;
pub use metrics::Metrics;
pub use objective::{Base, Batch, Correction, Level, Objective, Scale};

use metrics::Observed;

/// Beyond this, a log-ratio is clamped.
const LIMIT: f64 = 20.0;

/// What `objective` makes of `batch`.
pub fn solve(objective: &Objective, batch: &Batch, scale: Option<Scale>) -> Answer {
    let tokens: Vec<Token> = tokens(objective, batch);
    let mut answer = Answer::zeros(tokens.len());
    let coefficients = coefficients(objective, batch, scale);

    // d loss / d ratio of a token, before the chain rule through the ratio.
    let mut slopes = vec![0.0; tokens.len()];
    for (i, token) in tokens.iter().enumerate() {
        if !batch.valid[i] {
            continue;
        }
        answer.token_losses[i] = -token.surrogate * token.weight;
        answer.loss += answer.token_losses[i] * coefficients[i];
        slopes[i] = match token.follows_ratio() {
            true => -batch.advantages[i] * token.weight * coefficients[i],
            false => 0.0,
        };
    }
    for row in batch.rows() {
        match objective.level {
            Level::Token => {
                for i in row {
                    answer.gradient[i] = slopes[i] * tokens[i].ratio_slope;
                }
            }
            Level::Sequence => {
                let slope: f64 = row.clone().map(|i| slopes[i]).sum();
                let n = batch.count(row.clone());
                for i in row.filter(|i| batch.valid[*i]) {
                    answer.gradient[i] = slope * tokens[i].ratio_slope / n;
                }
            }
        }
    }
    let observed = Observed {
        objective,
        batch,
        tokens: &tokens,
    };
    answer.metrics = observed.metrics();
    answer
}

/// What one token looks like; masked ones are never read.
#[derive(Clone, Copy, Default)]
struct Token {
    ratio: f64,
    /// d ratio / d log-ratio of its own or of its sequence's mean.
    ratio_slope: f64,
    surrogate: f64,
    clipped: bool,
    dual_clipped: bool,
    rho: f64,
    weight: f64,
    truncated: bool,
    zeroed: bool,
}

impl Token {
    fn follows_ratio(&self) -> bool {
        !self.clipped && !self.dual_clipped
    }
}

fn tokens(objective: &Objective, batch: &Batch) -> Vec<Token> {
    let mut tokens = vec![Token::default(); batch.valid.len()];
    for row in batch.rows() {
        let n = batch.count(row.clone());
        let valid: Vec<usize> = row.filter(|i| batch.valid[*i]).collect();
        let log_ratio = |i: usize| batch.log_probs[i] - batch.base(objective)[i];
        let mean_log_ratio = valid.iter().map(|&i| log_ratio(i)).sum::<f64>() / n;
        for &i in &valid {
            let log_ratio = match objective.level {
                Level::Token => log_ratio(i),
                Level::Sequence => mean_log_ratio,
            };
            surrogate(objective, log_ratio, batch.advantages[i], &mut tokens[i]);
        }
        weights(objective, batch, &valid, &mut tokens);
    }
    tokens
}

fn surrogate(objective: &Objective, log_ratio: f64, advantage: f64, token: &mut Token) {
    let ratio = log_ratio.clamp(-LIMIT, LIMIT).exp();
    let bounded = ratio.clamp(1.0 - objective.low, 1.0 + objective.high);
    let (unclipped, clipped) = (ratio * advantage, bounded * advantage);
    token.ratio = ratio;
    token.ratio_slope = match log_ratio.abs() > LIMIT {
        true => 0.0,
        false => ratio,
    };
    token.clipped = clipped < unclipped;
    token.surrogate = match token.clipped {
        true => clipped,
        false => unclipped,
    };
    if let Some(dual_clip) = objective.dual_clip {
        let floor = dual_clip * advantage;
        if advantage < 0.0 && token.surrogate < floor {
            token.dual_clipped = true;
            token.surrogate = floor;
        }
    }
}

fn weights(objective: &Objective, batch: &Batch, valid: &[usize], tokens: &mut [Token]) {
    let Some(correction) = objective.correction else {
        for &i in valid {
            tokens[i].weight = 1.0;
        }
        return;
    };
    let rollout = batch.rollout.as_ref().expect("a correction needs rollout");
    let gap = |i: usize| batch.old_log_probs[i] - rollout[i];
    let mean_gap = valid.iter().map(|&i| gap(i)).sum::<f64>() / valid.len() as f64;
    let inside = |x: f64, low: f64, high: f64| low <= x && x <= high;
    for &i in valid {
        let token = &mut tokens[i];
        token.rho = gap(i).exp();
        match correction {
            Correction::Truncate { low, high } => {
                token.weight = token.rho.clamp(low, high);
                token.truncated = !inside(token.rho, low, high);
            }
            Correction::Mask { low, high } => token.zeroed = !inside(token.rho, low, high),
            Correction::SequenceMask { low, high } => {
                token.zeroed = !inside(mean_gap.exp(), low, high);
            }
        }
        match correction {
            Correction::Truncate { .. } => {}
            _ if token.zeroed => token.weight = 0.0,
            _ => token.weight = token.rho,
        }
    }
}

/// What each token's loss is multiplied by in the reduced loss.
fn coefficients(objective: &Objective, batch: &Batch, scale: Option<Scale>) -> Vec<f64> {
    let all = batch.valid.iter().filter(|valid| **valid).count() as f64;
    let sequences = batch
        .rows()
        .filter(|row| batch.count(row.clone()) > 0.0)
        .count() as f64;
    let mut coefficients = vec![0.0; batch.valid.len()];
    for row in batch.rows() {
        let n = batch.count(row.clone());
        for i in row.filter(|i| batch.valid[*i]) {
            let (share, count) = match objective.sequence_mean {
                true => (1.0 / n, sequences),
                false => (1.0, all),
            };
            coefficients[i] = match scale {
                Some(Scale { total, world_size }) => share / total * world_size,
                None => share / count,
            };
        }
    }
    coefficients
}

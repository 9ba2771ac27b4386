//! A loop that reads like the contract, and shares no code with the kernels.

use crate::{Objective, RatioBase, RatioLevel, Reduction, Summary, Surrogate, Weight};

use super::Data;

const ELSEWHERE: &str = "the matrix of the library tests the other objectives";

/// What the contract says, and what the loop knows beyond it.
pub struct Expected {
    pub summary: Summary,
    pub gradient: Vec<f64>,
    pub token_losses: Vec<f64>,
    /// Sums of absolute values, for each token: where terms cancel in a gradient that a
    /// sequence shares, the error is relative to these.
    pub gradient_sizes: Vec<f64>,
    /// The distance, in relative terms, of the nearest decision from its threshold: where
    /// it is tiny, f32 may rightly decide otherwise.
    pub margin: f64,
}

pub fn expected(data: &Data, objective: &Objective) -> Expected {
    let (rows, tokens) = (data.sequences, data.tokens);
    let log_probs = data.log_probs.to_f64();
    let old = data.old_log_probs.to_f64();
    let rollout = data.rollout_log_probs.to_f64();
    let advantages = data.advantages.to_f64();
    let valid = |row: usize, token: usize| {
        data.mask
            .as_ref()
            .is_none_or(|mask| mask[row * tokens + token])
    };
    let valid_tokens = |row: usize| (0..tokens).filter(|&token| valid(row, token)).count();

    let n: usize = (0..rows).map(valid_tokens).sum();
    let sequences = (0..rows).filter(|&row| valid_tokens(row) > 0).count();
    let scale = objective.scale.unwrap_or(match objective.reduction {
        Reduction::TokenMean => 1.0 / n.max(1) as f64,
        Reduction::SequenceMean => 1.0 / sequences.max(1) as f64,
        Reduction::SequenceSum { length } => 1.0 / (sequences.max(1) * length) as f64,
        Reduction::TokenSum => 1.0,
    });

    let mut summary = Summary {
        valid_tokens: n as f64,
        valid_sequences: sequences as f64,
        min_ratio: f64::INFINITY,
        max_ratio: f64::NEG_INFINITY,
        ..Summary::default()
    };
    let mut gradient = vec![0.0; rows * tokens];
    let mut token_losses = vec![0.0; rows * tokens];
    let mut gradient_sizes = vec![0.0; rows * tokens];
    let mut margin = f64::INFINITY;
    let mut decide = |value: f64, threshold: f64| {
        margin = margin.min((value - threshold).abs() / threshold.abs().max(1e-9));
    };

    for row in 0..rows {
        let n_b = valid_tokens(row);
        if n_b == 0 {
            continue;
        }
        let factor = match objective.reduction {
            Reduction::SequenceMean => scale / n_b as f64,
            _ => scale,
        };
        let mean = |f: &dyn Fn(usize) -> f64| {
            let indices = (0..tokens).filter(|&token| valid(row, token));
            indices.map(|token| f(row * tokens + token)).sum::<f64>() / n_b as f64
        };
        let log_ratio = |index: usize| match objective.ratio_base {
            RatioBase::Old => log_probs[index] - old[index],
            RatioBase::Rollout => log_probs[index] - rollout[index],
        };
        let mean_log_ratio = mean(&log_ratio);
        let geometric_mean = mean(&|index| old[index] - rollout[index]).exp();

        let (mut shared, mut shared_size) = (0.0, 0.0);
        for token in (0..tokens).filter(|&token| valid(row, token)) {
            let index = row * tokens + token;
            let advantage = advantages[if data.per_sequence { row } else { index }];
            let d = match objective.ratio_level {
                RatioLevel::Token => log_ratio(index),
                RatioLevel::Sequence => mean_log_ratio,
                _ => unreachable!("{ELSEWHERE}"),
            };
            decide(d.abs(), 20.0);
            let ratio = d.clamp(-20.0, 20.0).exp();
            let mut passes = d.abs() <= 20.0;

            let Surrogate::Clip(clip) = objective.surrogate else {
                unreachable!("{ELSEWHERE}");
            };
            let (low, high) = (1.0 - clip.low, 1.0 + clip.high);
            decide(ratio, low);
            decide(ratio, high);
            let unclipped = ratio * advantage;
            let clipped = ratio.clamp(low, high) * advantage;
            let mut surrogate = unclipped;
            if clipped < unclipped {
                surrogate = clipped;
                passes = false;
                summary.clipped_above += f64::from(u8::from(advantage > 0.0));
                summary.clipped_below += f64::from(u8::from(advantage < 0.0));
            }
            if let Some(c) = clip.dual.filter(|_| advantage < 0.0) {
                decide(surrogate, c * advantage);
                if c * advantage > surrogate {
                    surrogate = c * advantage;
                    passes = false;
                    summary.dual_clipped += 1.0;
                }
            }

            let rho = (old[index] - rollout[index]).exp();
            let weight = match objective.weight {
                Weight::None => 1.0,
                Weight::Given => unreachable!("{ELSEWHERE}"),
                Weight::Truncate { low, high } => {
                    decide(rho, low);
                    decide(rho, high);
                    summary.truncated += f64::from(u8::from(rho < low || rho > high));
                    rho.clamp(low, high)
                }
                Weight::Mask { low, high } | Weight::SequenceMask { low, high } => {
                    let decisive = match objective.weight {
                        Weight::Mask { .. } => rho,
                        _ => geometric_mean,
                    };
                    decide(decisive, low);
                    decide(decisive, high);
                    let rejected = decisive < low || decisive > high;
                    summary.zeroed += f64::from(u8::from(rejected));
                    if rejected { 0.0 } else { rho }
                }
            };
            if objective.weight != Weight::None {
                summary.rollout_log_ratio += rollout[index] - old[index];
                summary.weight += weight;
                summary.squared_weight += weight * weight;
            }

            token_losses[index] = -surrogate * weight;
            summary.loss += token_losses[index] * factor;
            let slope = if passes {
                -advantage * weight * ratio
            } else {
                0.0
            };
            match objective.ratio_level {
                RatioLevel::Token => gradient[index] = slope * factor,
                RatioLevel::Sequence => {
                    shared += slope * factor / n_b as f64;
                    shared_size += (slope * factor / n_b as f64).abs();
                }
                _ => unreachable!("{ELSEWHERE}"),
            }

            let log_ratio_to_old = log_probs[index] - old[index];
            let c = log_ratio_to_old.clamp(-20.0, 20.0);
            summary.negative_log_ratio -= log_ratio_to_old;
            summary.squared_log_ratio += log_ratio_to_old * log_ratio_to_old;
            summary.k3 += c.exp_m1() - c;
            summary.ratio += ratio;
            summary.squared_ratio += ratio * ratio;
            summary.min_ratio = summary.min_ratio.min(ratio);
            summary.max_ratio = summary.max_ratio.max(ratio);
        }
        if objective.ratio_level == RatioLevel::Sequence {
            for token in (0..tokens).filter(|&token| valid(row, token)) {
                gradient[row * tokens + token] = shared;
                gradient_sizes[row * tokens + token] = shared_size;
            }
        }
    }
    if n == 0 {
        (summary.min_ratio, summary.max_ratio) = (0.0, 0.0);
    }
    Expected {
        summary,
        gradient,
        token_losses,
        gradient_sizes,
        margin,
    }
}

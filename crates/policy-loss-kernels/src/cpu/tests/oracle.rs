//! A loop that reads like the contract, and shares no code with the kernels.

use crate::{
    Correction, FilterEstimator, FilterLevel, Objective, Range, RatioBase, RatioLevel, Reduction,
    Summary, Surrogate, Weight, WeightLevel, WeightMode,
};

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
        let gaps: Vec<f64> = (0..tokens)
            .filter(|&token| valid(row, token))
            .map(|token| old[row * tokens + token] - rollout[row * tokens + token])
            .collect();

        let of_sequence = OfSequence::new(objective.correction.as_ref(), &gaps, &mut decide);

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

            let mut weight = 1.0;
            if let Some(correction) = &objective.correction {
                let gap = old[index] - rollout[index];
                let weighed = weigh(correction, &of_sequence, gap, &mut decide);
                weight = weighed.weight;
                summary.truncated += f64::from(u8::from(weighed.truncated));
                summary.zeroed += f64::from(u8::from(weighed.zeroed));
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

struct Weighed {
    weight: f64,
    truncated: bool,
    zeroed: bool,
}

/// What the gaps of a sequence say.
struct OfSequence {
    sum: f64,
    mean: f64,
    zeroed: bool,
}

impl OfSequence {
    fn new(
        correction: Option<&Correction>,
        gaps: &[f64],
        decide: &mut dyn FnMut(f64, f64),
    ) -> Self {
        let sum = gaps.iter().sum::<f64>();
        let mut zeroed = false;
        for (level, estimator, range) in correction.iter().flat_map(|it| it.filters.iter()) {
            let estimates = gaps.iter().map(|&gap| estimate(estimator, gap));
            let statistic = match level {
                FilterLevel::Token => continue,
                FilterLevel::SequenceSum => estimates.sum(),
                FilterLevel::SequenceMean => estimates.sum::<f64>() / gaps.len() as f64,
                FilterLevel::SequenceMax => estimates.fold(f64::NEG_INFINITY, f64::max),
            };
            zeroed |= is_outside(estimator, statistic, range, decide);
        }
        if let Some(floor) = correction.and_then(|correction| correction.veto) {
            for gap in gaps {
                decide(gap.exp(), floor);
                zeroed |= gap.exp() < floor;
            }
        }
        Self {
            sum,
            mean: sum / gaps.len() as f64,
            zeroed,
        }
    }
}

fn estimate(estimator: FilterEstimator, gap: f64) -> f64 {
    let bounded = gap.clamp(-20.0, 20.0);
    match estimator {
        FilterEstimator::K1 => gap,
        FilterEstimator::K2 => gap * gap / 2.0,
        FilterEstimator::K3 => bounded.exp_m1() - bounded,
    }
}

fn is_outside(
    estimator: FilterEstimator,
    statistic: f64,
    range: Range,
    decide: &mut dyn FnMut(f64, f64),
) -> bool {
    let statistic = match estimator {
        FilterEstimator::K1 => statistic.exp(),
        _ => statistic,
    };
    decide(statistic, range.low);
    decide(statistic, range.high);
    statistic < range.low || statistic > range.high
}

/// The weight of the token with this gap.
fn weigh(
    correction: &Correction,
    sequence: &OfSequence,
    gap: f64,
    decide: &mut dyn FnMut(f64, f64),
) -> Weighed {
    let mut weighed = Weighed {
        weight: 1.0,
        truncated: false,
        zeroed: false,
    };
    match correction.weight {
        Weight::One => {}
        Weight::Given => unreachable!("{ELSEWHERE}"),
        Weight::Ratio { level, mode } => {
            let rho = match level {
                WeightLevel::Token => gap,
                WeightLevel::Sequence => sequence.sum.clamp(-20.0, 20.0),
                WeightLevel::Geometric => sequence.mean.clamp(-20.0, 20.0),
            }
            .exp();
            weighed.weight = rho;
            if let WeightMode::Truncate(range) | WeightMode::Mask(range) = mode {
                decide(rho, range.low);
                decide(rho, range.high);
                let outside = rho < range.low || rho > range.high;
                match mode {
                    WeightMode::Mask(_) => weighed.zeroed = outside,
                    _ => {
                        weighed.truncated = outside;
                        weighed.weight = rho.clamp(range.low, range.high);
                    }
                }
            }
        }
    }
    weighed.zeroed |= sequence.zeroed;
    for (level, estimator, range) in correction.filters.iter() {
        if level == FilterLevel::Token {
            weighed.zeroed |= is_outside(estimator, estimate(estimator, gap), range, decide);
        }
    }
    if weighed.zeroed {
        weighed.weight = 0.0;
    }
    weighed
}

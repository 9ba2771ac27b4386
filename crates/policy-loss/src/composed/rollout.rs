//! The correction for the mismatch between sampler and trainer.

use burn::tensor::{Bool, Tensor};

use super::kl::{expm1, k2, k3};
use super::ratio::{is_moved_into, is_within, limited, moved_into};
use crate::valid::{Valid, sum_per_row, total};
use crate::{
    Filter, FilterEstimator, FilterLevel, LEAST_PROBABILITY, RolloutCorrection, RolloutWeight,
    WeightLevel, WeightMode,
};

/// The rollout correction of each token, `[B, T]`.
pub(crate) struct Weights {
    /// `w`.
    pub weight: Tensor<2>,
    /// `old - rollout`, 0 at padding.
    pub gap: Tensor<2>,
    /// Where the weight was moved to a bound, for corrections that do so.
    pub truncated: Option<Tensor<2, Bool>>,
    /// Where the weight was set to 0, for corrections that do so.
    pub rejected: Option<Tensor<2, Bool>>,
}

/// The log-probs of the policy that the update started from, and of the one that sampled,
/// `[B, T]`, 0 at padding.
pub(crate) struct Mismatch {
    pub old_log_probs: Tensor<2>,
    pub rollout_log_probs: Tensor<2>,
}

impl Mismatch {
    /// `old - rollout`.
    fn gap(&self) -> Tensor<2> {
        self.old_log_probs.clone() - self.rollout_log_probs.clone()
    }

    /// `p - q` of the tokens' probabilities.
    fn difference(&self) -> Tensor<2> {
        self.old_log_probs.clone().exp() - self.rollout_log_probs.clone().exp()
    }

    /// `max(D(p, q), D(q, p))` of the Bernoulli distributions with the tokens' probabilities.
    fn bernoulli_kl(&self) -> Tensor<2> {
        let least = LEAST_PROBABILITY;
        let [log_p, log_q] = [&self.old_log_probs, &self.rollout_log_probs]
            .map(|log_probs| log_probs.clone().clamp(least.ln(), 0.0));
        let [p, q] = [&log_p, &log_q].map(|log_probs| log_probs.clone().exp());
        let [rest_of_p, rest_of_q] =
            [&log_p, &log_q].map(|log_probs| expm1(log_probs.clone()).neg().clamp_min(least));
        let gap = log_p - log_q;
        let gap_of_rest = rest_of_p.clone().log() - rest_of_q.clone().log();
        let forward = p * gap.clone() + rest_of_p * gap_of_rest.clone();
        let backward = -(q * gap + rest_of_q * gap_of_rest);
        let is_larger = backward.clone().greater(forward.clone());
        forward.mask_where(is_larger, backward)
    }
}

/// The weights of tokens with these advantages, `[B, T]` or `[B, 1]`.
pub(crate) fn weights(
    correction: &RolloutCorrection,
    mismatch: &Mismatch,
    advantages: &Tensor<2>,
    valid: &Valid,
) -> Weights {
    let gap = mismatch.gap();
    let mut bounded = match correction.weight {
        Some(weight) => bounded_ratio(weight, gap.clone(), valid),
        None => BoundedRatio {
            weight: gap.ones_like(),
            truncated: None,
            masked: None,
        },
    };
    if let (true, Some(weight)) = (correction.normalize, correction.weight) {
        let mean = mean(weight.level, bounded.weight.clone(), valid);
        bounded.weight = bounded.weight / mean.reshape([1, 1]).expand(gap.dims());
    }
    let filtered = correction
        .filters
        .iter()
        .map(|filter| is_filtered(filter, mismatch, valid));
    let vetoed = correction.veto.map(|floor| is_vetoed(floor, &gap, valid));
    let mut dropped = filtered.chain(vetoed).reduce(Tensor::bool_or);
    if correction.only_moving_away {
        let away = moves_away(&gap, &advantages.clone().expand(gap.dims()));
        dropped = dropped.map(|dropped| dropped.bool_and(away));
    }
    let rejected = bounded
        .masked
        .into_iter()
        .chain(dropped)
        .reduce(Tensor::bool_or);
    Weights {
        weight: match &rejected {
            Some(rejected) => bounded.weight.mask_fill(rejected.clone(), 0),
            None => bounded.weight,
        },
        gap,
        truncated: bounded.truncated,
        rejected,
    }
}

/// The ratio of a weight within its bounds, `[B, T]`.
struct BoundedRatio {
    weight: Tensor<2>,
    /// Where it was moved to a bound.
    truncated: Option<Tensor<2, Bool>>,
    /// Where it was set to 0.
    masked: Option<Tensor<2, Bool>>,
}

fn bounded_ratio(weight: RolloutWeight, gap: Tensor<2>, valid: &Valid) -> BoundedRatio {
    let shape = gap.dims();
    let rho = match weight.level {
        WeightLevel::Token => gap.exp(),
        WeightLevel::Sequence => limited(sum_per_row(gap)).exp(),
        WeightLevel::Geometric => limited(valid.mean_per_sequence(gap)).exp(),
    };
    let rho = rho.expand(shape);
    match weight.mode {
        WeightMode::Truncate(bounds) => BoundedRatio {
            truncated: Some(is_moved_into(bounds, rho.clone())),
            weight: moved_into(bounds, rho),
            masked: None,
        },
        WeightMode::Mask(bounds) => {
            let masked = is_within(bounds, rho.clone()).bool_not();
            BoundedRatio {
                // Also before a mean is taken: a rejected weight may be infinite.
                weight: rho.mask_fill(masked.clone(), 0),
                truncated: None,
                masked: Some(masked),
            }
        }
        WeightMode::Raw => BoundedRatio {
            weight: rho,
            truncated: None,
            masked: None,
        },
    }
}

/// The mean of weights, `[1]`: over tokens, or over sequences where a sequence shares one; 1 where
/// every weight is 0.
fn mean(level: WeightLevel, weight: Tensor<2>, valid: &Valid) -> Tensor<1> {
    let selected = valid.select(weight);
    let mean = match level {
        WeightLevel::Token => valid.mean(selected),
        WeightLevel::Sequence | WeightLevel::Geometric => {
            total(valid.mean_per_sequence(selected)) / valid.sequences.clone().clamp_min(1)
        }
    };
    let nothing = mean.clone().equal_elem(0);
    mean.mask_fill(nothing, 1)
}

/// What the weights of a gap are divided by where they are normalized, `[1]`.
pub(crate) fn weight_mean(weight: RolloutWeight, gap: Tensor<2>, valid: &Valid) -> Tensor<1> {
    mean(
        weight.level,
        bounded_ratio(weight, gap, valid).weight,
        valid,
    )
}

/// Where an update moves a token further away from the sampler, `[B, T]`; also where nobody knows.
fn moves_away(gap: &Tensor<2>, advantages: &Tensor<2>) -> Tensor<2, Bool> {
    let at_least = |x: &Tensor<2>| x.clone().greater_equal_elem(0);
    let at_most = |x: &Tensor<2>| x.clone().lower_equal_elem(0);
    let down = at_least(gap).bool_and(at_most(advantages));
    let up = at_most(gap).bool_and(at_least(advantages));
    down.bool_or(up).bool_not()
}

/// Where a filter drops a token, `[B, T]`.
pub(crate) fn is_filtered(filter: Filter, mismatch: &Mismatch, valid: &Valid) -> Tensor<2, Bool> {
    let shape = mismatch.old_log_probs.dims();
    let estimate = match filter.estimator {
        FilterEstimator::K1 => mismatch.gap(),
        FilterEstimator::K2 => k2(mismatch.gap()),
        FilterEstimator::K3 => k3(mismatch.gap()),
        FilterEstimator::BernoulliKl => mismatch.bernoulli_kl(),
        FilterEstimator::Difference => mismatch.difference(),
        FilterEstimator::RatioDistance => expm1(mismatch.gap()).abs(),
    };
    let statistic = match filter.level {
        FilterLevel::Token => estimate,
        FilterLevel::SequenceSum => sum_per_row(estimate),
        FilterLevel::SequenceMean => valid.mean_per_sequence(estimate),
        FilterLevel::SequenceMax => valid.max_per_sequence(estimate),
        FilterLevel::SegmentMean => valid.mean_per_segment(estimate),
    };
    let bounded = match filter.estimator {
        // The ratio itself, so that a bound that is met exactly is kept.
        FilterEstimator::K1 => statistic.exp(),
        FilterEstimator::K2
        | FilterEstimator::K3
        | FilterEstimator::BernoulliKl
        | FilterEstimator::Difference
        | FilterEstimator::RatioDistance => statistic,
    };
    is_within(filter.bounds, bounded).bool_not().expand(shape)
}

/// Where a veto drops the sequence of a token, `[B, T]`.
fn is_vetoed(floor: f64, gap: &Tensor<2>, valid: &Valid) -> Tensor<2, Bool> {
    // rho >= floor, so that a NaN fails; ln is exact enough for a floor.
    let below = gap.clone().greater_equal_elem(floor.ln()).bool_not();
    valid.per_sequence_any(below).expand(gap.dims())
}

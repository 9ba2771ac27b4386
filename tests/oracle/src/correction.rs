//! The rollout weights.

use policy_loss_kernels::objective::{
    Bounds, Filter, FilterEstimator, FilterLevel, Objective, RolloutCorrection, WeightLevel,
    WeightMode,
};

use crate::{Batch, LIMIT, Margin, Token, k3};

/// Fills in the weights, and returns what they were divided by.
pub fn fill(
    correction: Option<&RolloutCorrection>,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) -> f64 {
    for token in tokens.iter_mut() {
        token.weight = 1.0;
        token.size.weight = 1.0;
    }
    let Some(correction) = correction else {
        return 1.0;
    };
    let gap = |i: usize| batch.gap(i);
    let rows = batch.rows();
    for row in &rows {
        let sum: f64 = row.iter().map(|&j| gap(j)).sum();
        let size: f64 = row.iter().map(|&j| gap(j).abs()).sum();
        for &i in row {
            let token = &mut tokens[i];
            weigh(correction, row.len(), sum, gap(i), token, margin);
            let exponent = match correction.weight.map(|weight| weight.level) {
                None => 0.0,
                Some(WeightLevel::Token) => gap(i).abs(),
                Some(WeightLevel::Sequence) => size,
                Some(WeightLevel::Geometric) => size / row.len() as f64,
            };
            token.size.weight = token.weight * (1.0 + exponent);
        }
    }
    let mut weight_mean = 1.0;
    if let (true, Some(weight)) = (correction.normalize, correction.weight) {
        weight_mean = normalize(weight.level, &rows, tokens);
    }
    let rejects = |filter: &Filter, among: &[usize], i: usize| {
        let statistic = statistic(filter.level, filter.estimator, among, i, batch);
        let bounds = match filter.estimator {
            FilterEstimator::K1 => logs(filter.bounds),
            FilterEstimator::K2
            | FilterEstimator::K3
            | FilterEstimator::BernoulliKl
            | FilterEstimator::Difference
            | FilterEstimator::RatioDistance => filter.bounds,
        };
        !inside(bounds, statistic, margin)
    };
    let segments = match correction.filters.of_segments() {
        true => batch.segments(),
        false => Vec::new(),
    };
    for segment in segments {
        let mut filters = correction.filters.iter().filter(is_of_segments);
        let is_out = filters.any(|filter| rejects(&filter, &segment, segment[0]));
        for i in segment {
            tokens[i].segment_rejected = is_out;
        }
    }
    for row in &rows {
        let mut filters_of_rows = correction.filters.iter().filter(is_of_sequences);
        let row_rejected = filters_of_rows.any(|filter| rejects(&filter, row, row[0]));
        let vetoed = correction.veto.is_some_and(|floor| {
            row.iter().any(|&j| {
                margin.meet(gap(j), floor.ln());
                // A gap that is no number clears no floor.
                gap(j).is_nan() || gap(j) < floor.ln()
            })
        });
        for &i in row {
            let mut filters_of_tokens = correction.filters.iter().filter(is_of_tokens);
            let rejected = row_rejected
                || tokens[i].segment_rejected
                || filters_of_tokens.any(|filter| rejects(&filter, row, i));
            let advantage = batch.advantages[i];
            let comes_back = correction.only_moving_away
                && ((gap(i) >= 0.0 && advantage <= 0.0) || (gap(i) <= 0.0 && advantage >= 0.0));
            if correction.only_moving_away && gap(i) != 0.0 {
                margin.meet(gap(i), 0.0);
            }
            let token = &mut tokens[i];
            token.zeroed |= (rejected || vetoed) && !comes_back;
            if token.zeroed {
                token.weight = 0.0;
                token.size.weight = 0.0;
            }
        }
    }
    weight_mean
}

fn is_of_tokens(filter: &Filter) -> bool {
    filter.level == FilterLevel::Token
}

fn is_of_segments(filter: &Filter) -> bool {
    filter.level == FilterLevel::SegmentMean
}

fn is_of_sequences(filter: &Filter) -> bool {
    !is_of_tokens(filter) && !is_of_segments(filter)
}

fn weigh(
    correction: &RolloutCorrection,
    length: usize,
    sum: f64,
    gap: f64,
    token: &mut Token,
    margin: &Margin,
) {
    let Some(weight) = correction.weight else {
        return;
    };
    let limited = |x: f64| {
        margin.meet(x.abs(), LIMIT);
        x.clamp(-LIMIT, LIMIT)
    };
    let log = match weight.level {
        WeightLevel::Token => gap,
        WeightLevel::Sequence => limited(sum),
        WeightLevel::Geometric => limited(sum / length as f64),
    };
    let rho = log.exp();
    match weight.mode {
        WeightMode::Raw => token.weight = rho,
        WeightMode::Truncate(bounds) => {
            // A weight that is no number has not been moved.
            token.truncated = !rho.is_nan() && !inside(logs(bounds), log, margin);
            let low = bounds.low.unwrap_or(0.0);
            token.weight = rho.clamp(low, bounds.high.unwrap_or(f64::INFINITY));
        }
        WeightMode::Mask(bounds) => {
            token.zeroed = !inside(logs(bounds), log, margin);
            token.weight = if token.zeroed { 0.0 } else { rho };
        }
    }
}

/// Divides the weights by their mean, where it is not 0, and returns what they were divided by.
fn normalize(level: WeightLevel, rows: &[Vec<usize>], tokens: &mut [Token]) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for row in rows {
        let of_the_row: f64 = row.iter().map(|&i| tokens[i].weight).sum();
        let n = row.len() as f64;
        match level {
            WeightLevel::Token => {
                sum += of_the_row;
                count += n;
            }
            WeightLevel::Sequence | WeightLevel::Geometric => {
                sum += of_the_row / n;
                count += 1.0;
            }
        }
    }
    let mean: f64 = sum / count;
    if mean == 0.0 || count == 0.0 {
        return 1.0;
    }
    for &i in rows.iter().flatten() {
        tokens[i].weight /= mean;
        tokens[i].size.weight /= mean;
    }
    mean
}

fn statistic(
    level: FilterLevel,
    estimator: FilterEstimator,
    among: &[usize],
    i: usize,
    batch: &Batch,
) -> f64 {
    let estimate = |i: usize| {
        let gap = batch.gap(i);
        let limited = gap.clamp(-LIMIT, LIMIT);
        match estimator {
            FilterEstimator::K1 => gap,
            FilterEstimator::K2 => gap * gap / 2.0,
            FilterEstimator::K3 => k3(limited),
            FilterEstimator::BernoulliKl => {
                let (p, q) = (batch.old(i), batch.rollout(i));
                largest([bernoulli_kl(p, q), bernoulli_kl(q, p)].into_iter())
            }
            FilterEstimator::Difference => batch.old(i).exp() - batch.rollout(i).exp(),
            FilterEstimator::RatioDistance => limited.exp_m1().abs(),
        }
    };
    let estimates = among.iter().map(|&j| estimate(j));
    match level {
        FilterLevel::Token => estimate(i),
        FilterLevel::SequenceSum => estimates.sum(),
        FilterLevel::SequenceMean | FilterLevel::SegmentMean => {
            estimates.sum::<f64>() / among.len() as f64
        }
        FilterLevel::SequenceMax => largest(estimates),
    }
}

/// The divergence of two coins, by the logarithms of how often they show heads. Neither shows the
/// same side always.
fn bernoulli_kl(log_p: f64, log_q: f64) -> f64 {
    let probability = |log: f64| log.exp().clamp(1e-8, 1.0);
    let rest = |log: f64| (-log.exp_m1()).clamp(1e-8, 1.0);
    let term = |p: f64, q: f64| p * (p / q).ln();
    term(probability(log_p), probability(log_q)) + term(rest(log_p), rest(log_q))
}

/// The largest; NaN where one of them is.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, |largest, value| {
        match largest.is_nan() || value.is_nan() {
            true => f64::NAN,
            false => largest.max(value),
        }
    })
}

fn logs(bounds: Bounds) -> Bounds {
    Bounds {
        low: bounds.low.map(f64::ln),
        high: bounds.high.map(f64::ln),
    }
}

/// Whether a value lies in bounds; NaN lies in none.
fn inside(bounds: Bounds, value: f64, margin: &Margin) -> bool {
    for bound in [bounds.low, bounds.high].into_iter().flatten() {
        margin.meet(value, bound);
    }
    let low = bounds.low.unwrap_or(f64::NEG_INFINITY);
    let high = bounds.high.unwrap_or(f64::INFINITY);
    low <= value && value <= high
}

/// A filter of this kind that rejects a part of a batch, on either side of its bounds where the
/// batch allows, and keeps a part; no statistic lies near a bound.
///
/// # Panics
///
/// The statistics of the batch are all alike.
#[must_use]
pub fn dividing_filter(level: FilterLevel, estimator: FilterEstimator, batch: &Batch) -> Filter {
    let highs = (0..60).map(|step| 20.0 * 0.87_f64.powi(step));
    let filters = highs.map(|high| Filter::new(level, estimator, Bounds::new(0.3 * high, high)));
    let divides = |filter: &Filter| {
        let mut objective = Objective::default();
        objective.rollout_correction = Some(RolloutCorrection::filter(*filter));
        let answer = crate::solve(&objective, batch, None);
        let tokens = answer.sums.valid_tokens;
        answer.margin > 1e-4 && (1.0..tokens).contains(&answer.sums.rejected_weights)
    };
    let mut filters = filters.filter(divides);
    filters.next().expect("bounds between the statistics")
}

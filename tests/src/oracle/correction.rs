//! The rollout weights.

use policy_loss::{
    Bounds, Filter, FilterEstimator, FilterLevel, RolloutCorrection, WeightLevel, WeightMode,
};

use super::{Batch, LIMIT, Margin, Token};

pub(super) fn fill(
    correction: Option<&RolloutCorrection>,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    for token in tokens.iter_mut() {
        token.weight = 1.0;
    }
    let Some(correction) = correction else { return };
    let gap = |i: usize| batch.old(i) - batch.rollout(i);
    let rows = batch.rows();
    for row in &rows {
        let sum: f64 = row.iter().map(|&j| gap(j)).sum();
        for &i in row {
            weigh(correction, row.len(), sum, gap(i), &mut tokens[i], margin);
        }
    }
    if let (true, Some(weight)) = (correction.normalize, correction.weight) {
        normalize(weight.level, &rows, tokens);
    }
    for row in &rows {
        let rejects = |filter: &Filter, i: usize| {
            let statistic = statistic(filter.level, filter.estimator, row, i, gap);
            let bounds = match filter.estimator {
                FilterEstimator::K1 => logs(filter.bounds),
                _ => filter.bounds,
            };
            !inside(bounds, statistic, margin)
        };
        let of_token = |filter: &&Filter| filter.level == FilterLevel::Token;
        let mut filters_of_rows = correction.filters.iter().filter(|f| !of_token(f));
        let row_rejected = filters_of_rows.any(|filter| rejects(filter, row[0]));
        let vetoed = correction.veto.is_some_and(|floor| {
            row.iter().any(|&j| {
                margin.meet(gap(j), floor.ln());
                gap(j) < floor.ln()
            })
        });
        for &i in row {
            let mut filters_of_tokens = correction.filters.iter().filter(of_token);
            let rejected = row_rejected || filters_of_tokens.any(|filter| rejects(filter, i));
            let token = &mut tokens[i];
            token.zeroed |= rejected || vetoed;
            if token.zeroed {
                token.weight = 0.0;
            }
        }
    }
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
        WeightMode::Raw(_) => token.weight = rho,
        WeightMode::Truncate(bounds) => {
            token.truncated = !inside(logs(bounds), log, margin);
            let low = bounds.low.unwrap_or(0.0);
            token.weight = rho.clamp(low, bounds.high.unwrap_or(f64::INFINITY));
        }
        WeightMode::Mask(bounds) => {
            token.zeroed = !inside(logs(bounds), log, margin);
            token.weight = if token.zeroed { 0.0 } else { rho };
        }
    }
}

fn normalize(level: WeightLevel, rows: &[Vec<usize>], tokens: &mut [Token]) {
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
    for &i in rows.iter().flatten() {
        if mean != 0.0 {
            tokens[i].weight /= mean;
        }
    }
}

fn statistic(
    level: FilterLevel,
    estimator: FilterEstimator,
    row: &[usize],
    i: usize,
    gap: impl Fn(usize) -> f64,
) -> f64 {
    let estimate = |i: usize| {
        let gap = gap(i);
        let limited = gap.clamp(-LIMIT, LIMIT);
        match estimator {
            FilterEstimator::K1 => gap,
            FilterEstimator::K2 => gap * gap / 2.0,
            FilterEstimator::K3 => limited.exp_m1() - limited,
        }
    };
    let estimates = row.iter().map(|&j| estimate(j));
    match level {
        FilterLevel::Token => estimate(i),
        FilterLevel::SequenceSum => estimates.sum(),
        FilterLevel::SequenceMean => estimates.sum::<f64>() / row.len() as f64,
        FilterLevel::SequenceMax => estimates.fold(f64::NEG_INFINITY, f64::max),
    }
}

fn logs(bounds: Bounds) -> Bounds {
    Bounds {
        low: bounds.low.map(f64::ln),
        high: bounds.high.map(f64::ln),
    }
}

fn inside(bounds: Bounds, value: f64, margin: &Margin) -> bool {
    for bound in [bounds.low, bounds.high].into_iter().flatten() {
        margin.meet(value, bound);
    }
    bounds.low.is_none_or(|low| low <= value) && bounds.high.is_none_or(|high| value <= high)
}

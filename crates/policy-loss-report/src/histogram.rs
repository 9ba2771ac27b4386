//! Counts of logarithms, by the sign of the advantage.

use serde::Serialize;

/// Bars of a histogram.
const BINS: usize = 72;

/// Counts of logarithms in bins of one width; what lies beyond the first and the last bin is counted
/// in them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Histogram {
    low: f64,
    high: f64,
    /// Where the advantage is above 0.
    positive: Vec<usize>,
    /// Where the advantage is below 0.
    negative: Vec<usize>,
    /// Where it is 0.
    zero: Vec<usize>,
    /// Values that are no numbers.
    not_a_number: usize,
}

impl Histogram {
    /// Of pairs of a logarithm and an advantage. `shown` are logarithms that the axis must reach.
    pub fn new(values: &[(f64, f64)], shown: &[f64]) -> Self {
        let mut sorted: Vec<f64> = values.iter().map(|value| value.0).collect();
        sorted.retain(|value| value.is_finite());
        sorted.sort_unstable_by(f64::total_cmp);
        // One token in a thousand must not squeeze all others into a single bar.
        let outliers = sorted.len() / 1000;
        let low = sorted.get(outliers).copied();
        let high = sorted.iter().rev().nth(outliers).copied();
        let ends = shown.iter().copied().chain(low).chain(high).chain([0.0]);
        let (low, high) = ends.fold((0.0f64, 0.0f64), |(low, high), end| {
            (low.min(end), high.max(end))
        });
        let room = (0.04 * (high - low)).max(1e-6);
        let mut histogram = Self {
            low: low - room,
            high: high + room,
            positive: vec![0; BINS],
            negative: vec![0; BINS],
            zero: vec![0; BINS],
            not_a_number: 0,
        };
        let width = (histogram.high - histogram.low) / BINS as f64;
        for (value, advantage) in values {
            if value.is_nan() {
                histogram.not_a_number += 1;
                continue;
            }
            let bin = ((value - histogram.low) / width).clamp(0.0, (BINS - 1) as f64) as usize;
            let counts = match advantage {
                advantage if *advantage > 0.0 => &mut histogram.positive,
                advantage if *advantage < 0.0 => &mut histogram.negative,
                _ => &mut histogram.zero,
            };
            counts[bin] += 1;
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted_once() {
        let values = [
            (0.0, 1.0),
            (0.1, -1.0),
            (-0.1, 0.0),
            (f64::INFINITY, 1.0),
            (f64::NEG_INFINITY, -1.0),
            (f64::NAN, 1.0),
        ];
        let histogram = Histogram::new(&values, &[0.5]);
        let sum = |counts: &[usize]| counts.iter().sum::<usize>();
        assert_eq!(sum(&histogram.positive), 2);
        assert_eq!(sum(&histogram.negative), 2);
        assert_eq!(sum(&histogram.zero), 1);
        assert_eq!(histogram.not_a_number, 1);
        assert_eq!(histogram.positive[BINS - 1], 1);
        assert_eq!(histogram.negative[0], 1);
        assert!(histogram.low < -0.1 && histogram.high > 0.5);
        // No value at all has an axis too.
        let empty = Histogram::new(&[], &[]);
        assert!(empty.low < 0.0 && empty.high > 0.0);
    }
}

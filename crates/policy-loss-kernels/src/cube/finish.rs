//! From the sums of all cubes to the loss, the metrics and the gradient's factor.

use cubecl::prelude::*;

use super::blueprint::{Blueprint, Denominator, WeightKind};
use super::metric::Metric;
use super::sums::Slot;
use super::totals::Totals;

/// The size of a batch, and what replaces its counts.
#[derive(CubeType, CubeLaunch)]
pub struct BatchSize {
    /// Number of tokens, masked ones included.
    pub tokens: u32,
    pub sequences: u32,
    /// What each sequence counts for where the sum is divided by their number.
    pub length: InputScalar,
    /// The reduction's factor, if it is not taken from the batch's own counts.
    pub scale: InputScalar,
}

/// One cube adds up the partial sums `[slots, cubes]`.
#[cube(launch_unchecked)]
pub fn finish<A: Float>(
    partials: &[A],
    loss: &mut [A],
    metrics: &mut [A],
    factor: &mut [A],
    cubes: usize,
    size: &BatchSize,
    #[comptime] scaled: bool,
    #[comptime] cube_size: u32,
    #[comptime] blueprint: Blueprint,
    #[define(A)] _arithmetic: ElemType,
) {
    let totals = Totals::<A>::of(partials, cubes, cube_size, blueprint);
    if UNIT_POS == 0 {
        let mut tokens = A::cast_from(size.tokens);
        let mut sequences = A::cast_from(size.sequences);
        if comptime!(blueprint.masked) {
            tokens = totals.get(Slot::ValidTokens);
            sequences = totals.get(Slot::ValidSequences);
        }
        if comptime!(scaled) {
            let scale = size.scale.get::<A>();
            loss[0] = totals.get(Slot::Loss) * scale;
            factor[0] = scale;
        } else {
            let count = match blueprint.denominator {
                Denominator::Tokens => at_least_one::<A>(tokens),
                Denominator::Sequences => at_least_one::<A>(sequences) * size.length.get::<A>(),
                Denominator::One => A::new(1.0),
            };
            loss[0] = totals.get(Slot::Loss) / count;
            factor[0] = A::new(1.0) / count;
        }
        write_metrics::<A>(&totals, tokens, sequences, metrics, blueprint);
    }
}

#[cube]
fn write_metrics<A: Float>(
    totals: &Totals<A>,
    tokens: A,
    sequences: A,
    metrics: &mut [A],
    #[comptime] blueprint: Blueprint,
) {
    let count = at_least_one::<A>(tokens);
    let zero = A::new(0.0);
    let clipped_above = totals.get(Slot::ClippedAbove) / count;
    let clipped_below = totals.get(Slot::ClippedBelow) / count;
    // Subtracted from 0, not negated: no mean becomes -0.
    let kl = zero - totals.get(Slot::LogRatio) / count;
    let ratio_mean = totals.get(Slot::Ratio) / count;
    let smallest = totals.get(Slot::MinRatio);
    let largest = totals.get(Slot::MaxRatio);
    // Without a ratio that is a number the smallest exceeds the largest: either there is no
    // valid token, or all ratios are NaN, and their mean is.
    let none = smallest > largest;

    set(metrics, Metric::ClipRatio, clipped_above + clipped_below);
    set(metrics, Metric::PpoKl, kl);
    set(metrics, Metric::ClippedAbove, clipped_above);
    set(metrics, Metric::ClippedBelow, clipped_below);
    set(
        metrics,
        Metric::DualClipped,
        totals.get(Slot::DualClipped) / count,
    );
    set(metrics, Metric::RatioMean, ratio_mean);
    set(
        metrics,
        Metric::RatioMin,
        select(none, ratio_mean, smallest),
    );
    set(metrics, Metric::RatioMax, select(none, ratio_mean, largest));
    set(
        metrics,
        Metric::RatioEffectiveSampleSize,
        effective_sample_size::<A>(ratio_mean, totals.get(Slot::SquaredRatio) / count),
    );
    set(metrics, Metric::KlK1, kl);
    set(
        metrics,
        Metric::KlK2,
        totals.get(Slot::SquaredLogRatio) / count * A::new(0.5),
    );
    set(metrics, Metric::KlK3, totals.get(Slot::K3) / count);
    set(metrics, Metric::ValidTokens, tokens);
    set(metrics, Metric::ValidSequences, sequences);
    set(metrics, Metric::NonFinite, totals.get(Slot::NonFinite));

    if comptime!(blueprint.weighted()) {
        let weight_mean = totals.get(Slot::Weight) / count;
        let changed = totals.get(Slot::ChangedWeight) / count;
        let truncates = comptime!(blueprint.weight == WeightKind::Truncate);
        let truncated = if truncates { changed } else { zero };
        let zeroed = if truncates { zero } else { changed };
        set(
            metrics,
            Metric::RolloutKl,
            zero - totals.get(Slot::LogWeight) / count,
        );
        set(metrics, Metric::WeightMean, weight_mean);
        set(
            metrics,
            Metric::WeightEffectiveSampleSize,
            effective_sample_size::<A>(weight_mean, totals.get(Slot::SquaredWeight) / count),
        );
        set(metrics, Metric::WeightTruncated, truncated);
        set(metrics, Metric::WeightZeroed, zeroed);
    }
}

#[cube]
fn set<A: Float>(metrics: &mut [A], #[comptime] metric: Metric, value: A) {
    metrics[comptime!(metric as usize)] = value;
}

#[cube]
fn at_least_one<A: Float>(count: A) -> A {
    let one = A::new(1.0);
    select(count > one, count, one)
}

/// `mean(x)^2 / mean(x^2)`; 0 where every `x` is 0.
#[cube]
fn effective_sample_size<A: Float>(mean: A, mean_square: A) -> A {
    let nothing = mean_square == A::new(0.0);
    mean * mean / select(nothing, A::new(1.0), mean_square)
}

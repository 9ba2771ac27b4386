//! From the sums of all cubes to the loss, the metrics and the gradient's factor.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::kinds::Denominator;
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

    set(
        metrics,
        blueprint,
        Metric::ClipRatio,
        clipped_above + clipped_below,
    );
    set(metrics, blueprint, Metric::PpoKl, kl);
    set(metrics, blueprint, Metric::ClippedAbove, clipped_above);
    set(metrics, blueprint, Metric::ClippedBelow, clipped_below);
    set(
        metrics,
        blueprint,
        Metric::DualClipped,
        totals.get(Slot::DualClipped) / count,
    );
    set(metrics, blueprint, Metric::RatioMean, ratio_mean);
    set(
        metrics,
        blueprint,
        Metric::RatioMin,
        select(none, ratio_mean, smallest),
    );
    set(
        metrics,
        blueprint,
        Metric::RatioMax,
        select(none, ratio_mean, largest),
    );
    set(
        metrics,
        blueprint,
        Metric::RatioEffectiveSampleSize,
        effective_sample_size::<A>(ratio_mean, totals.get(Slot::SquaredRatio) / count),
    );
    set(metrics, blueprint, Metric::KlK1, kl);
    set(
        metrics,
        blueprint,
        Metric::KlK2,
        totals.get(Slot::SquaredLogRatio) / count * A::new(0.5),
    );
    set(
        metrics,
        blueprint,
        Metric::KlK3,
        totals.get(Slot::K3) / count,
    );
    set(metrics, blueprint, Metric::ValidTokens, tokens);
    set(metrics, blueprint, Metric::ValidSequences, sequences);
    set(
        metrics,
        blueprint,
        Metric::NonFinite,
        totals.get(Slot::NonFinite),
    );

    if comptime!(blueprint.weighted()) {
        let weight_mean = totals.get(Slot::Weight) / count;
        let truncated = totals.get(Slot::TruncatedWeight) / count;
        let zeroed = totals.get(Slot::ZeroedWeight) / count;
        set(
            metrics,
            blueprint,
            Metric::RolloutKl,
            zero - totals.get(Slot::LogWeight) / count,
        );
        set(metrics, blueprint, Metric::WeightMean, weight_mean);
        set(
            metrics,
            blueprint,
            Metric::WeightEffectiveSampleSize,
            effective_sample_size::<A>(weight_mean, totals.get(Slot::SquaredWeight) / count),
        );
        set(metrics, blueprint, Metric::WeightTruncated, truncated);
        set(metrics, blueprint, Metric::WeightZeroed, zeroed);
    }
    if comptime!(blueprint.off_policy) {
        let dropped = totals.get(Slot::Dropped) / count;
        set(metrics, blueprint, Metric::OffPolicyDropped, dropped);
    }
    if comptime!(blueprint.penalized()) {
        let kl = totals.get(Slot::Kl) / count;
        set(metrics, blueprint, Metric::Kl, kl);
    }
}

#[cube]
fn set<A: Float>(
    metrics: &mut [A],
    #[comptime] blueprint: Blueprint,
    #[comptime] metric: Metric,
    value: A,
) {
    let place = comptime!({
        let metrics = blueprint.metrics();
        metrics
            .iter()
            .position(|other| *other == metric)
            .unwrap_or(0)
    });
    metrics[place] = value;
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

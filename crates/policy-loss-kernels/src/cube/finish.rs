//! From the partial sums of all cubes to the loss, the metrics and the gradient's factor.

use cubecl::prelude::*;

use super::blueprint::{Blueprint, WeightKind};
use super::sums::{Slot, combine, neutral};

/// The place of each metric among the packed metrics.
#[derive_cube_comptime]
pub enum Metric {
    ClipRatio,
    PpoKl,
    ClippedAbove,
    ClippedBelow,
    DualClipped,
    RatioMean,
    RatioMin,
    RatioMax,
    RatioEffectiveSampleSize,
    KlK1,
    KlK2,
    KlK3,
    ValidTokens,
    ValidSequences,
    NonFinite,
    RolloutKl,
    WeightMean,
    WeightEffectiveSampleSize,
    WeightTruncated,
    WeightZeroed,
}

/// Number of packed metrics; those of the weights are absent without one.
pub fn metric_count(weighted: bool) -> usize {
    match weighted {
        true => Metric::WeightZeroed as usize + 1,
        false => Metric::NonFinite as usize + 1,
    }
}

/// The size of a batch, and what replaces its counts.
#[derive(CubeType, CubeLaunch)]
pub struct BatchSize {
    /// Number of tokens, masked ones included.
    pub tokens: u32,
    pub sequences: u32,
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
    let mut totals = Totals::<A>::new(cube_size, blueprint);
    totals.gather(partials, cubes);
    if UNIT_POS == 0 {
        let mut tokens = A::cast_from(size.tokens);
        let mut sequences = A::cast_from(size.sequences);
        if comptime!(blueprint.masked) {
            tokens = totals.get(Slot::ValidTokens);
            sequences = totals.get(Slot::ValidSequences);
        }
        let reduced = if comptime!(blueprint.sequence_mean) {
            sequences
        } else {
            tokens
        };
        if comptime!(scaled) {
            let scale = size.scale.get::<A>();
            loss[0] = totals.get(Slot::Loss) * scale;
            factor[0] = scale;
        } else {
            let count = at_least_one::<A>(reduced);
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

/// The sums of all cubes, in shared memory: counts as integers, since f32 loses them above
/// 2^24. A cube's own counts are far below that, and exact as floats.
#[derive(CubeType)]
struct Totals<A: Float> {
    floats: Shared<[A]>,
    counts: Shared<[u32]>,
    #[cube(comptime)]
    cube_size: u32,
    #[cube(comptime)]
    blueprint: Blueprint,
}

#[cube]
impl<A: Float> Totals<A> {
    fn new(#[comptime] cube_size: u32, #[comptime] blueprint: Blueprint) -> Self {
        let length = comptime!(blueprint.slots().len() * cube_size as usize);
        Totals::<A> {
            floats: Shared::new_slice(length),
            counts: Shared::new_slice(length),
            cube_size,
            blueprint,
        }
    }

    /// Adds up the columns of `[slots, cubes]`, always in the same order.
    fn gather(&mut self, partials: &[A], cubes: usize) {
        let slots = comptime!(self.blueprint.slots());
        let size = comptime!(self.cube_size as usize);
        let unit = UNIT_POS as usize;
        #[unroll]
        for k in 0..comptime!(slots.len()) {
            let slot = comptime!(slots[k]);
            let place = k * size + unit;
            if comptime!(slot.is_count()) {
                let mut count = 0u32;
                let mut cube = unit;
                while cube < cubes {
                    count += u32::cast_from(partials[k * cubes + cube]);
                    cube += size;
                }
                self.counts[place] = count;
            } else {
                let mut sum = neutral::<A>(slot);
                let mut cube = unit;
                while cube < cubes {
                    sum = combine::<A>(slot, sum, partials[k * cubes + cube]);
                    cube += size;
                }
                self.floats[place] = sum;
            }
        }
        sync_cube();
        #[unroll]
        for step in 0..comptime!(self.cube_size.ilog2()) {
            let half = comptime!(size >> (step + 1));
            if unit < half {
                #[unroll]
                for k in 0..comptime!(slots.len()) {
                    let slot = comptime!(slots[k]);
                    let place = k * size + unit;
                    if comptime!(slot.is_count()) {
                        let other = self.counts[place + half];
                        self.counts[place] += other;
                    } else {
                        let sum = self.floats[place];
                        let other = self.floats[place + half];
                        self.floats[place] = combine::<A>(slot, sum, other);
                    }
                }
            }
            sync_cube();
        }
    }

    /// A sum of the whole batch; 0 for one that the objective does not need.
    fn get(&self, #[comptime] slot: Slot) -> A {
        let position = comptime!(self.blueprint.slots().iter().position(|&it| it == slot));
        let place = comptime!(position.unwrap_or(0) * self.cube_size as usize);
        if comptime!(position.is_none()) {
            A::new(0.0)
        } else if comptime!(slot.is_count()) {
            A::cast_from(self.counts[place])
        } else {
            self.floats[place]
        }
    }
}

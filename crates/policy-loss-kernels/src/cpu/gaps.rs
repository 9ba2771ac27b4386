//! What the gaps between the old policy and the sampler say of a whole row.

use pulp::{Arch, Simd, WithSimd};

use crate::{
    Correction, FilterEstimator, FilterLevel, LOG_RATIO_BOUND, Range, Weight, WeightLevel,
    WeightMode,
};

use super::batch::{Floats, Mask};
use super::exp::Exponential;
use super::gather::Place;
use super::lanes::Lanes;
use super::real::Real;
use super::stage::Scratch;
use super::sums::stretches;
use super::token::log_ratio_bounds;

/// Sums over the gaps `g = old_log_probs - rollout_log_probs` of a row's valid tokens.
#[derive(Clone, Copy, Debug)]
pub struct Gaps {
    pub sum: f64,
    /// Of `g² / 2`.
    pub half_squares: f64,
    /// Of `expm1(g) - g`, with `g` within ±20; 0 where no filter asks for it.
    pub k3: f64,
    /// NaN is left out.
    pub smallest: f64,
    /// NaN is left out.
    pub largest: f64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self {
            sum: 0.0,
            half_squares: 0.0,
            k3: 0.0,
            smallest: f64::INFINITY,
            largest: f64::NEG_INFINITY,
        }
    }
}

/// The weights of a row's tokens, as far as the row decides on them.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowWeight {
    /// The weight of every token, where the row has one.
    pub of_row: Option<f64>,
    /// Bounds of the weight.
    pub low: f64,
    /// Bounds of the weight.
    pub high: f64,
    /// What a weight below its bounds becomes.
    pub below: f64,
    /// What a weight above its bounds becomes.
    pub above: f64,
    /// What a weight that is not a number becomes before the bounds see it.
    pub of_nan: f64,
    /// Whether every weight is 0.
    pub is_rejected: bool,
}

impl Gaps {
    /// Adds those of other tokens of the row.
    pub fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.half_squares += other.half_squares;
        self.k3 += other.k3;
        self.smallest = self.smallest.min(other.smallest);
        self.largest = self.largest.max(other.largest);
    }

    /// What a filter of sequences compares with its range, in a row of `tokens` valid tokens.
    fn statistic(&self, level: FilterLevel, estimator: FilterEstimator, tokens: f64) -> f64 {
        let (sum, largest) = match estimator {
            FilterEstimator::K1 => (self.sum, self.largest),
            FilterEstimator::K2 => {
                let magnitude = self.largest.max(-self.smallest);
                (self.half_squares, magnitude * magnitude / 2.0)
            }
            // Convex, so that it is largest at one of the ends.
            FilterEstimator::K3 => (self.k3, k3(self.smallest).max(k3(self.largest))),
        };
        let statistic = match level {
            // A NaN among the gaps must be seen.
            _ if self.sum.is_nan() => f64::NAN,
            FilterLevel::Token | FilterLevel::SequenceMax => largest,
            FilterLevel::SequenceSum => sum,
            FilterLevel::SequenceMean => sum / tokens,
        };
        match estimator {
            FilterEstimator::K1 => statistic.exp(),
            FilterEstimator::K2 | FilterEstimator::K3 => statistic,
        }
    }
}

fn k3(gap: f64) -> f64 {
    let gap = gap.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND);
    gap.exp_m1() - gap
}

impl RowWeight {
    /// Without a correction every weight is 1.
    pub fn new<T: Real>(correction: Option<&Correction>, gaps: &Gaps, valid: usize) -> Self {
        let weight = correction.map_or(Weight::One, |correction| correction.weight);
        let mode = correction.map_or(WeightMode::Raw, Correction::mode);
        let tokens = valid.max(1) as f64;
        // `clamp` keeps NaN.
        let ratio = |gap: f64| rounded::<T>(gap.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp());
        let (low, high) = match mode {
            WeightMode::Raw => (f64::NEG_INFINITY, f64::INFINITY),
            WeightMode::Truncate(Range { low, high }) => (low, high),
            // No weight is below 0.
            WeightMode::Mask(Range { low, high }) => (low.max(0.0), high),
        };
        let (below, above, of_nan) = match mode {
            WeightMode::Raw | WeightMode::Truncate(_) => (low, high, f64::NAN),
            // NaN lies in no range, and is rejected; elsewhere it reaches the loss.
            WeightMode::Mask(_) => (0.0, 0.0, f64::NEG_INFINITY),
        };
        Self {
            of_row: match weight {
                Weight::One => Some(1.0),
                Weight::Given => None,
                Weight::Ratio { level, .. } => match level {
                    WeightLevel::Token => None,
                    WeightLevel::Sequence => Some(ratio(gaps.sum)),
                    WeightLevel::Geometric => Some(ratio(gaps.sum / tokens)),
                },
            },
            low,
            high,
            below,
            above,
            of_nan,
            is_rejected: valid > 0
                && correction.is_some_and(|correction| rejects::<T>(correction, gaps, tokens)),
        }
    }
}

/// Whether a filter of sequences or the veto rejects a row.
fn rejects<T: Real>(correction: &Correction, gaps: &Gaps, tokens: f64) -> bool {
    let out_of_range = correction
        .filters
        .iter()
        .filter(|(level, ..)| *level != FilterLevel::Token)
        .any(|(level, estimator, range)| {
            // All rounded, so that what meets a bound exactly in the type of the arithmetic is
            // kept.
            let statistic = rounded::<T>(gaps.statistic(level, estimator, tokens));
            let (low, high) = (rounded::<T>(range.low), rounded::<T>(range.high));
            !(statistic >= low && statistic <= high)
        });
    let is_vetoed = correction.veto.is_some_and(|floor| {
        let floor = rounded::<T>(floor.ln());
        gaps.sum.is_nan() || gaps.smallest < floor
    });
    out_of_range || is_vetoed
}

/// Rounded to the type of the arithmetic.
fn rounded<T: Real>(value: f64) -> f64 {
    T::from_f64(value).to_f64()
}

/// Adds up the gaps of rows.
pub fn add_gaps<T: Real>(
    arch: Arch,
    scratch: &mut Scratch<T>,
    place: &mut Place<'_>,
    (old_log_probs, rollout_log_probs): (Floats<'_>, Floats<'_>),
    mask: Option<Mask<'_>>,
    with_k3: bool,
) {
    let terms = (old_log_probs, rollout_log_probs);
    place.blocks(|tokens, pieces| {
        let (old_log_probs, rollout_log_probs, mask) =
            scratch.stage_difference(arch, terms, mask, tokens);
        for (row, range) in pieces {
            row.gaps.add(&arch.dispatch(SumGaps {
                old_log_probs: &old_log_probs[range.clone()],
                rollout_log_probs: &rollout_log_probs[range.clone()],
                mask: &mask[range],
                with_k3,
            }));
        }
    });
}

struct SumGaps<'a, T> {
    old_log_probs: &'a [T],
    rollout_log_probs: &'a [T],
    mask: &'a [T],
    with_k3: bool,
}

impl<T: Real> WithSimd for SumGaps<'_, T> {
    type Output = Gaps;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Gaps {
        let lanes = T::lanes(simd);
        let (old, old_rest) = T::Lanes::<S>::split(self.old_log_probs);
        let (rollout, rollout_rest) = T::Lanes::<S>::split(self.rollout_log_probs);
        let (mask, mask_rest) = T::Lanes::<S>::split(self.mask);
        let mut gaps = Gaps::default();
        let mut sums = LaneGaps::new(lanes);
        for stretch in stretches(mask.len()) {
            let vectors = old[stretch.clone()]
                .iter()
                .zip(&rollout[stretch.clone()])
                .zip(&mask[stretch]);
            for ((&old, &rollout), &mask) in vectors {
                sums.add(lanes, lanes.sub(old, rollout), mask, self.with_k3);
            }
            sums.flush(lanes, &mut gaps);
        }
        let gap = lanes.sub(lanes.load_rest(old_rest), lanes.load_rest(rollout_rest));
        sums.add(lanes, gap, lanes.load_rest(mask_rest), self.with_k3);
        sums.flush(lanes, &mut gaps);
        gaps.smallest = lanes.smallest(sums.smallest);
        gaps.largest = lanes.largest(sums.largest);
        gaps
    }
}

#[derive(Clone, Copy)]
struct LaneGaps<L: Lanes> {
    sum: L::Vector,
    squares: L::Vector,
    k3: L::Vector,
    smallest: L::Vector,
    largest: L::Vector,
}

impl<L: Lanes> LaneGaps<L> {
    #[inline(always)]
    fn new(lanes: L) -> Self {
        let Gaps {
            smallest, largest, ..
        } = Gaps::default();
        Self {
            sum: lanes.zero(),
            squares: lanes.zero(),
            k3: lanes.zero(),
            smallest: lanes.splat(L::Real::from_f64(smallest)),
            largest: lanes.splat(L::Real::from_f64(largest)),
        }
    }

    #[inline(always)]
    fn add(&mut self, lanes: L, gap: L::Vector, mask: L::Vector, with_k3: bool) {
        let valid = lanes.greater(mask, lanes.zero());
        let gap = lanes.keep(valid, gap);
        self.sum = lanes.add(self.sum, gap);
        self.squares = lanes.mul_add(gap, gap, self.squares);
        if with_k3 {
            self.k3 = lanes.add(self.k3, k3_of_lanes(lanes, gap));
        }
        // Comparisons with NaN are false.
        let is_smaller = lanes.and(valid, lanes.less(gap, self.smallest));
        let is_larger = lanes.and(valid, lanes.greater(gap, self.largest));
        self.smallest = lanes.select(is_smaller, gap, self.smallest);
        self.largest = lanes.select(is_larger, gap, self.largest);
    }

    /// Moves the sums of a stretch into f64; the extremes stay.
    #[inline(always)]
    fn flush(&mut self, lanes: L, gaps: &mut Gaps) {
        gaps.sum += lanes.sum(self.sum);
        gaps.half_squares += lanes.sum(self.squares) / 2.0;
        gaps.k3 += lanes.sum(self.k3);
        let zero = lanes.zero();
        *self = Self {
            sum: zero,
            squares: zero,
            k3: zero,
            ..*self
        };
    }
}

/// `expm1(g) - g`, with `g` within ±20.
#[inline(always)]
pub fn k3_of_lanes<L: Lanes>(lanes: L, gap: L::Vector) -> L::Vector {
    let [low, high] = log_ratio_bounds(lanes);
    let bounded = lanes.clamp(gap, low, high);
    Exponential::of_bounded(lanes, bounded).minus_one_minus_x(lanes)
}

//! What the gaps between the old policy and the sampler say of a whole sequence.

// Only a loop over a range can be unrolled.
#![allow(clippy::needless_range_loop)]

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::Valid;
use super::kinds::WeightKind;
use super::lanes::{Fold, Lanes, fold};
use super::parts::{bounded, expm1_minus_identity, within};
use super::token::Numbers;
use crate::{FilterEstimator, FilterLevel};

/// Sums over the gaps `g = old_log_probs - rollout_log_probs` of a sequence's valid tokens. What
/// the objective does not use is a constant.
#[derive(CubeType, Clone, Copy)]
pub struct Gaps<A: Float> {
    sum: A,
    /// Of `g² / 2`.
    half_squares: A,
    /// Of `expm1(g) - g`, with `g` within ±20.
    k3: A,
    /// NaN is left out.
    smallest: A,
    /// NaN is left out.
    largest: A,
}

#[cube]
impl<A: Float> Gaps<A> {
    pub fn new() -> Self {
        Gaps::<A> {
            sum: A::new(0.0),
            half_squares: A::new(0.0),
            k3: A::new(0.0),
            smallest: A::new(f32::MAX),
            largest: A::new(f32::MIN),
        }
    }

    /// Adds tokens.
    pub fn add_tokens<N: Size>(
        &mut self,
        gap: Vector<A, N>,
        valid: &Valid<N>,
        #[comptime] blueprint: Blueprint,
    ) {
        let gap = valid.keep(gap);
        self.sum += gap.vector_sum();
        if comptime!(blueprint.adds_gaps(FilterEstimator::K2)) {
            let half_squares = estimate(gap, FilterEstimator::K2, comptime!(blueprint.double));
            self.half_squares += half_squares.vector_sum();
        }
        if comptime!(blueprint.adds_gaps(FilterEstimator::K3)) {
            let k3 = estimate(gap, FilterEstimator::K3, comptime!(blueprint.double));
            self.k3 += k3.vector_sum();
        }
        if comptime!(blueprint.compares_gaps()) {
            let for_smallest = valid.keep_or(gap, A::new(f32::MAX));
            let for_largest = valid.keep_or(gap, A::new(f32::MIN));
            #[unroll]
            for lane in 0..N::value() {
                let (small, large) = (for_smallest.extract(lane), for_largest.extract(lane));
                self.smallest = fold::<A>(Fold::Smallest, self.smallest, small);
                self.largest = fold::<A>(Fold::Largest, self.largest, large);
            }
        }
    }

    /// Adds those of other tokens.
    pub fn add(&mut self, other: &Gaps<A>) {
        self.sum += other.sum;
        self.half_squares += other.half_squares;
        self.k3 += other.k3;
        self.smallest = fold::<A>(Fold::Smallest, self.smallest, other.smallest);
        self.largest = fold::<A>(Fold::Largest, self.largest, other.largest);
    }

    /// Adds those of the other lanes of a row.
    pub fn add_lanes(&mut self, lanes: &mut Lanes<A>, #[comptime] blueprint: Blueprint) {
        self.sum = lanes.sum(self.sum);
        if comptime!(blueprint.adds_gaps(FilterEstimator::K2)) {
            self.half_squares = lanes.sum(self.half_squares);
        }
        if comptime!(blueprint.adds_gaps(FilterEstimator::K3)) {
            self.k3 = lanes.sum(self.k3);
        }
        if comptime!(blueprint.compares_gaps()) {
            self.smallest = lanes.fold(Fold::Smallest, self.smallest);
            self.largest = lanes.fold(Fold::Largest, self.largest);
        }
    }

    /// The weight that the tokens share, in a sequence of `count` valid tokens.
    pub fn weight(&self, count: A, #[comptime] blueprint: Blueprint) -> A {
        match blueprint.weight {
            WeightKind::Sequence => bounded_exp::<A>(self.sum),
            WeightKind::Geometric => bounded_exp::<A>(self.sum / count),
            _ => A::new(1.0),
        }
    }

    /// Whether a filter of sequences or the veto rejects the sequence.
    pub fn rejected(&self, numbers: &Numbers, count: A, #[comptime] blueprint: Blueprint) -> bool {
        let mut rejected = false;
        let filters = comptime!(blueprint.filters());
        #[unroll]
        for k in 0..comptime!(filters.len()) {
            let (level, estimator) = comptime!(filters[k]);
            if comptime!(level != FilterLevel::Token) {
                let statistic = self.statistic(count, level, estimator, blueprint);
                let statistic = Vector::<A, Const<1>>::new(statistic);
                let is_within = is_within(numbers, statistic, k, estimator);
                rejected = rejected || !is_within.extract(0usize);
            }
        }
        if comptime!(blueprint.vetoes) {
            // A NaN makes the sum one, and fails as well.
            let floor = numbers.veto.get::<A>();
            let kept = self.smallest >= floor && !is_nan::<A>(self.sum);
            rejected = rejected || !kept;
        }
        rejected
    }

    /// What a filter judges, of k1 before it is exponentiated.
    fn statistic(
        &self,
        count: A,
        #[comptime] level: FilterLevel,
        #[comptime] estimator: FilterEstimator,
        #[comptime] blueprint: Blueprint,
    ) -> A {
        let double = comptime!(blueprint.double);
        if comptime!(level == FilterLevel::SequenceMax) {
            let largest = match estimator {
                FilterEstimator::K1 => self.largest,
                // Both are convex, so that they are largest at one of the ends.
                _ => {
                    let smallest = Vector::<A, Const<1>>::new(self.smallest);
                    let largest = Vector::<A, Const<1>>::new(self.largest);
                    let left = estimate(smallest, estimator, double).extract(0usize);
                    let right = estimate(largest, estimator, double).extract(0usize);
                    fold::<A>(Fold::Largest, left, right)
                }
            };
            // A NaN among the gaps must be seen.
            select(is_nan::<A>(self.sum), self.sum, largest)
        } else {
            let sum = match estimator {
                FilterEstimator::K1 => self.sum,
                FilterEstimator::K2 => self.half_squares,
                FilterEstimator::K3 => self.k3,
            };
            let mut divisor = A::new(1.0);
            if comptime!(level == FilterLevel::SequenceMean) {
                divisor = count;
            }
            sum / divisor
        }
    }
}

/// The estimate of a gap, of k1 before it is exponentiated.
#[cube]
pub fn estimate<A: Float, N: Size>(
    gap: Vector<A, N>,
    #[comptime] estimator: FilterEstimator,
    #[comptime] double: bool,
) -> Vector<A, N> {
    match estimator {
        FilterEstimator::K1 => gap,
        FilterEstimator::K2 => gap * gap * Vector::new(A::new(0.5)),
        FilterEstimator::K3 => {
            let bounded = bounded(gap).log_ratio;
            expm1_minus_identity(bounded, bounded.exp(), double)
        }
    }
}

/// Whether a statistic lies in the range of the `k`-th filter; NaN lies in none.
#[cube]
pub fn is_within<A: Float, N: Size>(
    numbers: &Numbers,
    statistic: Vector<A, N>,
    #[comptime] k: usize,
    #[comptime] estimator: FilterEstimator,
) -> Vector<bool, N> {
    let low = numbers.filters[comptime!(2 * k)].get::<A>();
    let high = numbers.filters[comptime!(2 * k + 1)].get::<A>();
    let mut compared = statistic;
    if comptime!(estimator == FilterEstimator::K1) {
        compared = statistic.exp();
    }
    within(compared, low, high)
}

#[cube]
fn bounded_exp<A: Float>(log: A) -> A {
    let bounded = bounded(Vector::<A, Const<1>>::new(log)).log_ratio;
    bounded.exp().extract(0usize)
}

#[cube]
fn is_nan<A: Float>(x: A) -> bool {
    Vector::<A, Const<1>>::new(x).is_nan().extract(0usize)
}

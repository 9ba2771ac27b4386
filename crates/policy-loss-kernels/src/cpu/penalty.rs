//! The penalty for moving away from a reference policy: a second visit of a block, whose inputs are
//! still in the cache.

use std::marker::PhantomData;

use pulp::{Arch, Simd, WithSimd};

use crate::{Estimator, Objective, Penalty, PenaltyGradient, RatioLevel};

use super::estimates::{Absolute, Estimate, Half, Identity, Positive};
use super::lanes::Lanes;
use super::penalty_factor::{Constants, Factor, NoRatio, OfRow, OfToken};
use super::real::Real;
use super::row::Row;
use super::sums::{Totals, stretches};

/// The inputs of a block, in the type of the arithmetic.
#[derive(Clone, Copy)]
pub struct PenaltyColumns<'a, T> {
    pub log_probs: &'a [T],
    pub ref_log_probs: &'a [T],
    /// What the ratio of a token is taken against.
    pub base: &'a [T],
    /// 1 or 0.
    pub mask: &'a [T],
}

/// Consecutive tokens, and the rows that they belong to.
pub struct PenaltyBlock<'a, T> {
    pub columns: PenaltyColumns<'a, T>,
    pub rows: &'a mut [Row],
    /// Number of tokens in a row.
    pub row_length: usize,
    /// The place, within the first of the rows, of the block's first token.
    pub start: usize,
    /// What the gradient is added to; empty where none is wanted.
    pub gradient: &'a mut [T],
}

/// Visits a block: adds to the totals, to the rows and to the gradient. Returns whether every
/// `ref_log_probs` that takes part is finite.
pub type PenaltyKernel<T> = fn(Arch, &Objective, PenaltyBlock<'_, T>, &mut Totals) -> bool;

/// The kernel of the objective's penalty, if it has one.
pub fn compose<T: Real>(objective: &Objective) -> Option<PenaltyKernel<T>> {
    Some(match objective.penalty?.estimator {
        Estimator::K1 => times_ratio::<T, Identity>(objective),
        Estimator::K2 => times_ratio::<T, Half>(objective),
        Estimator::K3 => times_ratio::<T, Positive>(objective),
        Estimator::Abs => times_ratio::<T, Absolute>(objective),
    })
}

fn times_ratio<T: Real, E: Estimate>(objective: &Objective) -> PenaltyKernel<T> {
    let is_corrected = objective.penalty.is_some_and(is_corrected);
    match (is_corrected, objective.ratio_level) {
        (false, _) => visit::<T, E, NoRatio>,
        (true, RatioLevel::Token) => visit::<T, E, OfToken>,
        (true, _) => visit::<T, E, OfRow>,
    }
}

fn is_corrected(penalty: Penalty) -> bool {
    penalty.gradient == PenaltyGradient::ImportanceCorrected
}

fn visit<T: Real, E: Estimate, R: Factor>(
    arch: Arch,
    objective: &Objective,
    block: PenaltyBlock<'_, T>,
    totals: &mut Totals,
) -> bool {
    arch.dispatch(Visit {
        objective,
        block,
        totals,
        parts: PhantomData::<(E, R)>,
    })
}

/// What is summed up over a stretch, in lanes.
#[derive(Clone, Copy)]
struct Sums<L: Lanes> {
    /// `log_probs - ref_log_probs`: finite if every addend is.
    difference: L::Vector,
    /// Before it is multiplied by a ratio.
    estimate: L::Vector,
    penalty: L::Vector,
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn new(lanes: L) -> Self {
        Self {
            difference: lanes.zero(),
            estimate: lanes.zero(),
            penalty: lanes.zero(),
        }
    }

    #[inline(always)]
    fn flush(self, lanes: L, totals: &mut SegmentTotals) {
        totals.difference += lanes.sum(self.difference);
        totals.estimate += lanes.sum(self.estimate);
        totals.penalty += lanes.sum(self.penalty);
    }
}

/// The same sums over the tokens of a row, in f64.
#[derive(Clone, Copy, Default)]
struct SegmentTotals {
    difference: f64,
    estimate: f64,
    penalty: f64,
}

struct Visit<'a, T, P> {
    objective: &'a Objective,
    block: PenaltyBlock<'a, T>,
    totals: &'a mut Totals,
    parts: PhantomData<P>,
}

impl<T: Real, E: Estimate, R: Factor> WithSimd for Visit<'_, T, (E, R)> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let lanes = T::lanes(simd);
        let Some(penalty) = self.objective.penalty else {
            return true;
        };
        let PenaltyBlock {
            columns,
            rows,
            row_length,
            mut start,
            gradient,
        } = self.block;
        let mut is_finite = true;
        let mut first = 0;
        for row in rows {
            let last = columns.mask.len().min(first + (row_length - start));
            let gradient = match gradient.is_empty() {
                true => &mut [],
                false => &mut gradient[first..last],
            };
            let constants = Constants::new(lanes, self.objective, penalty, row);
            let columns = PenaltyColumns {
                log_probs: &columns.log_probs[first..last],
                ref_log_probs: &columns.ref_log_probs[first..last],
                base: &columns.base[first..last],
                mask: &columns.mask[first..last],
            };
            let sums = segment::<_, E, R>(lanes, &constants, columns, gradient);
            let kl = sums.penalty;
            self.totals.kl += kl;
            self.totals.kl_loss += kl * penalty.coefficient * row.loss_factor;
            if R::IS_OF_ROW && self.objective.ratio_level.shares_gradient() {
                // The surrogate is subtracted from the loss, the penalty is added.
                row.unclipped_advantage -= penalty.coefficient * sums.estimate;
            }
            is_finite &= sums.difference.is_finite();
            first = last;
            start = 0;
        }
        is_finite
    }
}

/// The tokens of one row.
#[inline(always)]
fn segment<L: Lanes, E: Estimate, R: Factor>(
    lanes: L,
    constants: &Constants<L>,
    columns: PenaltyColumns<'_, L::Real>,
    gradient: &mut [L::Real],
) -> SegmentTotals {
    let (log_probs, log_probs_rest) = L::split(columns.log_probs);
    let (ref_log_probs, ref_log_probs_rest) = L::split(columns.ref_log_probs);
    let (base, base_rest) = L::split(columns.base);
    let (mask, mask_rest) = L::split(columns.mask);
    let (gradient, gradient_rest) = L::split_mut(gradient);
    let mut totals = SegmentTotals::default();
    let count = mask.len();
    let (log_probs, ref_log_probs) = (&log_probs[..count], &ref_log_probs[..count]);
    let base = &base[..count];
    for stretch in stretches(count) {
        let mut sums = Sums::new(lanes);
        for index in stretch {
            let token = [
                log_probs[index],
                ref_log_probs[index],
                base[index],
                mask[index],
            ];
            let slope = one::<_, E, R>(lanes, constants, token, &mut sums);
            if let Some(gradient) = gradient.get_mut(index) {
                *gradient = lanes.mul_add(slope, constants.factor, *gradient);
            }
        }
        sums.flush(lanes, &mut totals);
    }
    if !mask_rest.is_empty() {
        let token = [log_probs_rest, ref_log_probs_rest, base_rest, mask_rest];
        let token = token.map(|column| lanes.load_rest(column));
        let mut sums = Sums::new(lanes);
        let slope = one::<_, E, R>(lanes, constants, token, &mut sums);
        sums.flush(lanes, &mut totals);
        if !gradient_rest.is_empty() {
            let before = lanes.load_rest(gradient_rest);
            let after = lanes.mul_add(slope, constants.factor, before);
            lanes.replace_rest(after, gradient_rest);
        }
    }
    totals
}

/// A vector of tokens: adds to the sums and returns the slope, before every factor.
#[inline(always)]
fn one<L: Lanes, E: Estimate, R: Factor>(
    lanes: L,
    constants: &Constants<L>,
    [log_probs, ref_log_probs, base, mask]: [L::Vector; 4],
    sums: &mut Sums<L>,
) -> L::Vector {
    let valid = lanes.greater(mask, lanes.zero());
    let difference = lanes.keep(valid, lanes.sub(log_probs, ref_log_probs));
    let log_ratio = lanes.keep(valid, lanes.sub(log_probs, base));
    let (value, slope) = E::of(lanes, &constants.ratio_bounds, difference);
    let slope = lanes.select(constants.is_straight_through, difference, slope);
    sums.difference = lanes.add(sums.difference, difference);
    sums.estimate = lanes.add(sums.estimate, value);
    let (value, slope) = R::times(lanes, constants, log_ratio, (value, slope));
    sums.penalty = lanes.add(sums.penalty, value);
    lanes.keep(valid, slope)
}

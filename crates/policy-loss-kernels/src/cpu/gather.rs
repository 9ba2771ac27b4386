//! What is known of a row before its tokens are visited.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::{LOG_RATIO_BOUND, Objective, RatioBase};

use super::batch::{Batch, Floats, Mask};
use super::element::Element;
use super::kernel::Columns;
use super::lanes::Lanes;
use super::of_sequence::ClippedLogRatio;
use super::real::Real;
use super::row::Row;
use super::stage::{BLOCK, Scratch};
use super::sums::{STRETCH, stretches};
use super::token::Constants;
use super::visit::constants;

/// Bytes counted side by side; a multiple of every vector's width.
const COUNTED: usize = 64;

/// The number of valid tokens in a piece of the mask.
pub fn count(arch: Arch, mask: &[u8]) -> usize {
    arch.dispatch(Count(mask))
}

struct Count<'a>(&'a [u8]);

impl WithSimd for Count<'_> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        let (groups, rest) = self.0.as_chunks::<COUNTED>();
        let mut total = 0;
        // A byte counts to 255.
        for groups in groups.chunks(255) {
            let mut counts = [0_u8; COUNTED];
            for group in groups {
                for (count, &byte) in counts.iter_mut().zip(group) {
                    *count += u8::from(byte != 0);
                }
            }
            for count in counts {
                total += usize::from(count);
            }
        }
        for &byte in rest {
            total += usize::from(byte != 0);
        }
        total
    }
}

/// Where the tokens of a range lie: the first row and its first token in the range.
pub struct Place<'a> {
    pub rows: &'a mut [Row],
    pub row_length: usize,
    pub tokens: Range<usize>,
}

impl Place<'_> {
    /// Calls `visit` for each block with its tokens, and with its pieces: a row, and the part of
    /// the block that lies in it.
    pub fn blocks(
        &mut self,
        mut visit: impl FnMut(Range<usize>, &mut dyn Iterator<Item = Piece<'_>>),
    ) {
        let (row_length, tokens) = (self.row_length, self.tokens.clone());
        let first_row = tokens.start / row_length;
        for start in tokens.clone().step_by(BLOCK) {
            let end = tokens.end.min(start + BLOCK);
            let rows = start / row_length - first_row..=(end - 1) / row_length - first_row;
            let rows = &mut self.rows[rows];
            let mut position = start;
            let mut pieces = rows.iter_mut().map(|row| {
                let row_end = end.min((position / row_length + 1) * row_length);
                let range = position - start..row_end - start;
                position = row_end;
                (row, range)
            });
            visit(start..end, &mut pieces);
        }
    }
}

/// A row, and the part of a block that lies in it.
type Piece<'a> = (&'a mut Row, Range<usize>);

/// A difference that is summed up over the valid tokens of each row.
pub struct Difference<'a> {
    pub minuend: Floats<'a>,
    pub subtrahend: Floats<'a>,
    /// Whether it is moved into the bounds of a log-ratio first.
    pub bounded: bool,
    /// Where the sum is added.
    pub field: fn(&mut Row) -> &mut f64,
}

/// Adds a difference up.
pub fn add_differences<T: Real>(
    arch: Arch,
    scratch: &mut Scratch<T>,
    place: &mut Place<'_>,
    difference: &Difference<'_>,
    mask: Option<Mask<'_>>,
) {
    let terms = (difference.minuend, difference.subtrahend);
    let bound = match difference.bounded {
        true => LOG_RATIO_BOUND,
        false => f64::INFINITY,
    };
    place.blocks(|tokens, pieces| {
        let (minuend, subtrahend, mask) = scratch.stage_difference(arch, terms, mask, tokens);
        for (row, range) in pieces {
            *(difference.field)(row) += arch.dispatch(SumDifferences {
                minuend: &minuend[range.clone()],
                subtrahend: &subtrahend[range.clone()],
                mask: &mask[range],
                bound: T::from_f64(bound),
            });
        }
    });
}

/// Adds up the clipped log-ratios and the advantages of a geometric mean.
pub fn add_clipped<E: Element>(
    arch: Arch,
    scratch: &mut Scratch<E::Real>,
    place: &mut Place<'_>,
    objective: &Objective,
    batch: &Batch<'_, E>,
) {
    place.blocks(|tokens, pieces| {
        let columns = scratch.stage(arch, batch, objective, tokens);
        for (row, range) in pieces {
            let columns = columns.slice(range);
            let [log_ratio, advantage] = arch.dispatch(SumClipped { objective, columns });
            row.bounded_log_ratio += log_ratio;
            row.advantage += advantage;
        }
    });
}

struct SumClipped<'a, T> {
    objective: &'a Objective,
    columns: Columns<'a, T>,
}

impl<T: Real> WithSimd for SumClipped<'_, T> {
    type Output = [f64; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
        let lanes = T::lanes(simd);
        let constants = constants(lanes, self.objective);
        let base = match self.objective.ratio_base {
            RatioBase::Old => self.columns.old_log_probs,
            RatioBase::Rollout => self.columns.rollout_log_probs,
        };
        let (log_probs, log_probs_rest) = T::Lanes::<S>::split(self.columns.log_probs);
        let (base, base_rest) = T::Lanes::<S>::split(base);
        let (advantages, advantages_rest) = T::Lanes::<S>::split(self.columns.advantages);
        let (mask, mask_rest) = T::Lanes::<S>::split(self.columns.mask);
        let mut totals = [0.0; 2];
        for stretch in stretches(mask.len()) {
            let mut sums = ClippedSums::new(lanes);
            let vectors = log_probs[stretch.clone()]
                .iter()
                .zip(&base[stretch.clone()])
                .zip(&advantages[stretch.clone()])
                .zip(&mask[stretch]);
            for (((&log_probs, &base), &advantage), &mask) in vectors {
                let difference = lanes.sub(log_probs, base);
                sums.add(lanes, &constants, difference, advantage, mask);
            }
            sums.flush(lanes, &mut totals);
        }
        let difference = lanes.sub(lanes.load_rest(log_probs_rest), lanes.load_rest(base_rest));
        let advantage = lanes.load_rest(advantages_rest);
        let mask = lanes.load_rest(mask_rest);
        let mut sums = ClippedSums::new(lanes);
        sums.add(lanes, &constants, difference, advantage, mask);
        sums.flush(lanes, &mut totals);
        totals
    }
}

struct ClippedSums<L: Lanes> {
    log_ratio: L::Vector,
    advantage: L::Vector,
}

impl<L: Lanes> ClippedSums<L> {
    #[inline(always)]
    fn new(lanes: L) -> Self {
        Self {
            log_ratio: lanes.zero(),
            advantage: lanes.zero(),
        }
    }

    #[inline(always)]
    fn flush(self, lanes: L, [log_ratio, advantage]: &mut [f64; 2]) {
        *log_ratio += lanes.sum(self.log_ratio);
        *advantage += lanes.sum(self.advantage);
    }

    // Not a closure: it would be compiled without the vector unit.
    #[inline(always)]
    fn add(
        &mut self,
        lanes: L,
        constants: &Constants<L>,
        log_ratio: L::Vector,
        advantage: L::Vector,
        mask: L::Vector,
    ) {
        let valid = lanes.greater(mask, lanes.zero());
        let log_ratio = lanes.keep(valid, log_ratio);
        let advantage = lanes.keep(valid, advantage);
        let clipped = ClippedLogRatio::new(lanes, constants, log_ratio, advantage);
        self.log_ratio = lanes.add(self.log_ratio, clipped.value);
        self.advantage = lanes.add(self.advantage, advantage);
    }
}

struct SumDifferences<'a, T> {
    minuend: &'a [T],
    subtrahend: &'a [T],
    mask: &'a [T],
    /// The difference is moved into plus and minus this.
    bound: T,
}

impl<T: Real> WithSimd for SumDifferences<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let lanes = T::lanes(simd);
        let (low, high) = (lanes.splat(-self.bound), lanes.splat(self.bound));
        let (minuend, minuend_rest) = T::Lanes::<S>::split(self.minuend);
        let (subtrahend, subtrahend_rest) = T::Lanes::<S>::split(self.subtrahend);
        let (mask, mask_rest) = T::Lanes::<S>::split(self.mask);
        let valid = lanes.greater(lanes.load_rest(mask_rest), lanes.zero());
        let difference = lanes.sub(
            lanes.load_rest(minuend_rest),
            lanes.load_rest(subtrahend_rest),
        );

        let difference = lanes.clamp(difference, low, high);
        let mut total = lanes.sum(lanes.keep(valid, difference));
        let stretches = minuend
            .chunks(STRETCH)
            .zip(subtrahend.chunks(STRETCH))
            .zip(mask.chunks(STRETCH));
        for ((minuend, subtrahend), mask) in stretches {
            let mut sum = lanes.zero();
            for ((&minuend, &subtrahend), &mask) in minuend.iter().zip(subtrahend).zip(mask) {
                let valid = lanes.greater(mask, lanes.zero());
                let difference = lanes.clamp(lanes.sub(minuend, subtrahend), low, high);
                sum = lanes.add(sum, lanes.keep(valid, difference));
            }
            total += lanes.sum(sum);
        }
        total
    }
}

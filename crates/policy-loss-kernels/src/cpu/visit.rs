//! The loop over a block of tokens.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::slice::from_ref;

use pulp::{Simd, WithSimd};

use crate::Objective;

use super::kernel::{Block, Columns};
use super::lanes::Lanes;
use super::output::Output;
use super::parts::Ratio;
use super::real::Real;
use super::row::Row;
use super::sums::{LaneSums, STRETCH, Totals};
use super::surrogates::{SurrogatePart, numbers};
use super::token::{Constants, Inputs, RowConstants, log_ratio_bounds, token};
use super::weight::{RowWeightConstants, Weight, WeightConstants};

/// A kernel's work, with the parts `(ratio, weight, surrogate, output)`.
pub struct Visit<'a, T, P> {
    pub objective: &'a Objective,
    pub block: Block<'a, T>,
    pub totals: &'a mut Totals,
    pub parts: PhantomData<P>,
}

impl<T: Real, R: Ratio, W: Weight, P: SurrogatePart, O: Output> WithSimd
    for Visit<'_, T, (R, W, P, O)>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes(simd);
        let mut walk = Walk::<'_, _, (R, W, P, O)> {
            lanes,
            constants: constants(lanes, self.objective),
            sums: LaneSums::new(lanes),
            summed: 0,
            totals: self.totals,
            parts: PhantomData,
        };
        let Block {
            columns,
            rows,
            row_length,
            mut start,
            output,
        } = self.block;

        let mut first = 0;
        for row in rows {
            let last = columns.log_probs.len().min(first + (row_length - start));
            let output = if O::IS_WRITTEN {
                &mut output[first..last]
            } else {
                &mut []
            };
            walk.segment(row, columns.slice(first..last), output);
            first = last;
            start = 0;
        }
        if walk.summed > 0 {
            walk.sums.flush(lanes, walk.totals);
        }
        walk.sums.finish(lanes, walk.totals);
    }
}

struct Walk<'a, L: Lanes, P> {
    lanes: L,
    constants: Constants<L>,
    sums: LaneSums<L>,
    /// Vectors of the present stretch that `sums` holds.
    summed: usize,
    totals: &'a mut Totals,
    parts: PhantomData<P>,
}

impl<L: Lanes, R: Ratio, W: Weight, P: SurrogatePart, O: Output> Walk<'_, L, (R, W, P, O)> {
    /// The tokens of one row.
    #[inline(always)]
    fn segment(
        &mut self,
        row: &mut Row,
        columns: Columns<'_, L::Real>,
        output: &mut [MaybeUninit<L::Real>],
    ) {
        let lanes = self.lanes;
        let constants = row_constants(lanes, row);
        let (vectors, rest) = split::<L>(columns);
        let (output, output_rest) = L::split_output(output);

        // The rest is a vector of its own, whose lanes beyond it are 0: masked. Both take
        // the same loop, so that the mathematics is compiled once.
        let rest_is_empty = rest.log_probs.is_empty();
        let rest = Loaded::new(lanes, rest);
        let mut rest_output = [MaybeUninit::uninit()];
        let parts = [
            (vectors, output),
            (
                rest.columns().slice(0..usize::from(!rest_is_empty)),
                &mut rest_output[..],
            ),
        ];
        let mut value = lanes.zero();
        for (columns, output) in parts {
            let added_up;
            (value, added_up) = self.vectors(&constants, columns, output);
            if O::IS_ADDED_UP {
                row.unclipped_advantage += added_up;
            }
        }
        if O::IS_WRITTEN {
            lanes.store_rest(value, output_rest);
        }
    }

    /// Returns the last output, and the sum of all where the row adds them up.
    #[inline(always)]
    fn vectors(
        &mut self,
        row: &RowConstants<L>,
        columns: Columns<'_, L::Vector>,
        output: &mut [MaybeUninit<L::Vector>],
    ) -> (L::Vector, f64) {
        let lanes = self.lanes;
        let count = columns.log_probs.len();
        let mut value = lanes.zero();
        let mut total = 0.0;
        let mut start = 0;
        while start < count {
            // Stretches go on from row to row.
            let end = count.min(start + (STRETCH - self.summed));
            let output = if O::IS_WRITTEN {
                &mut output[start..end]
            } else {
                &mut []
            };
            let added_up;
            (value, added_up) = self.stretch(row, columns.slice(start..end), output);
            if O::IS_ADDED_UP {
                total += lanes.sum(added_up);
            }
            self.summed += end - start;
            if self.summed == STRETCH {
                self.sums.flush(lanes, self.totals);
                self.summed = 0;
            }
            start = end;
        }
        (value, total)
    }

    /// Vectors that the lanes have room for. Returns the last output, and the sum of all where
    /// the row adds them up.
    #[inline(always)]
    fn stretch(
        &mut self,
        row: &RowConstants<L>,
        columns: Columns<'_, L::Vector>,
        output: &mut [MaybeUninit<L::Vector>],
    ) -> (L::Vector, L::Vector) {
        let lanes = self.lanes;
        let constants = self.constants;
        let mut sums = self.sums;
        let mut value = lanes.zero();
        let mut added_up = lanes.zero();
        // One length for all, which the compiler can see: no bounds are checked inside.
        let count = columns.log_probs.len();
        let columns = columns.slice(0..count);
        let output = if O::IS_WRITTEN {
            &mut output[..count]
        } else {
            output
        };
        #[expect(clippy::needless_range_loop, reason = "several slices in step")]
        for index in 0..count {
            let old_log_probs = columns.old_log_probs[index];
            let inputs = Inputs {
                log_probs: columns.log_probs[index],
                old_log_probs,
                rollout_log_probs: if R::READS_ROLLOUT || W::READS_ROLLOUT {
                    columns.rollout_log_probs[index]
                } else {
                    old_log_probs
                },
                weights: columns.weights[index],
                advantage: columns.advantages[index],
                valid: lanes.greater(columns.mask[index], lanes.zero()),
            };
            value = token::<_, R, W, P, O>(lanes, &constants, row, &inputs, &mut sums);
            if O::IS_WRITTEN {
                output[index].write(value);
            }
            if O::IS_ADDED_UP {
                added_up = lanes.add(added_up, value);
            }
        }
        self.sums = sums;
        (value, added_up)
    }
}

/// Whole vectors, and the tokens that do not fill one.
#[inline(always)]
pub fn split<'a, L: Lanes>(
    columns: Columns<'a, L::Real>,
) -> (Columns<'a, L::Vector>, Columns<'a, L::Real>) {
    let (log_probs, log_probs_rest) = L::split(columns.log_probs);
    let (old_log_probs, old_log_probs_rest) = L::split(columns.old_log_probs);
    let (rollout_log_probs, rollout_log_probs_rest) = L::split(columns.rollout_log_probs);
    let (weights, weights_rest) = L::split(columns.weights);
    let (advantages, advantages_rest) = L::split(columns.advantages);
    let (mask, mask_rest) = L::split(columns.mask);
    (
        Columns {
            log_probs,
            old_log_probs,
            rollout_log_probs,
            weights,
            advantages,
            mask,
        },
        Columns {
            log_probs: log_probs_rest,
            old_log_probs: old_log_probs_rest,
            rollout_log_probs: rollout_log_probs_rest,
            weights: weights_rest,
            advantages: advantages_rest,
            mask: mask_rest,
        },
    )
}

/// One vector of each column.
pub struct Loaded<L: Lanes> {
    log_probs: L::Vector,
    old_log_probs: L::Vector,
    rollout_log_probs: L::Vector,
    weights: L::Vector,
    advantages: L::Vector,
    mask: L::Vector,
}

impl<L: Lanes> Loaded<L> {
    #[inline(always)]
    pub fn new(lanes: L, columns: Columns<'_, L::Real>) -> Self {
        Self {
            log_probs: lanes.load_rest(columns.log_probs),
            old_log_probs: lanes.load_rest(columns.old_log_probs),
            rollout_log_probs: lanes.load_rest(columns.rollout_log_probs),
            weights: lanes.load_rest(columns.weights),
            advantages: lanes.load_rest(columns.advantages),
            mask: lanes.load_rest(columns.mask),
        }
    }

    #[inline(always)]
    pub fn columns(&self) -> Columns<'_, L::Vector> {
        Columns {
            log_probs: from_ref(&self.log_probs),
            old_log_probs: from_ref(&self.old_log_probs),
            rollout_log_probs: from_ref(&self.rollout_log_probs),
            weights: from_ref(&self.weights),
            advantages: from_ref(&self.advantages),
            mask: from_ref(&self.mask),
        }
    }
}

#[inline(always)]
pub fn constants<L: Lanes>(lanes: L, objective: &Objective) -> Constants<L> {
    let real = L::Real::from_f64;
    Constants {
        log_ratio_bounds: log_ratio_bounds(lanes),
        surrogate: numbers(&objective.surrogate).map(|number| lanes.splat(real(number))),
        weight: WeightConstants::new(lanes, objective),
    }
}

#[inline(always)]
pub fn row_constants<L: Lanes>(lanes: L, row: &Row) -> RowConstants<L> {
    let splat = |number: f64| lanes.splat(L::Real::from_f64(number));
    RowConstants {
        ratio: splat(row.ratio),
        saturated: splat(row.saturated),
        surrogate: row.surrogate.map(splat),
        drops_negative: splat(row.drops_negative),
        weight: RowWeightConstants::new(lanes, &row.weight),
        loss_factor: splat(row.loss_factor),
        negative_gradient_factor: splat(-row.gradient_factor),
    }
}

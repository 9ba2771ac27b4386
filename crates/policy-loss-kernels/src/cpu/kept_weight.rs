//! The sum of a row's weights, for a surrogate that its tokens share: a token's log-probability
//! changes the losses of all of them.

use pulp::{Arch, Simd, WithSimd};

use crate::Objective;

use super::batch::Batch;
use super::element::Element;
use super::gather::Place;
use super::kernel::Columns;
use super::lanes::Lanes;
use super::real::Real;
use super::row::Row;
use super::stage::Scratch;
use super::sums::stretches;
use super::token::Inputs;
use super::visit::{Loaded, constants, row_constants, split};
use super::weight::{TokenWeight, dropped};

/// Adds up the weights of tokens that are not dropped, in rows that have been derived.
pub fn add_kept_weights<E: Element>(
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
            row.kept_weight += arch.dispatch(SumWeights {
                objective,
                row,
                columns,
            });
        }
    });
}

struct SumWeights<'a, T> {
    objective: &'a Objective,
    row: &'a Row,
    columns: Columns<'a, T>,
}

impl<T: Real> WithSimd for SumWeights<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let lanes = T::lanes(simd);
        let constants = constants(lanes, self.objective);
        let row = row_constants(lanes, self.row);
        let (vectors, rest) = split::<T::Lanes<S>>(self.columns);
        // Its lanes beyond the rest are masked.
        let rest = Loaded::new(lanes, rest);
        let mut total = 0.0;
        for columns in [vectors, rest.columns()] {
            for stretch in stretches(columns.mask.len()) {
                let columns = columns.slice(stretch);
                let mut sum = lanes.zero();
                for index in 0..columns.mask.len() {
                    let valid = lanes.greater(columns.mask[index], lanes.zero());
                    let advantage = lanes.keep(valid, columns.advantages[index]);
                    let inputs = Inputs {
                        log_probs: columns.log_probs[index],
                        old_log_probs: columns.old_log_probs[index],
                        rollout_log_probs: columns.rollout_log_probs[index],
                        weights: columns.weights[index],
                        advantage,
                        valid,
                    };
                    let weight = TokenWeight::new(lanes, &constants, &row, &inputs).value;
                    let dropped = dropped(lanes, &row, advantage);
                    sum = lanes.add(sum, lanes.drop(dropped, weight));
                }
                total += lanes.sum(sum);
            }
        }
        total
    }
}

//! The mathematics of one token, composed of the parts that the objective asks for.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::{Columns, Elements, Valid, count};
use super::correction::{add_weights, weighting};
use super::parts::{bounded, expm1_minus_identity};
use super::penalty::{TokenRatio, penalty};
use super::sums::{Slot, Sums, above_every_ratio, combine};
use super::surrogates::{Given, surrogate};

/// The numbers of an objective, in the type of the arithmetic.
#[derive(CubeType, CubeLaunch)]
pub struct Numbers {
    /// Those of the surrogate, in the order in which it reads them.
    pub first: InputScalar,
    pub second: InputScalar,
    pub third: InputScalar,
    pub fourth: InputScalar,
    pub weight_low: InputScalar,
    pub weight_high: InputScalar,
    /// The ranges of the filters, the lower bound of each first.
    pub filters: Sequence<InputScalar>,
    /// Sequences that hold a token with a gap below it are rejected.
    pub veto: InputScalar,
    /// Sequences with a mean log-ratio below it lose their tokens with a negative advantage.
    pub least_log_ratio: InputScalar,
    /// The coefficient of the penalty.
    pub penalty: InputScalar,
}

/// What the tokens of a sequence share. A field that the objective does not use is a constant.
#[derive(CubeType, Clone, Copy)]
pub struct Row<A: Float> {
    /// The ratio of the sequence.
    pub ratio: A,
    /// Its derivative with respect to the log-probability of a valid token.
    pub ratio_slope: A,
    /// The logarithm of the ratio reached a bound.
    pub saturated: bool,
    /// Whether tokens with a negative advantage are dropped.
    pub drops_negative: bool,
    /// What the surrogate makes of the sequence.
    pub surrogate_first: A,
    pub surrogate_second: A,
    /// The weight of the sequence, where it has one.
    pub weight: A,
    /// Whether all of its weights are 0.
    pub rejected: bool,
    /// The row's part of the reduction's factor: `1 / n_b` for a sequence mean, else 1.
    pub factor: A,
}

#[cube]
impl<A: Float> Row<A> {
    /// Nothing is shared.
    pub fn unused() -> Self {
        Row::<A> {
            ratio: A::new(1.0),
            ratio_slope: A::new(0.0),
            saturated: false,
            drops_negative: false,
            surrogate_first: A::new(0.0),
            surrogate_second: A::new(0.0),
            weight: A::new(1.0),
            rejected: false,
            factor: A::new(1.0),
        }
    }
}

/// Adds the tokens at `index` to the sums. Returns their gradient; where the ratio is that of
/// the sequence, the derivatives of their losses with respect to it are added up instead.
///
/// Everything is selected by the mask before it is exponentiated or multiplied: a masked token
/// is a token with log-ratio 0 and advantage 0, whatever it holds.
#[cube]
pub fn token<E: Elements>(
    columns: &Columns<E>,
    numbers: &Numbers,
    row: &Row<E::Real>,
    index: usize,
    sequence: usize,
    sums: &mut Sums<E::Real>,
    #[comptime] blueprint: Blueprint,
) -> Vector<E::Real, E::Width> {
    let valid = columns.valid(index);
    let log_probs = columns.log_probs(index);
    let old_log_probs = columns.old_log_probs(index);
    let advantage = valid.keep(columns.advantages(index, sequence));
    let zero = Vector::new(E::Real::new(0.0));

    let log_ratio = valid.keep(log_probs - old_log_probs);
    let against_old = bounded(log_ratio);
    let mut ratio = against_old.log_ratio.exp();
    let k3 = expm1_minus_identity(against_old.log_ratio, ratio, comptime!(blueprint.double));
    sums.log_ratio += log_ratio.vector_sum();
    sums.squared_log_ratio += (log_ratio * log_ratio).vector_sum();
    sums.k3 += k3.vector_sum();

    // Finite addends of this size do not overflow, and a NaN or infinity survives a sum.
    let mut magnitude = log_ratio.abs() + advantage.abs();
    let mut constant = against_old.beyond;
    let mut base_log_ratio = log_ratio;
    if comptime!(blueprint.sequence_ratio) {
        ratio = Vector::new(row.ratio);
        // Where the gradient is shared, the row stops it beyond the bounds.
        constant = Vector::new(false);
        if comptime!(!blueprint.shares_gradient) {
            // Its own gradient: a NaN of the sequence must not reach a masked token.
            ratio = valid.keep_or(ratio, E::Real::new(1.0));
            constant = Vector::new(row.saturated);
        }
    } else if comptime!(blueprint.against_rollout) {
        let against_rollout = valid.keep(log_probs - columns.rollout_log_probs(index));
        magnitude += against_rollout.abs();
        base_log_ratio = against_rollout;
        let against_rollout = bounded(against_rollout);
        ratio = against_rollout.log_ratio.exp();
        constant = against_rollout.beyond;
    }
    // Ratios of sequences are added up where they are made: n_b equal addends would only add
    // rounding errors.
    if comptime!(!blueprint.sequence_ratio) {
        add_ratio(sums, &valid, ratio);
    }

    let surrogate = surrogate::<E::Real, E::Width>(
        numbers,
        row,
        &Given::<E::Real, E::Width> {
            log_probs: valid.keep(log_probs),
            base_log_probs: valid.keep(columns.base(index, blueprint)),
            log_ratio: base_log_ratio,
            ratio,
            constant,
            advantage,
        },
        sums,
        blueprint,
    );

    // Subtracted from 0, not negated, so that a masked token gets 0 and not -0.
    let mut slope = zero - surrogate.slope;
    let mut surrogate = valid.keep(surrogate.value);
    if comptime!(blueprint.weighted()) {
        let weighting = weighting::<E>(columns, numbers, row, index, blueprint);
        magnitude += weighting.gap.abs();
        add_weights(sums, &valid, &weighting);
        surrogate *= weighting.weight;
        if comptime!(!blueprint.slope_is_of_row()) {
            slope *= weighting.weight;
        }
    }
    // After the weight, which may be infinite.
    if comptime!(blueprint.off_policy) {
        let dropped = dropped(row, advantage);
        sums.dropped += count::<E::Real, E::Width>(dropped);
        surrogate = select_many(dropped, zero, surrogate);
        if comptime!(!blueprint.slope_is_of_row()) {
            slope = select_many(dropped, zero, slope);
        }
    }
    slope *= Vector::new(row.factor);
    if comptime!(blueprint.shares_gradient) {
        sums.slope += slope.vector_sum();
    }
    if comptime!(blueprint.surrogate.is_of_ratio()) {
        slope *= ratio;
    }
    if comptime!(blueprint.penalized()) {
        let token_ratio = TokenRatio::<E::Real, E::Width> {
            value: ratio,
            constant,
        };
        let penalty = penalty::<E>(columns, numbers, row, index, &token_ratio, blueprint);
        magnitude += penalty.difference.abs();
        sums.kl += penalty.value.vector_sum();
        sums.loss += (penalty.value * penalty.factor).vector_sum();
        slope += penalty.slope * penalty.factor;
        if comptime!(blueprint.shares_gradient) {
            sums.slope += (penalty.ratio_slope * penalty.factor).vector_sum();
        }
    }
    sums.non_finite += count::<E::Real, E::Width>(magnitude.is_nan().or(magnitude.is_inf()));
    if comptime!(blueprint.masked) {
        sums.valid_tokens += valid.total::<E::Real>();
    }
    sums.loss -= surrogate.vector_sum() * row.factor;
    slope
}

/// Where a row drops tokens, whatever their weights.
#[cube]
pub fn dropped<A: Float, N: Size>(row: &Row<A>, advantage: Vector<A, N>) -> Vector<bool, N> {
    let negative = advantage.less_than(&Vector::new(A::new(0.0)));
    negative.vec_and(Vector::new(row.drops_negative))
}

#[cube]
fn add_ratio<A: Float, N: Size>(sums: &mut Sums<A>, valid: &Valid<N>, ratio: Vector<A, N>) {
    let kept = valid.keep(ratio);
    let for_minimum = valid.keep_or(ratio, above_every_ratio::<A>());
    sums.ratio += kept.vector_sum();
    sums.squared_ratio += (kept * kept).vector_sum();
    #[unroll]
    for lane in 0..N::value() {
        sums.min_ratio = combine::<A>(Slot::MinRatio, sums.min_ratio, for_minimum.extract(lane));
        sums.max_ratio = combine::<A>(Slot::MaxRatio, sums.max_ratio, kept.extract(lane));
    }
}

//! The mathematics of one token, composed of the parts that the objective asks for.

use cubecl::prelude::*;

use super::blueprint::{Blueprint, WeightKind};
use super::columns::{Columns, Elements, Valid, count};
use super::parts::{Weighting, accept, bounded, expm1_minus_identity, mask, truncate};
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
    /// Whether the sequence's weights are kept.
    pub accepted: bool,
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
            accepted: true,
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
    if comptime!(blueprint.off_policy) {
        let negative = advantage.less_than(&zero);
        let dropped = negative.vec_and(Vector::new(row.drops_negative));
        sums.dropped += count::<E::Real, E::Width>(dropped);
        surrogate = select_many(dropped, zero, surrogate);
        slope = select_many(dropped, zero, slope);
    }
    if comptime!(blueprint.weighted()) {
        let log_weight = valid.keep(old_log_probs - columns.rollout_log_probs(index));
        magnitude += log_weight.abs();
        let mut rho = log_weight.exp();
        if comptime!(blueprint.weight == WeightKind::Given) {
            rho = valid.keep(columns.weights(index));
        }
        let weighting = weigh(rho, numbers, row, blueprint);
        add_weight(sums, &valid, log_weight, &weighting);
        surrogate *= weighting.weight;
        slope *= weighting.weight;
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

#[cube]
fn weigh<A: Float, N: Size>(
    rho: Vector<A, N>,
    numbers: &Numbers,
    row: &Row<A>,
    #[comptime] blueprint: Blueprint,
) -> Weighting<A, N> {
    let low = numbers.weight_low.get::<A>();
    let high = numbers.weight_high.get::<A>();
    match blueprint.weight {
        WeightKind::Truncate => truncate(rho, low, high),
        WeightKind::Mask => mask(rho, low, high),
        // Without a filter of sequences every one is accepted.
        _ => accept(rho, Vector::new(row.accepted)),
    }
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

#[cube]
fn add_weight<A: Float, N: Size>(
    sums: &mut Sums<A>,
    valid: &Valid<N>,
    log_weight: Vector<A, N>,
    weighting: &Weighting<A, N>,
) {
    let kept = valid.keep(weighting.weight);
    sums.log_weight += log_weight.vector_sum();
    sums.weight += kept.vector_sum();
    sums.squared_weight += (kept * kept).vector_sum();
    sums.changed_weight += valid.count::<A>(weighting.changed);
}

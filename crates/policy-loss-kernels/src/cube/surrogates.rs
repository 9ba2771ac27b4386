//! The surrogates, one function each.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::count;
use super::kinds::SurrogateKind;
use super::of_sequence::{geometric_mean, sequence_weight};
use super::parts::{clamped, within};
use super::sums::Sums;
use super::token::{Numbers, Row};
use super::trust_region::trust_region;

/// What a surrogate is made of. All of it is 0 at masked tokens, but for a ratio of 1.
#[derive(CubeType, Clone, Copy)]
pub struct Given<A: Float, N: Size> {
    pub log_probs: Vector<A, N>,
    /// What the ratio of the token is taken against.
    pub base_log_probs: Vector<A, N>,
    /// The logarithm of the token's own ratio, not clamped.
    pub log_ratio: Vector<A, N>,
    pub ratio: Vector<A, N>,
    /// The logarithm of the ratio reached a bound: no gradient passes.
    pub constant: Vector<bool, N>,
    pub advantage: Vector<A, N>,
}

/// The surrogate of a token.
#[derive(CubeType, Clone, Copy)]
pub struct Surrogate<A: Float, N: Size> {
    pub value: Vector<A, N>,
    /// Its slope against the ratio, or against `log_probs` where it is no function of a ratio.
    pub slope: Vector<A, N>,
}

/// The surrogate that the blueprint asks for.
#[cube]
pub fn surrogate<A: Float, N: Size>(
    numbers: &Numbers,
    row: &Row<A>,
    given: &Given<A, N>,
    sums: &mut Sums<A>,
    #[comptime] blueprint: Blueprint,
) -> Surrogate<A, N> {
    match blueprint.surrogate {
        SurrogateKind::Clip => clip(numbers, given, sums, false),
        SurrogateKind::DualClip => clip(numbers, given, sums, true),
        SurrogateKind::Gate => gate(numbers, given),
        SurrogateKind::SquaredLogRatio => squared_log_ratio(numbers, given),
        SurrogateKind::LogProbs => of_log_probs(given, given.advantage),
        SurrogateKind::NegativeWeightedLogProbs => negative_weighted(numbers, given, sums),
        SurrogateKind::WeightedLogProbs => weighted(numbers, given, sums),
        SurrogateKind::SequenceWeight => sequence_weight(given, row),
        SurrogateKind::GeometricMean => geometric_mean(numbers, given, row, sums),
        _ => trust_region(numbers, given, sums, blueprint),
    }
}

/// `min(s1, s2)` of `s1 = ratio * A` and `s2 = clamp(ratio, first, second) * A`; where they are
/// equal the unclipped branch is taken. With `dual`, `third * A` at least where `A < 0`.
#[cube]
fn clip<A: Float, N: Size>(
    numbers: &Numbers,
    given: &Given<A, N>,
    sums: &mut Sums<A>,
    #[comptime] dual: bool,
) -> Surrogate<A, N> {
    let advantage = given.advantage;
    let zero = Vector::new(A::new(0.0));
    let unclipped = given.ratio * advantage;
    let bounded = clamped(
        given.ratio,
        numbers.first.get::<A>(),
        numbers.second.get::<A>(),
    );
    let bounded = bounded * advantage;
    let clipped = bounded.less_than(&unclipped);
    let mut value = select_many(clipped, bounded, unclipped);
    let mut constant = given.constant.or(clipped);
    // A clipped token has A > 0 or A < 0, so that a masked one is never counted.
    let positive = advantage.greater_than(&zero);
    sums.clipped_above += count::<A, N>(clipped.vec_and(positive));
    sums.clipped_below += count::<A, N>(clipped.vec_and(!positive));
    if comptime!(dual) {
        let floor = advantage * Vector::new(numbers.third.get::<A>());
        let raised = value.less_than(&floor).vec_and(advantage.less_than(&zero));
        sums.dual_clipped += count::<A, N>(raised);
        constant = constant.or(raised);
        value = select_many(raised, floor, value);
    }
    Surrogate::<A, N> {
        value,
        slope: select_many(constant, zero, advantage),
    }
}

/// `A * p * 4 / t` with `p = sigmoid(t * (ratio - 1))`; `t` is `first` where `A > 0`, else
/// `second`.
#[cube]
fn gate<A: Float, N: Size>(numbers: &Numbers, given: &Given<A, N>) -> Surrogate<A, N> {
    let one = Vector::new(A::new(1.0));
    let zero = Vector::new(A::new(0.0));
    let four = Vector::new(A::new(4.0));
    let positive = given.advantage.greater_than(&zero);
    let temperature = select_many(
        positive,
        Vector::new(numbers.first.get::<A>()),
        Vector::new(numbers.second.get::<A>()),
    );
    let x = temperature * (one - given.ratio);
    // There the gate is shut, or open, to the last digit, and the exponential finite.
    let x = clamped(x, A::new(-80.0), A::new(80.0));
    let falling = x.exp();
    let open = one / (one + falling);
    let closed = falling * open;
    let slope = four * open * closed * given.advantage;
    Surrogate::<A, N> {
        value: open * given.advantage * four / temperature,
        slope: select_many(given.constant, zero, slope),
    }
}

/// `A * log_probs - first / 2 * log_ratio^2`.
#[cube]
fn squared_log_ratio<A: Float, N: Size>(numbers: &Numbers, given: &Given<A, N>) -> Surrogate<A, N> {
    let coefficient = Vector::new(numbers.first.get::<A>());
    let half = Vector::new(A::new(0.5));
    let slope = coefficient * given.log_ratio;
    Surrogate::<A, N> {
        value: given.advantage * given.log_probs - half * slope * given.log_ratio,
        slope: given.advantage - slope,
    }
}

/// `w * A * log_probs`, the ratio in `[first, second]` as the constant `w`.
#[cube]
fn weighted<A: Float, N: Size>(
    numbers: &Numbers,
    given: &Given<A, N>,
    sums: &mut Sums<A>,
) -> Surrogate<A, N> {
    let zero = Vector::new(A::new(0.0));
    let low = numbers.first.get::<A>();
    let high = numbers.second.get::<A>();
    let beyond = !within(given.ratio, low, high);
    let positive = given.advantage.greater_than(&zero);
    let negative = given.advantage.less_than(&zero);
    // Not where A is 0: such a token, or a masked one, has nothing to lose.
    sums.clipped_above += count::<A, N>(beyond.vec_and(positive));
    sums.clipped_below += count::<A, N>(beyond.vec_and(negative));
    of_log_probs(given, clamped(given.ratio, low, high) * given.advantage)
}

/// The same with `w = 1` but where `A < 0`.
#[cube]
fn negative_weighted<A: Float, N: Size>(
    numbers: &Numbers,
    given: &Given<A, N>,
    sums: &mut Sums<A>,
) -> Surrogate<A, N> {
    let low = numbers.first.get::<A>();
    let high = numbers.second.get::<A>();
    let negative = given.advantage.less_than(&Vector::new(A::new(0.0)));
    let beyond = !within(given.ratio, low, high);
    sums.clipped_below += count::<A, N>(beyond.vec_and(negative));
    let weighted = clamped(given.ratio, low, high) * given.advantage;
    of_log_probs(given, select_many(negative, weighted, given.advantage))
}

/// A surrogate that is proportional to `log_probs`.
#[cube]
pub fn of_log_probs<A: Float, N: Size>(
    given: &Given<A, N>,
    slope: Vector<A, N>,
) -> Surrogate<A, N> {
    Surrogate::<A, N> {
        value: slope * given.log_probs,
        slope,
    }
}

//! The surrogates that take something from the whole sequence, and what they take.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::count;
use super::kinds::SurrogateKind;
use super::parts::clamped;
use super::sums::Sums;
use super::surrogates::{Given, Surrogate, of_log_probs};
use super::token::{Numbers, Row};
use crate::LEAST_LOG_RATIO;

/// What a row adds up for its surrogate, from the tokens' log-ratios and advantages.
#[derive(CubeType, Clone, Copy)]
pub struct Addends<A: Float, N: Size> {
    pub log_ratio: Vector<A, N>,
    pub advantage: Vector<A, N>,
}

#[cube]
pub fn addends<A: Float, N: Size>(
    numbers: &Numbers,
    log_ratio: Vector<A, N>,
    advantage: Vector<A, N>,
    #[comptime] blueprint: Blueprint,
) -> Addends<A, N> {
    let mut addend = clamped(log_ratio, A::new(-20.0), A::new(20.0));
    if comptime!(blueprint.surrogate == SurrogateKind::GeometricMean) {
        addend = clip(numbers, log_ratio, advantage).value;
    }
    Addends::<A, N> {
        log_ratio: addend,
        advantage,
    }
}

/// What a surrogate makes of its row: the weights for the signs of the advantage, or the value and
/// the slope.
#[derive(CubeType, Clone, Copy)]
pub struct OfRow<A: Float> {
    pub first: A,
    pub second: A,
}

#[cube]
pub fn of_row<A: Float>(
    numbers: &Numbers,
    log_ratio: A,
    advantage: A,
    valid_tokens: A,
    #[comptime] blueprint: Blueprint,
) -> OfRow<A> {
    if comptime!(blueprint.surrogate == SurrogateKind::GeometricMean) {
        let ratio = (log_ratio / valid_tokens).exp();
        let value = ratio * (advantage / valid_tokens);
        // Of the mean over n_b tokens, a token's part is 1 / n_b, and n_b tokens have the value.
        OfRow::<A> {
            first: value,
            second: value,
        }
    } else {
        let sum = Vector::<A, Const<1>>::new(log_ratio);
        let least = A::new(comptime!(LEAST_LOG_RATIO as f32));
        let sum = clamped(sum, least, A::new(20.0));
        let first = numbers.first.get::<A>();
        let second = numbers.second.get::<A>();
        OfRow::<A> {
            first: gamma(sum, first, second),
            second: gamma(sum, numbers.third.get::<A>(), numbers.fourth.get::<A>()),
        }
    }
}

/// `exp(lambda + k W - lambda exp(W))`, 0 where it is not a number.
#[cube]
fn gamma<A: Float>(sum: Vector<A, Const<1>>, k: A, lambda: A) -> A {
    let one = Vector::new(A::new(1.0));
    let exponent = sum * Vector::new(k) - (sum.exp() - one) * Vector::new(lambda);
    let weight = exponent.exp();
    let zero = Vector::new(A::new(0.0));
    select_many(weight.is_nan(), zero, weight).extract(0usize)
}

/// The weight of the sequence times `A * log_probs`.
#[cube]
pub fn sequence_weight<A: Float, N: Size>(given: &Given<A, N>, row: &Row<A>) -> Surrogate<A, N> {
    let negative = given.advantage.less_than(&Vector::new(A::new(0.0)));
    let weight = select_many(
        negative,
        Vector::new(row.surrogate_second),
        Vector::new(row.surrogate_first),
    );
    of_log_probs(given, weight * given.advantage)
}

/// One value for the sequence, with a gradient where the log-ratio is not clipped.
#[cube]
pub fn geometric_mean<A: Float, N: Size>(
    numbers: &Numbers,
    given: &Given<A, N>,
    row: &Row<A>,
    sums: &mut Sums<A>,
) -> Surrogate<A, N> {
    let clipped = clip(numbers, given.log_ratio, given.advantage);
    // A clipped token has A > 0 or A < 0, so that a masked one is never counted.
    sums.clipped_above += count::<A, N>(clipped.above);
    sums.clipped_below += count::<A, N>(clipped.below);
    let constant = clipped.constant.or(given.constant);
    Surrogate::<A, N> {
        value: Vector::new(row.surrogate_first),
        slope: select_many(
            constant,
            Vector::new(A::new(0.0)),
            Vector::new(row.surrogate_second),
        ),
    }
}

/// A log-ratio, clipped on the side where it would gain.
#[derive(CubeType, Clone, Copy)]
struct Clipped<A: Float, N: Size> {
    value: Vector<A, N>,
    above: Vector<bool, N>,
    below: Vector<bool, N>,
    /// It does not depend on the ratio.
    constant: Vector<bool, N>,
}

#[cube]
fn clip<A: Float, N: Size>(
    numbers: &Numbers,
    log_ratio: Vector<A, N>,
    advantage: Vector<A, N>,
) -> Clipped<A, N> {
    let zero = Vector::new(A::new(0.0));
    let low = zero - Vector::new(numbers.first.get::<A>());
    let high = Vector::new(numbers.second.get::<A>());
    let positive = advantage.greater_than(&zero);
    let negative = advantage.less_than(&zero);
    let above = positive.vec_and(log_ratio.greater_than(&high));
    let below = negative.vec_and(log_ratio.less_than(&low));
    // Not a NaN, which must be seen.
    let neutral = advantage.equal(&zero);
    let value = clamped(log_ratio, A::new(-20.0), A::new(20.0));
    let value = select_many(above, high, value);
    let value = select_many(below, low, value);
    Clipped::<A, N> {
        value: select_many(neutral, zero, value),
        above,
        below,
        constant: neutral.or(above).or(below),
    }
}

//! The surrogate that drops tokens whose probability has moved too far.

use cubecl::prelude::*;

use super::blueprint::Blueprint;
use super::columns::count;
use super::kinds::SurrogateKind;
use super::sums::Sums;
use super::surrogates::{Given, Surrogate, of_log_probs};
use super::token::Numbers;

/// `min(ratio, third) * A * log_probs`, 0 where the probability has moved by more than `first`
/// while `A < 0`, or by more than `second` while `A > 0`, to the side that `A` asks for.
#[cube]
pub fn trust_region<A: Float, N: Size>(
    numbers: &Numbers,
    given: &Given<A, N>,
    sums: &mut Sums<A>,
    #[comptime] blueprint: Blueprint,
) -> Surrogate<A, N> {
    let zero = Vector::new(A::new(0.0));
    let low = Vector::new(numbers.first.get::<A>());
    let high = Vector::new(numbers.second.get::<A>());
    let most = Vector::new(numbers.third.get::<A>());
    let p = given.log_probs.exp();
    let q = given.base_log_probs.exp();
    let change = p - q;
    let mut up = change.greater_than(&high);
    let mut down = change.less_than(&(zero - low));
    if comptime!(blueprint.surrogate == SurrogateKind::KlRegion) {
        let one = Vector::new(A::new(1.0));
        let of_the_token = q * (given.base_log_probs - given.log_probs);
        let of_the_rest = (one - q) * (log_rest(q) - log_rest(p));
        let divergence = of_the_token + of_the_rest;
        up = divergence.greater_than(&high).vec_and(p.greater_than(&q));
        down = divergence.greater_than(&low).vec_and(p.less_than(&q));
    }
    let up = up.vec_and(given.advantage.greater_than(&zero));
    let down = down.vec_and(given.advantage.less_than(&zero));
    sums.clipped_above += count::<A, N>(up);
    sums.clipped_below += count::<A, N>(down);
    let dropped = up.or(down);
    let weight = select_many(given.ratio.greater_than(&most), most, given.ratio);
    let surrogate = of_log_probs(given, weight * given.advantage);
    Surrogate::<A, N> {
        value: select_many(dropped, zero, surrogate.value),
        slope: select_many(dropped, zero, surrogate.slope),
    }
}

/// `ln(max(1 - p, 1e-8))`; NaN stays NaN.
#[cube]
fn log_rest<A: Float, N: Size>(p: Vector<A, N>) -> Vector<A, N> {
    let rest = Vector::new(A::new(1.0)) - p;
    let least = Vector::new(A::new(1e-8));
    select_many(rest.less_than(&least), least, rest).ln()
}

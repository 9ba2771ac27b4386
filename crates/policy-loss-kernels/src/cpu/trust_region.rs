//! The surrogate that drops tokens whose probability has moved too far.

use std::marker::PhantomData;

use super::exp::exp;
use super::lanes::Lanes;
use super::real::Real;
use super::sums::LaneSums;
use super::surrogates::{SurrogatePart, of_log_probs};
use super::token::{Constants, Inputs, RowConstants, Surrogate, TokenRatio};

/// Keeps a probability of 1 out of a logarithm of 0.
const LEAST_PROBABILITY: f64 = 1e-8;

/// `w * A * log_probs` with a weight that is bounded above, 0 where the token is dropped.
pub struct TrustRegion<D>(PhantomData<D>);

/// How far a probability has moved.
pub trait Distance: 'static {
    /// Where it has moved up, and down, beyond the bounds; given the logarithms of the
    /// probabilities `p`, now, and `q`, before.
    fn beyond<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        log_p: L::Vector,
        log_q: L::Vector,
    ) -> [L::Mask; 2];
}

/// By the difference of the probabilities.
pub struct TotalVariation;

/// By the KL divergence between the token and everything else.
pub struct Kl;

impl Distance for TotalVariation {
    #[inline(always)]
    fn beyond<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        log_p: L::Vector,
        log_q: L::Vector,
    ) -> [L::Mask; 2] {
        let [minus_low, high, ..] = constants.surrogate;
        let change = lanes.sub(exp(lanes, log_p), exp(lanes, log_q));
        [lanes.greater(change, high), lanes.less(change, minus_low)]
    }
}

impl Distance for Kl {
    #[inline(always)]
    fn beyond<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        log_p: L::Vector,
        log_q: L::Vector,
    ) -> [L::Mask; 2] {
        let [_, high, _, low] = constants.surrogate;
        let (p, q) = (exp(lanes, log_p), exp(lanes, log_q));
        let (rest_of_p, rest_of_q) = (rest(lanes, p), rest(lanes, q));
        let of_the_token = lanes.mul(q, lanes.sub(log_q, log_p));
        // ln(rest_of_q / rest_of_p), by one logarithm that is exact near 1.
        let growth = lanes.div(lanes.sub(rest_of_q, rest_of_p), rest_of_p);
        let change = lanes.map(growth, |x| L::Real::from_f64(x.to_f64().ln_1p()));
        let of_the_rest = lanes.mul(lanes.sub(lanes.one(), q), change);
        let divergence = lanes.add(of_the_token, of_the_rest);
        [
            lanes.and(lanes.greater(divergence, high), lanes.greater(p, q)),
            lanes.and(lanes.greater(divergence, low), lanes.less(p, q)),
        ]
    }
}

/// The probability of everything but the token, kept away from 0.
#[inline(always)]
fn rest<L: Lanes>(lanes: L, probability: L::Vector) -> L::Vector {
    let least = lanes.splat(L::Real::from_f64(LEAST_PROBABILITY));
    let rest = lanes.sub(lanes.one(), probability);
    lanes.select(lanes.less(rest, least), least, rest)
}

impl<D: Distance> SurrogatePart for TrustRegion<D> {
    #[inline(always)]
    fn of<L: Lanes>(
        lanes: L,
        constants: &Constants<L>,
        _row: &RowConstants<L>,
        inputs: &Inputs<L>,
        ratio: &TokenRatio<L>,
        advantage: L::Vector,
        sums: &mut LaneSums<L>,
    ) -> Surrogate<L> {
        let [_, _, most, _] = constants.surrogate;
        let log_p = lanes.keep(inputs.valid, inputs.log_probs);
        let log_q = lanes.keep(inputs.valid, ratio.base);
        let [up, down] = D::beyond(lanes, constants, log_p, log_q);
        let up = lanes.and(up, lanes.greater(advantage, lanes.zero()));
        let down = lanes.and(down, lanes.less(advantage, lanes.zero()));
        let dropped = lanes.or(up, down);
        sums.clipped = lanes.count(dropped, sums.clipped);
        sums.clipped_above = lanes.count(up, sums.clipped_above);
        let weight = lanes.select(lanes.greater(ratio.value, most), most, ratio.value);
        let surrogate = of_log_probs(lanes, inputs, lanes.mul(weight, advantage));
        Surrogate {
            value: lanes.drop(dropped, surrogate.value),
            slope: lanes.drop(dropped, surrogate.slope),
            ..surrogate
        }
    }
}

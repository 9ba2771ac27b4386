//! The first visit of a row: its largest logit, and sums of exponentials.

use pulp::{Arch, Simd, WithSimd};

use super::super::exp::exp;
use super::super::lanes::{Lanes, Real};
use super::super::visit::STRETCH;
use super::{BLOCK, Softmax, Statistics, real};

/// A row as far as it has been visited.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The largest scaled logit; -inf before the first.
    shift: f64,
    /// `sum(exp(z - shift))`.
    sum: f64,
    /// `sum(exp(z - shift) (z - shift))`.
    weighted: f64,
    /// `sum(exp(z - shift)^2)`.
    squares: f64,
    /// The scaled logit of the target, once it has been met.
    target: Option<f64>,
}

impl Moments {
    pub fn new() -> Self {
        Self {
            shift: f64::NEG_INFINITY,
            sum: 0.0,
            weighted: 0.0,
            squares: 0.0,
            target: None,
        }
    }

    /// Visits more of the row. `target` is the target's place in `logits`, if it is there.
    pub fn visit<T: Real>(
        &mut self,
        arch: Arch,
        softmax: Softmax,
        scale: f64,
        logits: &[T],
        target: Option<usize>,
    ) {
        let scale = real::<T>(scale);
        if let Some(place) = target {
            self.target = Some((logits[place] * scale).to_f64());
        }
        for block in logits.chunks(BLOCK) {
            let at_once = (block, scale, *self);
            *self = match (softmax.entropy, softmax.squares) {
                (false, false) => arch.dispatch(Visit::<_, false, false>(at_once)),
                (true, false) => arch.dispatch(Visit::<_, true, false>(at_once)),
                (false, true) => arch.dispatch(Visit::<_, false, true>(at_once)),
                (true, true) => arch.dispatch(Visit::<_, true, true>(at_once)),
            };
        }
    }

    pub fn statistics(self, softmax: Softmax) -> Statistics {
        let log_sum = self.sum.ln();
        Statistics {
            log_prob: match self.target {
                Some(target) => target - self.shift - log_sum,
                None => f64::NAN,
            },
            entropy: match softmax.entropy {
                true => log_sum - self.weighted / self.sum,
                false => 0.0,
            },
            squares: match softmax.squares {
                true => self.squares / (self.sum * self.sum),
                false => 0.0,
            },
            shift: self.shift,
            log_sum,
        }
    }

    /// The same sums, relative to a shift that is not below the old one.
    fn shifted(self, shift: f64) -> Self {
        if shift == self.shift || self.sum == 0.0 {
            return Self { shift, ..self };
        }
        let distance = self.shift - shift;
        let factor = distance.exp();
        Self {
            shift,
            sum: factor * self.sum,
            weighted: factor * (self.weighted + self.sum * distance),
            squares: factor * factor * self.squares,
            ..self
        }
    }
}

/// Adds a block, by its scale, to what has been visited.
struct Visit<'a, T, const ENTROPY: bool, const SQUARES: bool>((&'a [T], T, Moments));

impl<T: Real, const ENTROPY: bool, const SQUARES: bool> WithSimd
    for Visit<'_, T, ENTROPY, SQUARES>
{
    type Output = Moments;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Moments {
        let lanes = T::lanes(simd);
        let Self((block, own_scale, visited)) = self;
        let (vectors, rest) = <T::Lanes<S> as Lanes>::split(block);
        let scale = lanes.splat(own_scale);

        let mut largest = [lanes.splat(real(f64::NEG_INFINITY)); 4];
        let (quads, single) = vectors.as_chunks::<4>();
        for quad in quads {
            for (largest, &vector) in largest.iter_mut().zip(quad) {
                *largest = lanes.max(*largest, lanes.mul(vector, scale));
            }
        }
        for &vector in single {
            largest[0] = lanes.max(largest[0], lanes.mul(vector, scale));
        }
        let largest = lanes.max(
            lanes.max(largest[0], largest[1]),
            lanes.max(largest[2], largest[3]),
        );
        let mut block_shift = lanes.largest(largest);
        for &value in rest {
            block_shift = block_shift.max((value * own_scale).to_f64());
        }
        // A NaN may have displaced the largest. It reaches the sums below, whatever the shift.
        let shift = match block_shift > visited.shift {
            true => block_shift,
            false => visited.shift,
        };
        let mut moments = visited.shifted(shift);

        // A block of -inf alone has no shift; relative to a very low number it is still -inf.
        let shift = match shift == f64::NEG_INFINITY {
            true => real::<T>(-f64::from(f32::MAX)),
            false => real::<T>(shift),
        };
        let sums = Sums {
            scale,
            shift: lanes.splat(shift),
            sum: lanes.zero(),
            weighted: lanes.zero(),
            squares: lanes.zero(),
        };
        // Two chains hide the latency of the exponential. Each of them takes one vector less than a
        // stretch has: the last addition of the stretch is that of the chains.
        for stretch in vectors.chunks(2 * (STRETCH - 1)) {
            let mut sums = [sums; 2];
            let (pairs, single) = stretch.as_chunks::<2>();
            for pair in pairs {
                for (sums, &vector) in sums.iter_mut().zip(pair) {
                    sums.add::<ENTROPY, SQUARES>(lanes, vector);
                }
            }
            for &vector in single {
                sums[0].add::<ENTROPY, SQUARES>(lanes, vector);
            }
            let [a, b] = sums;
            moments.sum += lanes.sum(lanes.add(a.sum, b.sum));
            if ENTROPY {
                moments.weighted += lanes.sum(lanes.add(a.weighted, b.weighted));
            }
            if SQUARES {
                moments.squares += lanes.sum(lanes.add(a.squares, b.squares));
            }
        }
        for &value in rest {
            // A vector of one value: each of its lanes would otherwise be a logit of 0.
            let mut sums = sums;
            sums.add::<ENTROPY, SQUARES>(lanes, lanes.splat(value));
            moments.sum += first(lanes, sums.sum);
            if ENTROPY {
                moments.weighted += first(lanes, sums.weighted);
            }
            if SQUARES {
                moments.squares += first(lanes, sums.squares);
            }
        }
        moments
    }
}

/// Any lane of a vector whose lanes are all the same; NaN stays.
#[inline(always)]
fn first<L: Lanes>(lanes: L, vector: L::Vector) -> f64 {
    let count = lanes.sum(lanes.one());
    lanes.sum(vector) / count
}

#[derive(Clone, Copy)]
struct Sums<L: Lanes> {
    scale: L::Vector,
    shift: L::Vector,
    sum: L::Vector,
    weighted: L::Vector,
    squares: L::Vector,
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn add<const ENTROPY: bool, const SQUARES: bool>(&mut self, lanes: L, logits: L::Vector) {
        let mut distance = lanes.sub(lanes.mul(logits, self.scale), self.shift);
        if ENTROPY {
            // A logit of -inf has probability 0, and 0 * -inf would be NaN.
            let low = lanes.splat(L::Real::EXP_IS_ZERO);
            distance = lanes.select(lanes.less(distance, low), low, distance);
        }
        let probability = exp(lanes, distance);
        self.sum = lanes.add(self.sum, probability);
        if ENTROPY {
            self.weighted = lanes.mul_add(probability, distance, self.weighted);
        }
        if SQUARES {
            self.squares = lanes.mul_add(probability, probability, self.squares);
        }
    }
}

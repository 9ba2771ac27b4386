//! The second visit of a row: the gradient of its logits.
//!
//! With `p = exp(z - shift - log_sum)`, the gradient of the log-prob is `[target] - p`, that of the
//! entropy `-p (log p + entropy)`, that of the sum of squared probabilities `2 p (p - squares)`, all times
//! the scale of `z = scale * logits`.

use pulp::{Arch, Simd, WithSimd};

use super::super::exp::exp;
use super::super::lanes::{Lanes, Real};
use super::{RowGradient, real};

/// Replaces logits by their gradient. `target` is the target's place in `logits`, if it is there.
pub fn replace<T: Real>(
    arch: Arch,
    row: &RowGradient,
    is_valid: bool,
    logits: &mut [T],
    target: Option<usize>,
) {
    if !row.is_active() {
        // Not computed: 0 times what stands there might be NaN.
        logits.fill(real(0.0));
        return;
    }
    if !is_valid {
        // The log-prob is NaN, and so is what follows from it.
        logits.fill(real(f64::NAN));
        return;
    }
    match row.has_more() {
        true => arch.dispatch(Replace::<_, true> { row, logits }),
        false => arch.dispatch(Replace::<_, false> { row, logits }),
    }
    if let Some(place) = target {
        logits[place] = logits[place] + real(row.log_prob_gradient * row.token.scale);
    }
}

struct Replace<'a, T, const MORE: bool> {
    row: &'a RowGradient,
    logits: &'a mut [T],
}

impl<T: Real, const MORE: bool> WithSimd for Replace<'_, T, MORE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes(simd);
        let row = self.row;
        let scale = row.token.scale;
        let constants = Constants {
            scale: lanes.splat(real(scale)),
            shift: lanes.splat(real(row.shift)),
            log_sum: lanes.splat(real(row.log_sum)),
            entropy: lanes.splat(real(row.entropy)),
            squares: lanes.splat(real(row.squares)),
            log_prob_gradient: lanes.splat(real(-scale * row.log_prob_gradient)),
            entropy_gradient: lanes.splat(real(-scale * row.entropy_gradient)),
            squares_gradient: lanes.splat(real(2.0 * scale * row.squares_gradient)),
        };
        let (vectors, rest) = <T::Lanes<S> as Lanes>::split_mut(self.logits);
        for vector in vectors {
            *vector = constants.gradient::<MORE>(lanes, *vector);
        }
        if !rest.is_empty() {
            let vector = constants.gradient::<MORE>(lanes, lanes.load_rest(rest));
            lanes.replace_rest(vector, rest);
        }
    }
}

struct Constants<L: Lanes> {
    scale: L::Vector,
    shift: L::Vector,
    log_sum: L::Vector,
    entropy: L::Vector,
    squares: L::Vector,
    log_prob_gradient: L::Vector,
    entropy_gradient: L::Vector,
    squares_gradient: L::Vector,
}

impl<L: Lanes> Constants<L> {
    #[inline(always)]
    fn gradient<const MORE: bool>(&self, lanes: L, logits: L::Vector) -> L::Vector {
        let distance = lanes.sub(lanes.mul(logits, self.scale), self.shift);
        let log_probability = lanes.sub(distance, self.log_sum);
        if MORE {
            // A logit of -inf has probability 0, and 0 * -inf would be NaN.
            let low = lanes.splat(L::Real::EXP_IS_ZERO);
            let log_probability =
                lanes.select(lanes.less(log_probability, low), low, log_probability);
            let probability = exp(lanes, log_probability);
            let factor = lanes.mul_add(
                self.entropy_gradient,
                lanes.add(log_probability, self.entropy),
                self.log_prob_gradient,
            );
            let factor = lanes.mul_add(
                self.squares_gradient,
                lanes.sub(probability, self.squares),
                factor,
            );
            lanes.mul(probability, factor)
        } else {
            lanes.mul(exp(lanes, log_probability), self.log_prob_gradient)
        }
    }
}

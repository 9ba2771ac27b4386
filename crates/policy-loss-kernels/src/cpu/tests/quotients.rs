//! The logarithm of a quotient, however far from 1 it is.

use pulp::{Simd, WithSimd};

use super::levels;
use crate::cpu::lanes::{Lanes, Real};
use crate::cpu::words::{logarithm_of_quotient, splat};

struct LogarithmOfQuotient<T>(T, T);

impl<T: Real> WithSimd for LogarithmOfQuotient<T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let lanes = T::lanes(simd);
        let [left, right] = [self.0, self.1].map(|number| splat(lanes, number.to_f64()));
        let logarithm = logarithm_of_quotient(left, right).1;
        // Exact, as there is a power of two of them, and NaN where one is.
        lanes.sum(logarithm) / (size_of_val(&logarithm) / size_of::<T>()) as f64
    }
}

fn check<T: Real>(epsilon: f64) {
    let numbers = [1e-8, 0.282, 0.283, 0.283 + 1e-6, 1.0].map(T::from_f64);
    for arch in levels() {
        for left in numbers {
            for right in numbers {
                let (l, r) = (left.to_f64(), right.to_f64());
                let want = match l / r > 0.5 && l / r < 2.0 {
                    true => ((l - r) / r).ln_1p(),
                    false => (l / r).ln(),
                };
                let got = arch.dispatch(LogarithmOfQuotient(left, right));
                let off = (got - want).abs();
                assert!(
                    off <= 2.0 * epsilon * want.abs(),
                    "ln({l} / {r}): {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn of_zero_infinity_and_nan() {
    let (zero, infinite, nan) = (0.0_f32, f32::INFINITY, f32::NAN);
    for arch in levels() {
        let of = |left, right| arch.dispatch(LogarithmOfQuotient(left, right));
        assert_eq!(of(zero, 1.0), f64::NEG_INFINITY);
        assert_eq!(of(1.0, zero), f64::INFINITY);
        assert_eq!(of(infinite, 1.0), f64::INFINITY);
        assert_eq!(of(1.0, infinite), f64::NEG_INFINITY);
        assert!(of(nan, 1.0).is_nan() && of(1.0, nan).is_nan());
    }
}

#[test]
fn is_exact_near_one_and_finite_elsewhere() {
    check::<f32>(f64::from(f32::EPSILON));
    check::<f64>(f64::EPSILON);
}

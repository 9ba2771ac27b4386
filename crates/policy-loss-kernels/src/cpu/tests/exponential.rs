//! The exponential against a better one, in units in the last place.

use pulp::{Arch, Simd, WithSimd};

use crate::cpu::exp::{Exponential, exp};
use crate::cpu::lanes::Lanes;
use crate::cpu::lanes::Real;

use super::{Random, levels};

/// Which results are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Full,
    Bounded,
    MinusOneMinusX,
}

struct Apply<'a, T> {
    form: Form,
    values: &'a [T],
}

impl<T: Real> WithSimd for Apply<'_, T> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f64> {
        let lanes = T::lanes(simd);
        let mut results = Vec::new();
        for &value in self.values {
            let x = lanes.splat(value);
            let result = match self.form {
                Form::Full => exp(lanes, x),
                Form::Bounded => Exponential::of_bounded(lanes, x).value(lanes),
                Form::MinusOneMinusX => Exponential::of_bounded(lanes, x).minus_one_minus_x(lanes),
            };
            // NaN is not found by a search for the smallest.
            let is_nan = lanes.select(
                lanes.or(
                    lanes.less(result, lanes.zero()),
                    lanes.greater(result, lanes.splat(-T::from_f64(1.0))),
                ),
                lanes.zero(),
                lanes.one(),
            );
            results.push(match lanes.smallest(is_nan) {
                0.0 => lanes.smallest(result),
                _ => f64::NAN,
            });
        }
        results
    }
}

fn apply<T: Real>(arch: Arch, form: Form, values: &[T]) -> Vec<f64> {
    arch.dispatch(Apply { form, values })
}

/// A sum of two f64 that do not overlap.
#[derive(Clone, Copy)]
struct Double(f64, f64);

impl Double {
    fn sum(a: f64, b: f64) -> Self {
        let sum = a + b;
        let b_part = sum - a;
        Self(sum, (a - (sum - b_part)) + (b - b_part))
    }

    fn add(self, other: Self) -> Self {
        let Self(high, low) = Self::sum(self.0, other.0);
        Self::sum(high, low + self.1 + other.1)
    }

    fn mul(self, other: Self) -> Self {
        let high = self.0 * other.0;
        let low = self.0.mul_add(other.0, -high) + self.0 * other.1 + self.1 * other.0;
        Self::sum(high, low)
    }

    /// `exp(x)`, as a value and a power of two.
    fn exp(x: f64) -> (Self, i32) {
        const LN_2: Double = Double(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
        const HALVINGS: i32 = 10;

        let exponent = (x / std::f64::consts::LN_2).round();
        let product = LN_2.mul(Self(-exponent, 0.0));
        let shrink = f64::powi(0.5, HALVINGS);
        let fraction = Self(x, 0.0).add(product);
        let fraction = Self(fraction.0 * shrink, fraction.1 * shrink);
        let mut result = Self(1.0, 0.0);
        for divisor in (1..=9).rev() {
            let divisor = f64::from(divisor);
            let quotient = fraction.0 / divisor;
            let rest = (-quotient).mul_add(divisor, fraction.0) + fraction.1;
            result = Self::sum(quotient, rest / divisor).mul(result);
            result = result.add(Self(1.0, 0.0));
        }
        for _ in 0..HALVINGS {
            result = result.mul(result);
        }
        (result, exponent as i32)
    }
}

/// The largest error of f32 results, in units in the last place of the true value.
fn error_f32(arch: Arch, form: Form, values: &[f32]) -> f64 {
    let results = apply(arch, form, values);
    let errors = values.iter().zip(results).map(|(&x, got)| {
        let want = f64::from(x).exp();
        if want.is_nan() {
            return if got.is_nan() { 0.0 } else { f64::INFINITY };
        }
        if want as f32 == f32::INFINITY {
            // The largest finite number is as good where `want` is next to it.
            return if got >= f64::from(f32::MAX) {
                0.0
            } else {
                f64::INFINITY
            };
        }
        let exponent = want.log2().floor().max(-126.0);
        (got - want).abs() / (exponent - 23.0).exp2()
    });
    errors.fold(0.0, f64::max)
}

/// The same of f64 results, where they are normal numbers.
fn error_f64(arch: Arch, form: Form, values: &[f64]) -> f64 {
    let results = apply(arch, form, values);
    let errors = values.iter().zip(results).map(|(&x, got)| {
        let (want, exponent) = Double::exp(x);
        // Divided in two steps, neither of which leaves the normal numbers.
        let got = got / f64::powi(2.0, exponent / 2) / f64::powi(2.0, exponent - exponent / 2);
        let unit = if want.0 < 1.0 {
            f64::EPSILON / 2.0
        } else {
            f64::EPSILON
        };
        (got - want.0 - want.1).abs() / unit
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn f32_is_accurate_over_the_full_range() {
    let values: Vec<f32> = (0..=u32::MAX)
        .step_by(8191)
        .map(f32::from_bits)
        .chain((0..200_000).map(|step| -104.5 + 194.0 * step as f32 / 200_000.0))
        .collect();
    for arch in levels() {
        let error = error_f32(arch, Form::Full, &values);
        println!("f32, {arch:?}: {error:.3} ulp");
        assert!(error <= 2.0, "{error} ulp, {arch:?}");
    }
}

#[test]
fn bounded_f32_is_accurate() {
    let values: Vec<f32> = (0..400_000)
        .map(|step| -20.0 + 40.0 * step as f32 / 400_000.0)
        .chain([20.0, 0.0, -0.0, f32::NAN])
        .collect();
    for arch in levels() {
        let error = error_f32(arch, Form::Bounded, &values);
        println!("bounded f32, {arch:?}: {error:.3} ulp");
        assert!(error <= 2.0, "{error} ulp, {arch:?}");
    }
}

#[test]
fn f64_is_accurate() {
    let mut random = Random(1);
    let full: Vec<f64> = (0..100_000)
        .map(|_| random.between(-708.0, 709.7))
        .collect();
    let bounded: Vec<f64> = (0..100_000).map(|_| random.between(-20.0, 20.0)).collect();
    for arch in levels() {
        for (form, values) in [(Form::Full, &full), (Form::Bounded, &bounded)] {
            let error = error_f64(arch, form, values);
            println!("f64, {arch:?}: {error:.3} ulp");
            assert!(error <= 2.0, "{error} ulp, {arch:?}");
        }
    }
}

#[test]
fn f64_at_the_ends_of_the_range() {
    let values = [
        f64::INFINITY,
        f64::MAX,
        710.0,
        f64::NEG_INFINITY,
        -1e4,
        -746.0,
        f64::NAN,
        -744.0,
        -720.0,
    ];
    for arch in levels() {
        let got = apply(arch, Form::Full, &values);
        assert!(got[..3].iter().all(|&value| value == f64::INFINITY));
        assert!(got[3..6].iter().all(|&value| value == 0.0));
        assert!(got[6].is_nan());
        for (got, x) in got[7..].iter().zip(&values[7..]) {
            // Two units of the smallest number.
            assert!((got - x.exp()).abs() <= 1e-323, "exp({x}) = {got:e}");
        }
    }
}

#[test]
fn minus_one_minus_x_keeps_its_digits() {
    let mut worst = 0.0_f64;
    for arch in levels() {
        let values: Vec<f32> = (0..60_000)
            .map(|step| 1e-6 * 1.000_28_f32.powi(step))
            .take_while(|&x| x <= 20.0)
            .flat_map(|x| [x, -x])
            .collect();
        let results = apply(arch, Form::MinusOneMinusX, &values);
        for (&x, got) in values.iter().zip(results) {
            let x = f64::from(x);
            let want = if x.abs() < 1e-3 {
                x * x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0)))
            } else {
                x.exp_m1() - x
            };
            worst = worst.max(((got - want) / want).abs());
        }
    }
    println!("relative error of exp(x) - 1 - x in f32: {worst:e}");
    assert!(worst < 1e-6, "{worst:e}");
}

//! When two results agree.

use std::fmt::Display;

use burn::tensor::DType;
use policy_loss::MetricValues;
use policy_loss_oracle::{Answer, Metrics};

use crate::case::Case;
use crate::runner::{Outcome, Runner};

/// How far two numbers may lie apart: relative to the expected one, or absolutely near 0.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Relative to the expected value.
    pub relative: f64,
    /// Near 0.
    pub absolute: f64,
}

impl Tolerance {
    /// Both the same.
    pub const fn of(tolerance: f64) -> Self {
        Self {
            relative: tolerance,
            absolute: tolerance,
        }
    }

    /// That of losses and metrics computed in `dtype`.
    pub fn value(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::of(1e-12),
            _ => Self {
                relative: 1e-5,
                absolute: 1e-6,
            },
        }
    }

    /// That of gradients of type `dtype`, element by element.
    pub fn gradient(dtype: DType) -> Self {
        let relative = match dtype {
            DType::F64 => return Self::of(1e-12),
            // One rounding: half a unit in the last place, and as much again where the f32 result
            // itself lies within an error of the middle between two neighbours.
            DType::F16 => 2f64.powi(-10),
            DType::BF16 => 2f64.powi(-7),
            _ => 1e-5,
        };
        Self {
            relative,
            absolute: 1e-7,
        }
    }

    /// The same, but at least `tolerance`.
    pub fn at_least(self, tolerance: f64) -> Self {
        Self {
            relative: self.relative.max(tolerance),
            absolute: self.absolute.max(tolerance),
        }
    }

    /// Whether two numbers agree. NaN agrees with NaN, an infinity with itself.
    pub fn accepts(self, actual: f64, expected: f64) -> bool {
        if actual.to_bits() == expected.to_bits() || (actual.is_nan() && expected.is_nan()) {
            return true;
        }
        let distance = (actual - expected).abs();
        distance <= self.absolute || distance <= self.relative * expected.abs()
    }
}

/// Fails unless two numbers agree.
///
/// # Panics
///
/// They do not.
pub fn assert_near(tolerance: Tolerance, what: &str, actual: f64, expected: f64) {
    assert!(
        tolerance.accepts(actual, expected),
        "{what} is {actual:e}, expected {expected:e} ({tolerance:?})"
    );
}

/// Fails unless two lists agree.
///
/// # Panics
///
/// They do not.
pub fn assert_all_near(tolerance: Tolerance, what: &str, actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "the length of {what}");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_near(tolerance, &format!("{what}[{i}]"), *actual, *expected);
    }
}

/// The largest distance from 0.
pub fn largest(numbers: &[f64]) -> f64 {
    numbers
        .iter()
        .fold(0.0, |largest: f64, x| largest.max(x.abs()))
}

/// Fails unless all metrics agree, the absent ones included.
///
/// # Panics
///
/// They do not.
pub fn assert_metrics(tolerance: Tolerance, what: &str, actual: &MetricValues, expected: &Metrics) {
    let actual = actual.named();
    let names = |named: &[(&'static str, Option<f64>)]| -> Vec<&str> {
        named.iter().map(|(name, _)| *name).collect()
    };
    assert_eq!(names(&actual), names(&expected.0), "{what}: the metrics");
    for ((name, actual), (_, expected)) in actual.iter().zip(&expected.0) {
        let what = format!("{what}: {name}");
        match (actual, expected) {
            (Some(actual), Some(expected)) => assert_near(tolerance, &what, *actual, *expected),
            _ => assert_eq!(actual, expected, "{what}"),
        }
    }
}

/// Fails unless an outcome is what the oracle says.
///
/// # Panics
///
/// It is not.
pub fn assert_outcome(what: &str, log_probs: DType, actual: &Outcome, expected: &Answer) {
    let value = Tolerance::value(actual.dtype);
    // What a sum loses where its terms cancel depends on them.
    let terms = expected.token_losses.iter().map(|loss| loss.abs());
    let of_sum = Tolerance {
        absolute: value.absolute * terms.filter(|loss| loss.is_finite()).fold(1.0, f64::max),
        ..value
    };
    assert_near(of_sum, &format!("{what}: loss"), actual.loss, expected.loss);
    assert_metrics(value, what, &actual.metrics, &expected.metrics);
    if let Some(gradient) = &actual.gradient {
        let tolerance = Tolerance::gradient(log_probs);
        let what = format!("{what}: gradient");
        assert_all_near(tolerance, &what, gradient, &expected.gradient);
    }
    if let Some(gradient) = &actual.entropy_gradient {
        // It comes from the arithmetic, and is rounded to the type of the entropies.
        let tolerance = Tolerance::gradient(actual.entropy_dtype).at_least(value.relative);
        let what = format!("{what}: gradient of the entropies");
        assert_all_near(tolerance, &what, gradient, &expected.entropy_gradient);
    }
}

/// Fails unless loss, metrics, gradient and token losses of a case are what the oracle says.
///
/// # Panics
///
/// They are not.
pub fn assert_is_answer(
    what: &str,
    case: &Case,
    dtype: DType,
    outcome: &Outcome,
    token_losses: &[f64],
) {
    let expected = case.rounded(dtype, dtype).answer();
    assert_outcome(what, dtype, outcome, &expected);
    assert_all_near(
        Tolerance::value(dtype),
        &format!("{what}: token loss"),
        token_losses,
        &expected.token_losses,
    );
}

/// As [`assert_is_answer`], in every type that is compared with the oracle.
///
/// # Panics
///
/// It is not.
pub fn assert_agrees_with_oracle(runner: &Runner, case: &Case) {
    for dtype in runner.exact_dtypes() {
        let what = format!("{runner}, {dtype:?}, {}", case.name);
        let outcome = runner.outcome(case, dtype);
        let token_losses = runner.token_losses(case, dtype);
        assert_is_answer(&what, case, dtype, &outcome, &token_losses);
    }
}

/// Fails unless a message names every part.
///
/// # Panics
///
/// It does not.
#[track_caller]
pub fn assert_names(message: impl Display, parts: &[&str]) {
    let message = message.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

/// Every bit of an outcome, for comparisons that allow no difference at all.
pub fn bits(outcome: &Outcome) -> Vec<u64> {
    let metrics = outcome.metrics.named().into_iter().filter_map(|(_, v)| v);
    let gradients = [&outcome.gradient, &outcome.entropy_gradient];
    let gradient = gradients.into_iter().flatten().flatten().copied();
    std::iter::once(outcome.loss)
        .chain(metrics)
        .chain(gradient)
        .map(f64::to_bits)
        .collect()
}

//! What verl computes.

use burn::tensor::DType;
use policy_loss::AdvantageEstimatorConfig;

use super::case::Case;
use super::golden::{self, Golden};
use super::oracle::Answer;
use super::suite::assert_answer;
use crate::compare::Tolerance;
use crate::runner::Runner;

/// What verl computes, to 1e-10, and to what its own roundings allow where it has some.
pub fn golden_values(runner: &Runner) {
    let golden = golden::cases();
    let count = golden
        .iter()
        .map(|golden| golden.expected.len())
        .sum::<usize>();
    assert_eq!((golden.len(), count), (3, 29));
    for (batch, Golden { case, expected }) in golden.iter().enumerate() {
        for (name, config, expected) in expected {
            for dtype in runner.exact_dtypes() {
                let exact = match name.as_str() {
                    // It divides a mean by n + 1e-8; see `golden_departures`.
                    _ if has_whitening(config) => Tolerance::of(1e-9),
                    // It adds the epsilon of a group of one in f32.
                    "grpo" if batch == 2 => Tolerance::of(1e-8),
                    _ => Tolerance::of(1e-10),
                };
                let what = format!("{runner}, {dtype:?}, batch {batch}, {name}");
                let tolerance = match dtype {
                    DType::F64 => exact,
                    _ => Tolerance::of(1e-5),
                };
                let actual = case.run(runner, config, dtype);
                assert_answer(tolerance, &what, &actual, &at_valid(case, expected));
            }
        }
    }
}

/// At padding the reference leaves what it happens to compute; here it is 0.
fn at_valid(case: &Case, answer: &Answer) -> Answer {
    let select = |values: &Vec<f64>| -> Vec<f64> {
        let select = |(i, x): (usize, &f64)| match case.is_valid(i) {
            true => *x,
            false => 0.0,
        };
        values.iter().enumerate().map(select).collect()
    };
    Answer {
        advantages: select(&answer.advantages),
        returns: answer.returns.as_ref().map(select),
    }
}

pub(super) fn has_whitening(config: &AdvantageEstimatorConfig) -> bool {
    match config {
        AdvantageEstimatorConfig::Generalized(c) => c.whitening.is_some(),
        AdvantageEstimatorConfig::ReturnToGo(c) => c.whitening.is_some(),
        AdvantageEstimatorConfig::GroupRelative(c) => c.whitening.is_some(),
        other => panic!("unknown: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The departures from the reference are the ones that are named: with `n + 1e-8` in the place
    /// of `n`, the oracle whitens to the reference's last digits.
    #[test]
    fn golden_departures() {
        let mut whitened = 0;
        for Golden { case, expected } in golden::cases() {
            for (name, config, expected) in &expected {
                let expected = at_valid(&case, expected);
                if !has_whitening(config) {
                    continue;
                }
                whitened += 1;
                let theirs = case.answer_with_offset(config, 1e-8);
                assert_answer(Tolerance::of(1e-13), name, &theirs, &expected);
                let ours = case.answer(config);
                let near = Tolerance::of(1e-10);
                let differ = |(a, b): (&f64, &f64)| !near.accepts(*a, *b);
                let pairs = ours.advantages.iter().zip(&expected.advantages);
                assert!(pairs.into_iter().any(differ), "{name}: no departure");
            }
        }
        assert_eq!(whitened, 9);
    }
}

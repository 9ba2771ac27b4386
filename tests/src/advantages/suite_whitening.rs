//! Whitening, by hand.

use burn::tensor::{DType, Tensor};
use policy_loss::Whitening;

use super::suite::tolerance;
use crate::compare::assert_all_near;
use crate::runner::{Runner, values};

/// Mean 0 and deviation 1 over the valid tokens, or the mean as it was.
pub fn whitening(runner: &Runner) {
    let x = [1.0, 2.0, f64::NAN, 4.0, 7.0, f64::INFINITY];
    let mask = [true, true, false, true, true, false];
    for dtype in runner.exact_dtypes() {
        let run = |mask: Option<&[bool]>, shift_mean: bool, x: &[f64]| {
            let shape = [2, x.len() / 2];
            let mask = mask.map(|mask| {
                let mask: Vec<f64> = mask.iter().map(|m| f64::from(u8::from(*m))).collect();
                let mask: Tensor<2> = runner.tensor(&mask, shape, DType::F32);
                mask.greater_elem(0)
            });
            let whitening = Whitening::new().with_shift_mean(shift_mean);
            let output = whitening.forward(runner.tensor(x, shape, dtype), mask);
            values(output.expect("accepted"))
        };
        let near = |what: &str, actual: &[f64], expected: &[f64]| {
            assert_all_near(
                tolerance(dtype),
                &format!("{runner}, {dtype:?}, {what}"),
                actual,
                expected,
            );
        };
        // Mean 3.5, squared distances 6.25 + 2.25 + 0.25 + 12.25 = 21, variance 7.
        let d = 7.00000001f64.sqrt();
        let shifted = [-2.5 / d, -1.5 / d, 0.0, 0.5 / d, 3.5 / d, 0.0];
        near("shifted", &run(Some(&mask), true, &x), &shifted);
        let kept = std::array::from_fn::<_, 6, _>(|i| match mask[i] {
            true => shifted[i] + 3.5,
            false => 0.0,
        });
        near("kept", &run(Some(&mask), false, &x), &kept);
        let one = [false, false, false, true, false, false];
        near("one token", &run(Some(&one), true, &x), &[0.0; 6]);
        let kept = [0.0, 0.0, 0.0, 4.0, 0.0, 0.0];
        near("one token, kept", &run(Some(&one), false, &x), &kept);
        near("no token", &run(Some(&[false; 6]), true, &x), &[0.0; 6]);
        near("equal", &run(None, true, &[0.1; 6]), &[0.0; 6]);
        near("empty", &run(None, true, &[]), &[]);
    }
}

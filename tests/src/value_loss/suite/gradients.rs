//! The gradient of the value loss: slopes, branches, and who receives one.

use burn::tensor::{DType, Tensor};
use policy_loss::{ValueBatch, ValueLossConfig};

use crate::compare::{Tolerance, assert_all_near};
use crate::runner::{Runner, gradient};
use crate::value_loss::case::{Case, configs};
use policy_loss_oracle::Random;

/// In f64, away from the kinks, the gradient is the slope between two neighbours.
pub fn gradient_is_the_slope(runner: &Runner) {
    const STEP: f64 = 1e-5;
    if !runner.exact_dtypes().contains(&DType::F64) {
        return;
    }
    let mut compared = 0;
    for config in configs() {
        for seed in 0..3 {
            let case = Case::random(config, [3, 4], seed);
            let gradient = case.run(runner, DType::F64).gradient;
            for (i, gradient) in gradient.iter().enumerate() {
                if distance_to_kink(&case, i) < 10.0 * STEP {
                    continue;
                }
                let loss_at = |offset: f64| {
                    let mut case = case.clone();
                    case.values[i] += offset;
                    case.run(runner, DType::F64).loss
                };
                let slope = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
                let tolerance = Tolerance {
                    relative: 1e-6,
                    absolute: 1e-9,
                };
                let near = tolerance.accepts(*gradient, slope);
                assert!(near, "{runner}: [{i}] is {gradient}, the slope {slope}");
                compared += 1;
            }
        }
    }
    assert!(compared > 150, "{compared}");
}

/// How far a value lies from where a branch changes: the bounds, and the reflection of each of
/// them at the return.
fn distance_to_kink(case: &Case, i: usize) -> f64 {
    let Some(clip) = case.config.clip else {
        return f64::INFINITY;
    };
    let edges = [case.old_values[i] - clip, case.old_values[i] + clip];
    let kinks = edges
        .iter()
        .flat_map(|edge| [*edge, 2.0 * case.returns[i] - edge]);
    kinks
        .map(|kink| (case.values[i] - kink).abs())
        .fold(f64::INFINITY, f64::min)
}

/// The declared sub-gradients, one row of tokens: numbers that are exact in f32.
pub fn branches(runner: &Runner) {
    let config = ValueLossConfig::new().with_clip(0.5);
    let mut case = Case::new(config, [1, 7]);
    //             inside | at both bounds | beyond, clipped | beyond, not | tie
    case.values = vec![0.25, 0.5, -0.5, 1.0, -1.0, 1.0, 1.0];
    case.returns = vec![3.0, 3.0, -3.0, 3.0, -3.0, -1.0, 0.75];
    let slope = |v: f64, r: f64| (v - r) / 7.0;
    let expected = [
        slope(0.25, 3.0),
        slope(0.5, 3.0),
        slope(-0.5, -3.0),
        0.0,
        0.0,
        slope(1.0, -1.0),
        // Both branches lie 0.25 from the return.
        slope(1.0, 0.75),
    ];
    for dtype in runner.exact_dtypes() {
        let tolerance = Tolerance::gradient(dtype);
        let what = format!("{runner}, {dtype:?}");
        let gradient = case.run(runner, dtype).gradient;
        assert_all_near(tolerance, &what, &gradient, &expected);
        let clipped = case.run(runner, dtype).metrics[0].1;
        assert!((clipped - 2.0 / 7.0).abs() < 1e-6, "{what}: {clipped}");
    }
}

/// Within the bounds no value is taken for a clipped one, however `V_old + (V - V_old)` rounds.
pub fn roundings_do_not_clip(runner: &Runner) {
    let random = &mut Random(9);
    let mut case = Case::new(ValueLossConfig::new(), [8, 32]);
    let mut rounded = 0;
    for i in 0..case.values.len() {
        case.old_values[i] = f64::from(random.between(-0.18, 0.18) as f32);
        case.values[i] = f64::from(random.between(-0.01, 0.01) as f32);
        case.returns[i] = f64::from((case.values[i] + random.between(-1.0, 1.0)) as f32);
        let (value, old) = (case.values[i] as f32, case.old_values[i] as f32);
        rounded += usize::from(old + (value - old).clamp(-0.2, 0.2) != value);
    }
    for dtype in runner.exact_dtypes() {
        let answer = case.run(runner, dtype);
        assert_eq!(answer.metrics[0], ("clip_fraction", 0.0), "{runner}");
        for (i, gradient) in answer.gradient.iter().enumerate() {
            let slope = (case.values[i] - case.returns[i]) / 256.0;
            let near = Tolerance::gradient(dtype).accepts(*gradient, slope);
            assert!(
                near,
                "{runner}, {dtype:?}: [{i}] is {gradient}, not {slope}"
            );
        }
    }
    assert!(rounded > 100, "{rounded}");
}

/// Only the values receive a gradient, and it goes on through what they came from.
pub fn constants_receive_none(runner: &Runner) {
    let dtype = DType::F32;
    let tracked = |x: &[f64]| -> Tensor<2> { runner.tracked(x, [1, 3], dtype) };
    let hidden = tracked(&[0.25, 1.0, -1.0]);
    let returns = tracked(&[1.0, 0.0, 3.0]);
    let old_values = tracked(&[0.5, 2.0, -2.0]);
    let batch = ValueBatch::new(hidden.clone() * 2, returns.clone());
    let loss = ValueLossConfig::new().init().expect("sound");
    let output = loss.forward(batch.with_old_values(old_values.clone()));
    let gradients = (output.expect("accepted").loss * 3).backward();
    let gradient = gradient(&hidden, &gradients);
    // V = 0.5, 2, -2 is V_old; 2 * 3 * (V - R) / 3 tokens.
    let expected = [-1.0, 4.0, -10.0];
    let tolerance = Tolerance::gradient(dtype);
    let what = format!("{runner}");
    assert_all_near(tolerance, &what, &gradient, &expected);
    assert!(returns.grad(&gradients).is_none(), "{runner}");
    assert!(old_values.grad(&gradients).is_none(), "{runner}");
}

//! The KL in the reward.

use burn::tensor::{DType, Tensor};
use policy_loss::{KlEstimator, KlReward, KlRewardBatch, KlRewardOutput, Rewards};

use crate::advantages::oracle::kl;
use crate::case::round;
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::runner::{Mode, Runner, gradient, values};
use policy_loss_oracle::Random;

const ESTIMATES: [(KlReward, &str); 4] = [
    (KlReward::new(KlEstimator::K1), "k1"),
    (KlReward::new(KlEstimator::K2), "k2"),
    (KlReward::new(KlEstimator::K3), "k3"),
    (KlReward::new(KlEstimator::Abs), "abs"),
];

/// Tiny, small, ordinary and huge distances, in the order of the tokens.
const DISTANCES: [f64; 12] = [
    0.0,
    1.220703125e-4,
    -1.220703125e-4,
    0.0078125,
    -0.25,
    0.25,
    0.4375,
    0.5,
    -0.5,
    3.0,
    -7.0,
    30.0,
];

const SHAPE: [usize; 2] = [3, 4];

fn shaped(
    runner: &Runner,
    estimate: KlReward,
    rewards: Rewards,
    [log_probs, reference, mask]: [&[f64]; 3],
    coefficient: f64,
    dtype: DType,
) -> KlRewardOutput {
    let mask: Tensor<2> = runner.tensor(mask, SHAPE, DType::F32);
    let log_probs = runner.tracked(log_probs, SHAPE, dtype);
    let batch = KlRewardBatch::new(rewards, log_probs, runner.tensor(reference, SHAPE, dtype))
        .with_action_mask(mask.greater_elem(0));
    let output = estimate.forward(batch, coefficient);
    output.unwrap_or_else(|error| panic!("{runner}: {error}"))
}

/// Each estimate at each distance, the tiny ones to the last digits.
pub fn estimates(runner: &Runner) {
    let mask: Vec<f64> = (0..12).map(|i| f64::from(u8::from(i % 5 != 4))).collect();
    let random = &mut Random(5);
    for dtype in runner.exact_dtypes() {
        let reference: Vec<f64> = (0..12).map(|i| -1.0 - f64::from(i) / 16.0).collect();
        let mut log_probs: Vec<f64> = (0..12).map(|i| reference[i] + DISTANCES[i]).collect();
        let rewards: Vec<f64> = (0..12)
            .map(|_| round(DType::F32, random.between(-1.0, 1.0)))
            .collect();
        let mut dirty_reference = reference.clone();
        let mut dirty_rewards = rewards.clone();
        for i in (0..12).filter(|i| mask[*i] == 0.0) {
            log_probs[i] = f64::NAN;
            dirty_reference[i] = f64::NEG_INFINITY;
            dirty_rewards[i] = 1e30;
        }
        for (estimate, name) in ESTIMATES {
            let what = format!("{runner}, {dtype:?}, {name}");
            let tensor: Tensor<2> = runner.tensor(&dirty_rewards, SHAPE, dtype);
            let inputs = [&log_probs[..], &dirty_reference, &mask];
            let output = shaped(runner, estimate, tensor.into(), inputs, 0.3, dtype);
            let at_valid = |i: usize, x: f64| match mask[i] == 1.0 {
                true => x,
                false => 0.0,
            };
            let expected: Vec<f64> = (0..12)
                .map(|i| at_valid(i, kl(name, DISTANCES[i])))
                .collect();
            let relative = match dtype {
                DType::F64 => 1e-12,
                _ => 2e-6,
            };
            let tolerance = Tolerance {
                relative,
                absolute: 0.0,
            };
            assert_all_near(tolerance, &what, &values(output.kl), &expected);
            let mean = expected.iter().sum::<f64>() / mask.iter().sum::<f64>();
            assert_near(tolerance, &what, values(output.mean_kl)[0], mean);
            let expected: Vec<f64> = (0..12)
                .map(|i| at_valid(i, rewards[i] - 0.3 * expected[i]))
                .collect();
            let tolerance = Tolerance::value(dtype);
            assert_all_near(tolerance, &what, &values(output.rewards), &expected);
        }
    }
}

/// The reward of a sequence stands at its last valid token; the KL is taken from all of them.
pub fn sequence_rewards(runner: &Runner) {
    let log_probs = [0.5; 12].map(|x: f64| -x);
    let reference = [-1.0; 12];
    let mask = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0];
    let rewards: Tensor<1> = runner.tensor(&[2.0, f64::NAN, 3.0], [3], DType::F32);
    let inputs = [&log_probs[..], &reference, &mask];
    let output = shaped(
        runner,
        KlReward::default(),
        rewards.into(),
        inputs,
        0.5,
        DType::F32,
    );
    let expected = [
        -0.25, 1.75, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0, 2.75,
    ];
    let tolerance = Tolerance::value(DType::F32);
    let rewards = values(output.rewards.clone());
    assert_all_near(tolerance, "rewards", &rewards, &expected);
    if runner.mode != Mode::Plain {
        // Constants: only the factor that is put beside them has a gradient.
        let factor: Tensor<2> = runner.tracked(&[1.0; 12], SHAPE, DType::F32);
        let gradients = (output.rewards * factor.clone()).sum().backward();
        let gradient = gradient(&factor, &gradients);
        assert_all_near(tolerance, "gradient", &gradient, &expected);
    }
}

/// No token at all, and none that is valid.
pub fn nothing(runner: &Runner) {
    for (estimate, name) in ESTIMATES {
        for shape in [[0, 3], [2, 0]] {
            let empty: Tensor<2> = runner.tensor(&[], shape, DType::F32);
            let batch = KlRewardBatch::new(empty.clone(), empty.clone(), empty);
            let output = estimate.forward(batch, 0.1).expect("accepted");
            assert_eq!(output.rewards.dims(), shape, "{runner}, {name}");
            assert_eq!(values(output.mean_kl), [0.0], "{runner}, {name}");
        }
        let garbage = [f64::NAN; 12];
        let rewards: Tensor<2> = runner.tensor(&garbage, SHAPE, DType::F32);
        let inputs = [&garbage[..], &garbage, &[0.0; 12]];
        let output = shaped(runner, estimate, rewards.into(), inputs, 0.1, DType::F32);
        assert_eq!(values(output.rewards), [0.0; 12], "{runner}, {name}");
        assert_eq!(values(output.kl), [0.0; 12], "{runner}, {name}");
        assert_eq!(values(output.mean_kl), [0.0], "{runner}, {name}");
    }
}

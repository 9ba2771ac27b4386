//! What holds for every estimator.

use burn::tensor::{DType, Tensor};
use policy_loss::{AdvantageBatch, AdvantageEstimatorConfig};

use crate::advantages::case::{Case, HostRewards, configs, whitening};
use crate::advantages::oracle::Answer;
use crate::case::round;
use crate::compare::{Tolerance, assert_all_near};
use crate::runner::{Mode, Runner, values};

/// `B` and `T`: nothing, one, and several.
const SHAPES: [[usize; 2]; 8] = [
    [0, 0],
    [0, 3],
    [2, 0],
    [1, 1],
    [1, 6],
    [7, 1],
    [9, 5],
    [12, 8],
];

/// Differences of scores of size 1 are rounded where the scores are.
pub(super) fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F64 => Tolerance::of(1e-10),
        _ => Tolerance::of(1e-5),
    }
}

pub(super) fn shapes(runner: &Runner) -> &'static [[usize; 2]] {
    match runner.is_slow() {
        true => &SHAPES[6..7],
        false => &SHAPES,
    }
}

fn seeds(runner: &Runner) -> std::ops::Range<u64> {
    match runner.is_slow() {
        true => 0..2,
        false => 0..10,
    }
}

/// Fails unless two answers agree.
pub(super) fn assert_answer(tolerance: Tolerance, what: &str, actual: &Answer, expected: &Answer) {
    let advantages = format!("{what}: advantages");
    assert_all_near(
        tolerance,
        &advantages,
        &actual.advantages,
        &expected.advantages,
    );
    assert_eq!(
        actual.returns.is_some(),
        expected.returns.is_some(),
        "{what}: returns"
    );
    if let (Some(actual), Some(expected)) = (&actual.returns, &expected.returns) {
        assert_all_near(tolerance, &format!("{what}: returns"), actual, expected);
    }
}

/// Every bit of an answer.
pub(super) fn bits(answer: &Answer) -> Vec<u64> {
    let returns = answer.returns.iter().flatten();
    answer
        .advantages
        .iter()
        .chain(returns)
        .map(|x| x.to_bits())
        .collect()
}

/// Random batches of every shape, in every type.
pub fn agrees_with_the_oracle(runner: &Runner) {
    for (shape, seed) in shapes(runner)
        .iter()
        .flat_map(|shape| seeds(runner).map(move |seed| (*shape, seed)))
    {
        let case = Case::random(shape, seed);
        let half = runner.half_dtypes();
        for dtype in runner.exact_dtypes().into_iter().chain(half) {
            let case = case.rounded(dtype);
            for config in configs() {
                let case = case.suited_to(&config);
                let what = format!("{runner}, {dtype:?}, {shape:?}, seed {seed}, {config:?}");
                let actual = case.run(runner, &config, dtype);
                assert_answer(tolerance(dtype), &what, &actual, &case.answer(&config));
            }
        }
    }
}

/// Another kind of rewards beside the first.
pub fn several_rewards(runner: &Runner) {
    let weight = 0.5;
    for seed in seeds(runner) {
        let case = Case::random([9, 5], seed);
        // Of the same form: it follows the seed.
        let mut more = Case::random([9, 5], seed + 30);
        more.mask = case.mask.clone();
        more.group_ids = case.group_ids.clone();
        for dtype in runner.exact_dtypes() {
            for config in configs() {
                let [case, more] =
                    [&case, &more].map(|case| case.rounded(dtype).suited_to(&config));
                let what = format!("{runner}, {dtype:?}, seed {seed}, {config:?}");
                let batch = case.batch(runner, dtype);
                let batch = batch.with_more_rewards(weight, more.rewards(runner, dtype));
                let actual = case.run_batch(runner, &config, dtype, batch);
                let expected = case.answer_with_more(&config, weight, &more);
                assert_answer(tolerance(dtype), &what, &actual, &expected);
            }
        }
    }
    let dtype = runner.exact_dtypes()[0];
    let of_sequences: Tensor<1> = runner.tensor(&[1.0, 0.0, 0.5], [3], dtype);
    let of_tokens: Tensor<2> = runner.tensor(&[0.5, 0.25, 0.0, 1.0, 2.0, 0.0], [3, 2], dtype);
    let one = AdvantageBatch::new(of_sequences.clone()).with_more_rewards(1.0, of_tokens.clone());
    let other = AdvantageBatch::new(of_tokens).with_more_rewards(1.0, of_sequences);
    let of = |batch: AdvantageBatch| {
        let estimator = AdvantageEstimatorConfig::grpo().init().expect("sound");
        let output = estimator.forward(batch.with_group_ids(vec![0, 0, 0]));
        let output = output.unwrap_or_else(|error| panic!("{runner}: {error}"));
        values(output.advantages)
    };
    let (one, other) = (of(one), of(other));
    assert_all_near(tolerance(dtype), "in another order", &one, &other);

    let config = AdvantageEstimatorConfig::gdpo();
    let case = Case::random([9, 5], 0);
    let batch = || case.batch(runner, dtype);
    // The weight of the first.
    let heavier = batch().with_more_rewards(1.0, case.rewards(runner, dtype));
    let alone = batch().with_reward_weight(2.0);
    let run = |batch| case.run_batch(runner, &AdvantageEstimatorConfig::grpo(), dtype, batch);
    assert_answer(tolerance(dtype), "twice", &run(heavier), &run(alone));
    for weight in [f64::NAN, f64::INFINITY] {
        let refused = batch().with_reward_weight(weight);
        let error = config.init().expect("sound").forward(refused);
        let message = error.expect_err("no weight").to_string();
        assert!(message.contains(&weight.to_string()), "{message}");
    }
    let short: Tensor<1> = runner.tensor(&[1.0, 2.0], [2], dtype);
    let refused = batch().with_more_rewards(1.0, short);
    let error = config.init().expect("sound").forward(refused);
    let message = error.expect_err("too few").to_string();
    assert!(message.contains("rewards"), "{message}");
}

/// Whatever stands at masked positions, or belongs to a row without a valid token, changes no bit.
pub fn masked_content_changes_nothing(runner: &Runner) {
    let kinds = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e30, 7.0];
    let shape = [9, 5];
    let mut put = 0;
    for seed in seeds(runner) {
        let clean = Case::random(shape, seed);
        let mut case = clean.clone();
        let mut kind = kinds.iter().cycle();
        let mut garbage = || *kind.next().expect("endless");
        for i in (0..case.values.len()).filter(|i| !clean.is_valid(*i)) {
            case.values[i] = garbage();
            case.log_probs[i] = garbage();
            case.sums_of_squares[i] = garbage();
            if let Some(weights) = &mut case.importance_weights {
                weights[i] = garbage();
            }
            if let HostRewards::Token(rewards) = &mut case.rewards {
                rewards[i] = garbage();
            }
            put += 1;
        }
        for sequence in (0..shape[0]).filter(|s| !clean.is_present(*s)) {
            case.baselines[sequence] = garbage();
            if let HostRewards::Sequence(rewards) = &mut case.rewards {
                rewards[sequence] = garbage();
            }
            put += 1;
        }
        for config in runner.share(configs()) {
            for dtype in runner.exact_dtypes() {
                let (one, two) = (
                    clean.run(runner, &config, dtype),
                    case.run(runner, &config, dtype),
                );
                let what = format!("{runner}, {dtype:?}, seed {seed}, {config:?}");
                assert_eq!(bits(&one), bits(&two), "{what}");
            }
        }
    }
    assert!(put > 20);
}

/// A non-finite value at a valid position reaches its own advantage.
pub fn non_finite_values_are_seen(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    for config in configs() {
        let mut case = Case::random([7, 1], 3);
        case.mask = None;
        case.values[2] = f64::NAN;
        case.baselines[2] = f64::NAN;
        case.group_ids = vec![1, 1, 1, 1, 2, 2, 2];
        case.rewards = HostRewards::Sequence(vec![0.5, 1.0, f64::NAN, 0.0, 1.0, 0.0, 0.5]);
        let answer = case.run(runner, &config, dtype);
        let own = answer.advantages[2];
        assert!(own.is_nan(), "{runner}: {config:?}: {answer:?}");
        let over_batch = matches!(&config, AdvantageEstimatorConfig::GroupRelative(c)
            if c.deviation.is_some_and(|deviation| deviation.among == policy_loss::Among::Batch));
        if whitening(&config).is_none() && !over_batch {
            let others = &answer.advantages[4..];
            let finite = others.iter().all(|x| x.is_finite());
            assert!(finite, "{runner}: {config:?}: {answer:?}");
        }
    }
}

/// Results are outside autodiff, and nothing flows into what they were made of.
pub fn no_gradient_flows(runner: &Runner) {
    if runner.mode == Mode::Plain {
        return;
    }
    let dtype = DType::F32;
    let tracked = |values: &[f64]| -> Tensor<2> { runner.tracked(values, [2, 2], dtype) };
    for config in configs() {
        let rewards = tracked(&[1.0, 0.0, 0.5, 0.25]);
        let critic = tracked(&[0.1, 0.2, 0.3, 0.4]);
        let weights = tracked(&[1.0, 2.0, 3.0, 4.0]);
        let baselines: Tensor<1> = runner.tracked(&[0.5, 0.1], [2], dtype);
        let policy = tracked(&[-0.5, -1.0, -0.7, -2.0]);
        let batch = AdvantageBatch::new(rewards.clone())
            .with_values(critic.clone())
            .with_log_probs(policy.clone())
            .with_sums_of_squares(tracked(&[0.5; 4]))
            .with_importance_weights(tracked(&[1.5; 4]))
            .with_group_ids([0, 0])
            .with_baselines(baselines.clone());
        let output = config
            .init()
            .expect("sound")
            .forward(batch)
            .expect("accepted");
        let mut sum = output.advantages.clone() * weights.clone();
        if let Some(returns) = output.returns {
            sum = sum + returns * weights.clone();
        }
        let gradients = sum.sum().backward();
        assert!(weights.grad(&gradients).is_some(), "{runner}: {config:?}");
        assert!(rewards.grad(&gradients).is_none(), "{runner}: {config:?}");
        assert!(critic.grad(&gradients).is_none(), "{runner}: {config:?}");
        assert!(policy.grad(&gradients).is_none(), "{runner}: {config:?}");
        assert!(baselines.grad(&gradients).is_none(), "{runner}: {config:?}");
    }
}

/// A large batch keeps the digits of f32: a return of many tokens, and a score far from 0.
pub fn accuracy(runner: &Runner) {
    let tokens = match runner.is_slow() {
        true => 64,
        false => 1000,
    };
    let mut case = Case::random([4, tokens], 3);
    for i in 0..case.values.len() {
        case.values[i] = round(DType::F32, case.values[i]);
    }
    case.group_ids = vec![0; 4];
    case.rewards = HostRewards::Sequence(vec![1000.0, 1000.5, 1001.0, 1000.25]);
    for config in [
        AdvantageEstimatorConfig::grpo(),
        AdvantageEstimatorConfig::rloo(),
        AdvantageEstimatorConfig::gae(),
        AdvantageEstimatorConfig::reinforce_plus_plus(),
        AdvantageEstimatorConfig::optimal_token_baseline(),
    ] {
        let what = format!("{runner}, {config:?}");
        let actual = case.run(runner, &config, DType::F32);
        assert_answer(Tolerance::of(2e-5), &what, &actual, &case.answer(&config));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that the suite is about happens in its batches.
    #[test]
    fn random_batches_are_rich() {
        let mut seen = [0; 7];
        for seed in 0..10 {
            let case = Case::random([9, 5], seed);
            let size = |s: usize| {
                let same = |o: &usize| case.group_ids[*o] == case.group_ids[s];
                (0..9).filter(same).count()
            };
            let gap = |s: usize| {
                let row: Vec<usize> = (s * 5..s * 5 + 5).filter(|i| case.is_valid(*i)).collect();
                row.windows(2).any(|w| w[1] > w[0] + 1)
            };
            seen[0] += usize::from((0..9).any(|s| !case.is_present(s)));
            seen[1] += usize::from((0..9).any(|s| size(s) == 1));
            seen[2] += usize::from((0..9).any(|s| size(s) > 2));
            seen[3] += usize::from((0..9).any(gap));
            seen[4] += usize::from(case.mask.is_none());
            seen[5] += usize::from(matches!(case.rewards, HostRewards::Token(_)));
            seen[6] += usize::from(
                case.group_ids
                    .windows(3)
                    .any(|w| w[0] == w[2] && w[0] != w[1]),
            );
        }
        assert!(seen.iter().all(|count| *count >= 2), "{seen:?}");
    }
}

//! What holds for every estimator.

use burn::tensor::{DType, Tensor};
use policy_loss::{AdvantageBatch, AdvantageEstimatorConfig, Whitening};

use super::case::{Case, HostRewards, configs};
use super::golden::{self, Golden};
use super::oracle::Answer;
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
                let what = format!("{runner}, {dtype:?}, {shape:?}, seed {seed}, {config:?}");
                let actual = case.run(runner, &config, dtype);
                assert_answer(tolerance(dtype), &what, &actual, &case.answer(&config));
            }
        }
    }
}

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

fn has_whitening(config: &AdvantageEstimatorConfig) -> bool {
    match config {
        AdvantageEstimatorConfig::Generalized(c) => c.whitening.is_some(),
        AdvantageEstimatorConfig::ReturnToGo(c) => c.whitening.is_some(),
        AdvantageEstimatorConfig::GroupRelative(c) => c.whitening.is_some(),
        other => panic!("unknown: {other:?}"),
    }
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
        let best_other = matches!(&config, AdvantageEstimatorConfig::GroupRelative(c)
            if c.baseline == policy_loss::GroupBaseline::BestOther && c.deviation.is_none());
        // The best of a group is found by comparisons, which a NaN never wins.
        assert!(
            answer.advantages[2].is_nan() || best_other,
            "{runner}: {config:?}: {answer:?}"
        );
        if !has_whitening(&config) {
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
    let tracked = |values: &[f64]| {
        let tensor: Tensor<2> = runner.tensor(values, [2, 2], dtype);
        tensor.require_grad()
    };
    for config in configs() {
        let rewards = tracked(&[1.0, 0.0, 0.5, 0.25]);
        let critic = tracked(&[0.1, 0.2, 0.3, 0.4]);
        let weights = tracked(&[1.0, 2.0, 3.0, 4.0]);
        let baselines: Tensor<1> = runner.tensor(&[0.5, 0.1], [2], dtype);
        let baselines = baselines.require_grad();
        let batch = AdvantageBatch::new(rewards.clone())
            .with_values(critic.clone())
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
        assert!(baselines.grad(&gradients).is_none(), "{runner}: {config:?}");
    }
}

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
    ] {
        let what = format!("{runner}, {config:?}");
        let actual = case.run(runner, &config, DType::F32);
        assert_answer(Tolerance::of(2e-5), &what, &actual, &case.answer(&config));
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

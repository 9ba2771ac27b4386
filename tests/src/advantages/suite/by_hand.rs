//! Groups, gaps, placement and whitening, by hand.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    AdvantageBatch, AdvantageEstimatorConfig as Config, AdvantagePreset, GeneralizedAdvantage,
    MeanScale, ReturnToGo, SingleScore, TokenBaseline, Whitening,
};

use super::laws::{assert_answer, bits, tolerance};
use crate::advantages::case::{Case, HostRewards, configs};
use crate::advantages::oracle::Answer;
use crate::compare::{Tolerance, assert_all_near};
use crate::runner::{Runner, values};

/// One reward a sequence, one token each.
fn scores(runner: &Runner, config: Config, scores: &[f64], ids: &[i64]) -> Vec<f64> {
    let rewards: Tensor<1> = runner.tensor(scores, [scores.len()], DType::F32);
    let batch = AdvantageBatch::new(rewards).with_group_ids(ids);
    let output = config
        .init()
        .expect("sound")
        .forward(batch)
        .expect("accepted");
    assert_eq!(output.advantages.dims(), [scores.len(), 1]);
    assert!(output.returns.is_none());
    values(output.advantages)
}

fn near(what: &str, actual: &[f64], expected: &[f64]) {
    assert_all_near(Tolerance::of(1e-5), what, actual, expected);
}

/// A group of four among others, in any order: the numbers of the formulas.
pub fn groups(runner: &Runner) {
    let (s, ids) = ([1.0, 9.0, 0.0, 3.0, 0.0], [5, 8, 5, 5, 5]);
    let run = |config: Config| scores(runner, config, &s, &ids);
    // The group's mean is 1, its squared distances 0 + 1 + 4 + 1 = 6, its deviation sqrt(2).
    let d = 2f64.sqrt();
    let alone = 9.0;
    let dr_grpo = [0.0, alone, -1.0, 2.0, -1.0];
    near("dr_grpo", &run(Config::dr_grpo()), &dr_grpo);
    let grpo = [0.0, alone, -1.0 / d, 2.0 / d, -1.0 / d];
    near("grpo", &run(Config::grpo()), &grpo);
    let third = 4.0 / 3.0;
    let rloo = [0.0, alone, -third, 2.0 * third, -third];
    near("rloo", &run(Config::rloo()), &rloo);
    // 3 of 5 scores are not 0.
    let share = 5.0 / 3.0;
    let gpg = [0.0, alone * share, -share, 2.0 * share, -share];
    near("gpg", &run(Config::gpg()), &gpg);
    let pass_at_k = [0.0, alone, 0.0, 2.0 / d, 0.0];
    near("pass_at_k", &run(Config::pass_at_k()), &pass_at_k);
}

/// Other divisors than the deviation of the group: the numbers of the formulas.
pub fn divisors(runner: &Runner) {
    let mean = policy_loss::GroupRelative::new(policy_loss::GroupBaseline::Mean);
    let ids = [0, 0, 0, 1, 1, 2];
    // Means 2, 0 and 9: the second group has nothing that could be shared out.
    let s = [6.0, 0.0, 0.0, 1.0, -1.0, 9.0];
    let exact = MeanScale { epsilon: 0.0 };
    near(
        "the mean",
        &scores(runner, mean.with_mean_scale(exact).into(), &s, &ids),
        &[2.0, -1.0, -1.0, 0.0, 0.0, 9.0],
    );
    let half = MeanScale { epsilon: 0.5 };
    near(
        "the mean, with an epsilon",
        &scores(runner, mean.with_mean_scale(half).into(), &s, &ids),
        &[1.6, -0.8, -0.8, 0.0, 0.0, 9.0],
    );
    near(
        "prime_rl_maxrl",
        &scores(runner, Config::prime_rl_maxrl(), &s, &ids),
        &[2.0, -1.0, -1.0, 0.0, 0.0, 0.0],
    );
    // The others of the first have no deviation, those of the two behind it sqrt(18); a single
    // other one has none at all. Far from 0 it is the same.
    let d = 18f64.sqrt() + 1e-6;
    for shift in [0.0, 1000.0] {
        let s = s.map(|x| x + shift);
        near(
            "nemo_rl_grpo",
            &scores(runner, Config::nemo_rl_grpo(), &s, &ids),
            &[6.0, -3.0 / d, -3.0 / d, 2.0, -2.0, 0.0],
        );
    }
    // Of all six the mean is 2.5, the sum of squares 81.5.
    let d = (81.5f64 / 5.0).sqrt() + 1e-4;
    near(
        "trl_grpo_batch",
        &scores(runner, Config::trl_grpo_batch(), &s, &ids),
        &[4.0 / d, -2.0 / d, -2.0 / d, 1.0 / d, -1.0 / d, 0.0],
    );
}

/// Lengths weigh the mean of OPO: they come from the mask.
pub fn lengths(runner: &Runner) {
    let rewards: Tensor<1> = runner.tensor(&[1.0, 4.0], [2], DType::F32);
    let mask = [true, true, false, true, false, false];
    let batch = AdvantageBatch::new(rewards)
        .with_action_mask(runner.mask(&mask, [2, 3]))
        .with_group_ids([0, 0]);
    let output = Config::opo().init().expect("sound").forward(batch);
    let advantages = values(output.expect("accepted").advantages);
    // (2 * 1 + 1 * 4) / 3 = 2
    near("opo", &advantages, &[-1.0, -1.0, 0.0, 2.0, 0.0, 0.0]);
}

/// A group of one: its advantage is its score, for every estimator that compares sequences. So it
/// is where the other sequences of the group hold no valid token.
pub fn groups_of_one(runner: &Runner) {
    let one_group = |config: Config, scale: f64| {
        let alone = scores(runner, config, &[0.75, -2.0], &[3, 4]);
        near("alone", &alone, &[0.75 * scale, -2.0 * scale]);
        let rewards: Tensor<1> = runner.tensor(&[0.75, f64::NAN], [2], DType::F32);
        let batch = AdvantageBatch::new(rewards)
            .with_action_mask(runner.mask(&[true, false], [2, 1]))
            .with_group_ids([1, 1]);
        let output = config.init().expect("sound").forward(batch);
        let advantages = values(output.expect("accepted").advantages);
        near("left alone", &advantages, &[0.75 * scale, 0.0]);
    };
    one_group(Config::dr_grpo(), 1.0);
    one_group(Config::rloo(), 1.0);
    one_group(Config::gpg(), 1.0);
    one_group(Config::grpo(), 1.0 / (1.0 + 1e-6));
    one_group(Config::pass_at_k(), 1.0 / (1.0 + 1e-6));
}

/// Equal scores are worth exactly nothing, even where their mean is rounded.
pub fn equal_scores(runner: &Runner) {
    for score in [0.1, -1e6, 3e-7] {
        for preset in AdvantagePreset::ALL {
            let config = preset.config();
            if !matches!(config, Config::GroupRelative(_)) || preset == AdvantagePreset::Opo {
                continue;
            }
            let actual = scores(runner, config, &[score; 7], &[0; 7]);
            assert_eq!(actual, [0.0; 7], "{runner}, {preset}, {score}");
        }
    }
}

/// A tie for the best rewards nobody; a single best is rewarded by its lead.
pub fn ties(runner: &Runner) {
    let config = Config::from(policy_loss::GroupRelative::new(
        policy_loss::GroupBaseline::BestOther,
    ));
    let run = |s: &[f64]| scores(runner, config, s, &vec![0; s.len()]);
    assert_eq!(run(&[1.0, 1.0, 0.0]), [0.0; 3]);
    assert_eq!(run(&[-1.0, -3.0, -3.0]), [2.0, 0.0, 0.0]);
}

/// Permuting the sequences permutes the results, and what the groups are called does not matter.
pub fn sequences_have_no_order(runner: &Runner) {
    let shape = [9, 5];
    let seeds = match runner.is_slow() {
        true => 0..1,
        false => 0..6,
    };
    for seed in seeds {
        let case = Case::random(shape, seed);
        let order = [4, 0, 8, 2, 6, 1, 7, 3, 5];
        let rows = |values: &[f64]| -> Vec<f64> {
            let width = values.len() / shape[0];
            let row = |b: &usize| &values[b * width..(b + 1) * width];
            order.iter().flat_map(row).copied().collect()
        };
        let mut permuted = case.clone();
        permuted.rewards = match &case.rewards {
            HostRewards::Token(rewards) => HostRewards::Token(rows(rewards)),
            HostRewards::Sequence(rewards) => HostRewards::Sequence(rows(rewards)),
        };
        permuted.values = rows(&case.values);
        permuted.baselines = rows(&case.baselines);
        permuted.log_probs = rows(&case.log_probs);
        permuted.sums_of_squares = rows(&case.sums_of_squares);
        permuted.importance_weights = case.importance_weights.as_deref().map(rows);
        permuted.group_ids = order.map(|b| case.group_ids[b]).to_vec();
        permuted.mask = case.mask.as_ref().map(|mask| {
            let row = |b: &usize| &mask[b * shape[1]..(b + 1) * shape[1]];
            order.iter().flat_map(row).copied().collect()
        });
        let mut renamed = case.clone();
        for id in &mut renamed.group_ids {
            *id = id.wrapping_mul(3).wrapping_add(11);
        }
        for config in runner.share(configs()) {
            for dtype in runner.exact_dtypes() {
                let what = format!("{runner}, {dtype:?}, seed {seed}, {config:?}");
                let answer = case.run(runner, &config, dtype);
                let expected = Answer {
                    advantages: rows(&answer.advantages),
                    returns: answer.returns.as_deref().map(rows),
                };
                let actual = permuted.run(runner, &config, dtype);
                assert_answer(tolerance(dtype), &what, &actual, &expected);
                let actual = renamed.run(runner, &config, dtype);
                assert_eq!(bits(&actual), bits(&answer), "{what}");
            }
        }
    }
}

/// A gap is carried over: the valid tokens get what they would get without it.
pub fn gaps(runner: &Runner) {
    let mask = [false, true, false, false, true, true, false];
    let without_gap = Case {
        rewards: HostRewards::Token(vec![0.5, -0.25, 1.0]),
        values: vec![0.3, -0.7, 0.9],
        baselines: vec![0.25],
        ..Case::new([1, 3])
    };
    let spread = |values: &[f64]| -> Vec<f64> {
        let mut values = values.iter();
        let pick = |valid: &bool| match valid {
            true => *values.next().expect("as many as valid tokens"),
            false => f64::NAN,
        };
        mask.iter().map(pick).collect()
    };
    let with_gap = Case {
        tokens: mask.len(),
        rewards: HostRewards::Token(spread(&[0.5, -0.25, 1.0])),
        mask: Some(mask.to_vec()),
        values: spread(&without_gap.values),
        log_probs: spread(&without_gap.log_probs),
        sums_of_squares: spread(&without_gap.sums_of_squares),
        ..without_gap.clone()
    };
    for config in [
        GeneralizedAdvantage::new(0.9, 0.8).into(),
        ReturnToGo::new(0.9).into(),
        Config::remax(),
    ] {
        let valid = |values: Vec<f64>| -> Vec<f64> {
            let pairs = mask.iter().zip(values);
            pairs.filter(|(valid, _)| **valid).map(|(_, x)| x).collect()
        };
        let expected = without_gap.run(runner, &config, DType::F32);
        let actual = with_gap.run(runner, &config, DType::F32);
        let what = format!("{runner}, {config:?}");
        near(&what, &valid(actual.advantages), &expected.advantages);
        let returns = |answer: Option<Vec<f64>>| answer.expect("there are returns");
        let expected = returns(expected.returns);
        near(&what, &valid(returns(actual.returns)), &expected);
    }
}

/// The baseline of a token, by the numbers of its formula: tokens are counted and not positions, and
/// beyond the others' ends there is none.
pub fn token_baselines(runner: &Runner) {
    let (yes, no) = (true, false);
    // Sizes of tokens are 1 - 2 / 2 + S = S.
    let case = Case {
        rewards: HostRewards::Sequence(vec![1.0, 0.0, 5.0, f64::NAN]),
        mask: Some(vec![
            yes, no, yes, yes, //
            no, yes, yes, no, //
            yes, no, no, no, //
            no, no, no, no,
        ]),
        group_ids: vec![7, 7, 3, 7],
        sums_of_squares: [
            [0.25, f64::NAN, 0.5, 0.25],
            [f64::INFINITY, 0.75, 0.25, 9.0],
            [0.5, 0.0, 0.0, 0.0],
            [0.0; 4],
        ]
        .concat(),
        ..Case::new([4, 4])
    };
    let baseline = TokenBaseline::new();
    let run = |case: &Case, baseline: TokenBaseline| {
        let config = ReturnToGo::new(1.0).with_token_baseline(baseline);
        case.run(runner, &config.into(), DType::F32).advantages
    };
    // The first tokens weigh 1 to 3, the second ones 3 to 4; the third has no other one.
    let (first, second) = (0.25, 3.0 / 7.0);
    let with_tail = |tail: f64| {
        let one = [1.0 - first, 0.0, 1.0 - second, tail];
        let other = [0.0, -first, -second, 0.0];
        [&one[..], &other, &[5.0, 0.0, 0.0, 0.0], &[0.0; 4]].concat()
    };
    near("kept", &run(&case, baseline), &with_tail(1.0));
    let zero = baseline.with_tail(SingleScore::Zero);
    near("zero", &run(&case, zero), &with_tail(0.0));
    // An importance weight counts by its square.
    let mut weighted = case.clone();
    weighted.sums_of_squares = vec![0.5; 16];
    let mut weights = vec![1.0; 16];
    weights[5] = 3.0;
    weighted.importance_weights = Some(weights);
    let advantages = run(&weighted, baseline);
    near("weighted", &advantages[..1], &[1.0 - 0.1]);
    // A token that is certain has no size: nothing is known of the baseline, and it is 0.
    let mut certain = case.clone();
    certain.log_probs = vec![0.0; 16];
    certain.sums_of_squares = vec![1.0 - 1e-7; 16];
    near("certain", &run(&certain, baseline)[..1], &[1.0]);
}

/// The reward of a sequence stands at its last valid token, wherever that is.
pub fn sequence_rewards(runner: &Runner) {
    let rewards: Tensor<1> = runner.tensor(&[2.0, 3.0, f64::NAN], [3], DType::F32);
    let mask: Vec<bool> = (0..12).map(|i| [1, 2, 4].contains(&i)).collect();
    let batch = AdvantageBatch::new(rewards).with_action_mask(runner.mask(&mask, [3, 4]));
    let estimator = Config::from(ReturnToGo::new(0.5)).init().expect("sound");
    let output = estimator.forward(batch).expect("accepted");
    let expected = [0.0, 1.0, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    near("returns", &values(output.advantages), &expected);
}

/// Mean 0 and deviation 1 over the valid tokens, or the mean as it was.
pub fn whitening(runner: &Runner) {
    let x = [1.0, 2.0, f64::NAN, 4.0, 7.0, f64::INFINITY];
    let mask = [true, true, false, true, true, false];
    for dtype in runner.exact_dtypes() {
        let run = |mask: Option<&[bool]>, shift_mean: bool, x: &[f64]| {
            let shape = [2, x.len() / 2];
            let mask = mask.map(|mask| runner.mask(mask, shape));
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

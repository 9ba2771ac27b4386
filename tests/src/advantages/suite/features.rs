//! What trainers compute for features around advantages.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    AdvantageBatch, AdvantageEstimatorConfig as Config, Among, Deviation, EntropyBonus,
    EntropyControllerConfig, GeneralizedAdvantage, GroupBaseline, GroupRelative, KlEstimator,
    KlReward, KlRewardBatch, ReturnToGo, ReverseKlAdvantage, SingleScore, TeacherFactor,
    TeacherSignalConfig, TokenBaseline, Whitening, WhiteningOver,
};

use super::teacher;
use crate::advantages::case::{Case, HostRewards};
use crate::case::HostAdvantages;
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::golden::Directory;
use crate::golden::features::{FILE, Feature, cases};
use crate::log_probs::oracle;
use crate::runner::{Runner, values};

/// Features around advantages that the library does not have, with the reason.
const ABSENT: [(&str, &str); 3] = [
    (
        "opd top-k reverse kl (miles)",
        "over the vocabulary: no advantage of the sampled token",
    ),
    ("raw reward (NeMo-RL)", "no estimator: the score, whitened"),
    (
        "reinforce++ (NeMo-RL)",
        "takes a KL from advantages, not from rewards",
    ),
];

/// Every case of these kinds is computed here, or stands in the list above; another name fails.
/// Kinds of the loss itself, and distillation over the vocabulary, belong to other suites.
pub fn golden_cases_of_trainers(runner: &Runner) {
    let directory = Directory::of_environment();
    let mut matched = 0;
    for case in cases(&directory) {
        let here = matches!(case.kind.as_str(), "advantages" | "controller")
            || case.feature == "iw-opd (TRL)";
        if !here || ABSENT.iter().any(|(name, _)| *name == case.feature) {
            continue;
        }
        for dtype in runner.exact_dtypes() {
            compare(runner, &case, dtype);
        }
        matched += 1;
    }
    directory.assert_count(FILE, matched, 48);
}

fn compare(runner: &Runner, case: &Feature, dtype: DType) {
    match case.feature.as_str() {
        "maxrl" => estimator(runner, case, max_rl(case), dtype),
        "gdpo" => gdpo(runner, case, dtype),
        "grpo advantages (NeMo-RL)" => estimator(runner, case, nemo_grpo(case), dtype),
        "dcpo smooth advantage" => smooth(runner, case, dtype),
        "optimal token baseline (verl)" => token_baseline(runner, case, dtype),
        "length-adaptive GAE (NeMo-RL)" => two_lambdas(runner, case, dtype),
        "opd advantages" => {
            let discount = case.param("discount").as_f64().unwrap_or(0.0);
            let config = ReverseKlAdvantage::new(case.number("coefficient"));
            taught(runner, case, config.with_discount(discount), dtype);
        }
        "rlsd" => {
            let config = TeacherFactor {
                mix: case.number("mix"),
                clip: case.number("clip_range"),
                negative_only: case.flag("negative_only"),
            };
            taught(runner, case, config, dtype);
        }
        "iw-opd (TRL)" => early_tokens(runner, case, dtype),
        "adaptive entropy (TRL)" => adaptive_entropy(runner, case, dtype),
        other => panic!("the file holds an unknown feature: {other}"),
    }
}

/// Steps of one prompt: what an answer is worth among those of its step and among all so far, each
/// weighed by the number of steps, and the one of the two mixtures that is nearer to 0.
fn smooth(runner: &Runner, case: &Feature, dtype: DType) {
    let [steps, answers] = case.shape("step_rewards");
    let rewards = case.input("step_rewards");
    let standardized = GroupRelative::new(GroupBaseline::Mean).with_deviation(Deviation {
        among: Among::Group,
        epsilon: 1e-12,
    });
    let estimator = Config::from(standardized).init().expect("sound");
    // Of the last answers among so many.
    let among = |scores: &[f64]| -> Tensor<2> {
        let all: Tensor<1> = runner.tensor(scores, [scores.len()], dtype);
        let batch = AdvantageBatch::new(all).with_group_ids(vec![0; scores.len()]);
        let advantages = estimator.forward(batch).expect("accepted").advantages;
        advantages.narrow(0, scores.len() - answers, answers)
    };
    let mut smooth = Vec::new();
    for step in 0..steps {
        let earlier = step as f64;
        let so_far = &rewards[..(step + 1) * answers];
        let (now, ever) = (among(&so_far[step * answers..]), among(so_far));
        let one = (now.clone() * earlier + ever.clone()) / (earlier + 1.0);
        let other = (now + ever * earlier) / (earlier + 1.0);
        let nearer = one.clone().abs().lower(other.clone().abs());
        smooth.extend(values(other.mask_where(nearer, one)));
    }
    near(runner, case, dtype, "advantages", &smooth);
}

fn max_rl(case: &Feature) -> Config {
    match case.param("framework").as_str() {
        Some("SkyRL") => Config::skyrl_maxrl(),
        Some("prime-rl") => Config::prime_rl_maxrl(),
        other => panic!("{}: {other:?}", case.name),
    }
}

fn nemo_grpo(case: &Feature) -> Config {
    let (baseline, among) = match case.flag("leave_one_out") {
        true => (GroupBaseline::LeaveOneOut, Among::Others),
        false => (GroupBaseline::Mean, Among::Group),
    };
    let epsilon = case.number("epsilon");
    let deviation = case
        .flag("normalize")
        .then_some(Deviation { among, epsilon });
    GroupRelative::new(baseline)
        .with_deviation(deviation)
        .with_single(SingleScore::Zero)
        .into()
}

/// Several rewards, each compared by itself.
fn gdpo(runner: &Runner, case: &Feature, dtype: DType) {
    let (config, over, mask) = match case.param("framework").as_str() {
        Some("verl") => {
            let deviation = case.flag("normalize").then(Deviation::default);
            let config = GroupRelative::new(GroupBaseline::Mean).with_deviation(deviation);
            (config, WhiteningOver::Tokens, case.mask())
        }
        Some("NeMo-RL") => match nemo_grpo(case) {
            // There a sequence without a valid token is a member of its group.
            Config::GroupRelative(config) => (config, WhiteningOver::Sequences, None),
            other => panic!("{}: {other:?}", case.name),
        },
        other => panic!("{}: {other:?}", case.name),
    };
    let config = config.with_whitening(Whitening::new().with_over(over));
    let weights = match case.param("weights").as_array() {
        Some(weights) => weights
            .iter()
            .map(|x| x.as_f64().expect("a number"))
            .collect(),
        None => vec![1.0; 3],
    };
    let rewards = ["reward_a", "reward_b", "reward_c"].map(|name| case.input(name));
    let [sequences, tokens] = case.shape("action_mask");
    let batch = of_sequences(case, [sequences, tokens], rewards[0].clone(), mask);
    let mut several = batch.batch(runner, dtype).with_reward_weight(weights[0]);
    for (weight, rewards) in weights.iter().zip(&rewards).skip(1) {
        let rewards: Tensor<1> = runner.tensor(rewards, [sequences], dtype);
        several = several.with_more_rewards(*weight, rewards);
    }
    let mut actual = batch.run_batch(runner, &config.into(), dtype, several);
    let valid = case.mask().expect("every case has one");
    for (x, valid) in actual.advantages.iter_mut().zip(valid) {
        if !valid {
            *x = 0.0;
        }
    }
    let tolerance = match dtype {
        // verl adds the epsilon of a group of one in f32.
        DType::F64 => Tolerance::of(1e-7),
        _ => tolerance(dtype),
    };
    let actual = actual.advantages;
    near_within(tolerance, runner, case, dtype, "advantages", &actual);
}

fn of_sequences(
    case: &Feature,
    [sequences, tokens]: [usize; 2],
    rewards: Vec<f64>,
    mask: Option<Vec<bool>>,
) -> Case {
    Case {
        rewards: HostRewards::Sequence(rewards),
        group_ids: group_ids(case),
        mask,
        ..Case::new([sequences, tokens])
    }
}

fn group_ids(case: &Feature) -> Vec<i64> {
    case.input("group_id").iter().map(|id| *id as i64).collect()
}

/// Returns less the baseline of each token. Without gaps in the mask, the positions that verl counts in
/// a single turn are the tokens that are counted here.
fn token_baseline(runner: &Runner, case: &Feature, dtype: DType) {
    let tail = match case.flag("handle_zero_tail") {
        true => SingleScore::Score,
        false => SingleScore::Zero,
    };
    let baseline = TokenBaseline::new()
        .with_tail(tail)
        .with_epsilon(case.number("epsilon"));
    let config = ReturnToGo::new(1.0).with_token_baseline(baseline);
    let batch = Case {
        rewards: HostRewards::Token(case.input("token_rewards")),
        group_ids: group_ids(case),
        mask: case.mask(),
        log_probs: case.input("old_log_probs"),
        sums_of_squares: case.input("sum_pi_squared"),
        importance_weights: case
            .flag("importance_weights")
            .then(|| case.input("rollout_is_weights")),
        ..Case::new(case.shape("token_rewards"))
    };
    let actual = batch.run(runner, &config.into(), dtype);
    near(runner, case, dtype, "advantages", &actual.advantages);
    let returns = actual.returns.expect("there are returns");
    near(runner, case, dtype, "returns", &returns);
}

/// An estimator on the rewards of sequences.
fn estimator(runner: &Runner, case: &Feature, config: Config, dtype: DType) {
    let mask = case.mask();
    let [sequences, tokens] = match mask {
        Some(_) => case.shape("action_mask"),
        None => case.shape("rewards"),
    };
    let batch = of_sequences(case, [sequences, tokens], case.input("rewards"), mask);
    let actual = batch.run(runner, &config, dtype);
    near(runner, case, dtype, "advantages", &actual.advantages);
}

/// Compares what stands at valid tokens: at the others it is 0 here, and anything there.
fn near(runner: &Runner, case: &Feature, dtype: DType, name: &str, actual: &[f64]) {
    near_within(tolerance(dtype), runner, case, dtype, name, actual);
}

fn near_within(
    tolerance: Tolerance,
    runner: &Runner,
    case: &Feature,
    dtype: DType,
    name: &str,
    actual: &[f64],
) {
    let expected = case.expected(name);
    let valid = case.mask().unwrap_or_else(|| vec![true; expected.len()]);
    let at_valid = |values: &[f64]| -> Vec<f64> {
        let pairs = values.iter().zip(&valid);
        pairs
            .map(|(x, valid)| if *valid { *x } else { 0.0 })
            .collect()
    };
    let what = format!("{runner}, {dtype:?}, {}: {name}", case.name);
    assert_all_near(tolerance, &what, actual, &at_valid(&expected));
}

/// Generalised advantage estimation on rewards that a KL may have been taken from.
fn two_lambdas(runner: &Runner, case: &Feature, dtype: DType) {
    let shape = case.shape("values");
    let tensor = |name: &str| -> Tensor<2> { runner.tensor(&case.input(name), shape, dtype) };
    let mask = runner.mask(&case.mask().expect("every case has one"), shape);
    let rewards: Tensor<1> = runner.tensor(&case.input("rewards"), [shape[0]], dtype);
    let batch = KlRewardBatch::new(rewards, tensor("old_log_probs"), tensor("ref_log_probs"))
        .with_action_mask(mask.clone());
    let shaped = KlReward::new(KlEstimator::K3).forward(batch, case.number("kl_in_reward"));
    let batch = AdvantageBatch::new(shaped.expect("accepted").rewards)
        .with_values(tensor("values"))
        .with_action_mask(mask);
    let lambda = case.number("gae_lambda");
    let policy = case.param("gae_lambda_policy").as_f64();
    let value = case.param("gae_lambda_value").as_f64();
    let share = case.number("length_adaptive_alpha");
    let config = GeneralizedAdvantage::new(case.number("gae_gamma"), policy.unwrap_or(lambda))
        .with_length_adaptive((share > 0.0).then_some(share))
        .with_return_lambda(value.unwrap_or(lambda))
        .with_whitening(case.flag("normalize_advantages").then(Whitening::new));
    let estimator = Config::from(config).init().expect("sound");
    let output = estimator.forward(batch).expect("accepted");
    let advantages = values(output.advantages);
    near(runner, case, dtype, "advantages", &advantages);
    let returns = output.returns.expect("there is a critic");
    near(runner, case, dtype, "returns", &values(returns));
}

/// Advantages with a teacher in them.
fn taught(runner: &Runner, case: &Feature, config: impl Into<TeacherSignalConfig>, dtype: DType) {
    let batch = teacher::Case {
        shape: case.shape("old_log_probs"),
        teacher: case.input("teacher_log_probs"),
        log_probs: case.input("old_log_probs"),
        advantages: case.has("advantages").then(|| case.input("advantages")),
        mask: case.mask().expect("every case has one"),
    };
    let advantages = values(batch.run(runner, config.into(), dtype).advantages);
    near(runner, case, dtype, "advantages_out", &advantages);
}

/// Distances to the teacher, early tokens first; the loss is that of REINFORCE.
fn early_tokens(runner: &Runner, case: &Feature, dtype: DType) {
    let [sequences, tokens] = case.shape("tokens");
    let student = sampled(case, "student_logits");
    let mask = case.mask().expect("every case has one");
    let gamma = case.number("gamma");
    let batch = teacher::Case {
        shape: [sequences, tokens],
        teacher: sampled(case, "teacher_logits"),
        log_probs: match case.param("advantage").as_str() {
            Some("teacher - rollout") => case.input("rollout_log_probs"),
            Some("teacher - current") => student.clone(),
            other => panic!("{}: {other:?}", case.name),
        },
        advantages: None,
        mask: mask.clone(),
    };
    let config = ReverseKlAdvantage::new(1.0).with_early_weight(gamma);
    let output = batch.run(runner, config.into(), dtype);
    let count = mask.iter().filter(|valid| **valid).count() as f64;
    let advantages = values(output.advantages);
    let tokens = advantages.iter().zip(&student).zip(&mask);
    let valid = tokens.filter_map(|(token, valid)| valid.then_some(token));
    let (sum, loss) = valid.fold((0.0, 0.0), |(sum, loss), (a, log_prob)| {
        (sum + a, loss - a * log_prob)
    });
    for (name, total) in [("mean_advantage", sum), ("loss", loss)] {
        let what = format!("{runner}, {dtype:?}, {}: {name}", case.name);
        let expected = case.expected(name)[0];
        assert_near(tolerance(dtype), &what, total / count, expected);
    }
}

/// Log-probs of the tokens, in f64.
fn sampled(case: &Feature, logits: &str) -> Vec<f64> {
    let tokens = case.input("tokens");
    let logits = case.input(logits);
    let vocabulary = logits.len() / tokens.len();
    let temperature = case.number("temperature");
    let of =
        |(token, logits): (&f64, &[f64])| oracle::log_softmax(logits, temperature)[*token as usize];
    let rows = tokens.iter().zip(logits.chunks(vocabulary));
    rows.map(of).collect()
}

/// Six steps of one batch, whose entropies change: the loss of each step, and the coefficient.
fn adaptive_entropy(runner: &Runner, case: &Feature, dtype: DType) {
    let [sequences, tokens] = case.shape("log_probs");
    let config = EntropyControllerConfig::new(case.number("target"))
        .with_delta(case.number("delta"))
        .with_initial(case.number("initial"))
        .with_limits(case.number("min"), case.number("max"));
    let mut controller = config.init().expect("sound");
    let mask = case.mask().expect("every case has one");
    let mut batch = crate::case::Case::new(case.name.clone(), [sequences, tokens]);
    batch.log_probs = case.input("log_probs");
    batch.old_log_probs = case.input("old_log_probs");
    batch.advantages = HostAdvantages::Token(case.input("advantages"));
    batch.action_mask = Some(mask.clone());
    let clip = policy_loss::Preset::Dapo.config();
    let steps = case.input("steps");
    let [losses, applied, after] =
        ["step_loss", "coefficient_applied", "coefficient_after"].map(|name| case.expected(name));
    for (step, entropies) in steps.chunks(sequences * tokens).enumerate() {
        let what = format!("{runner}, {dtype:?}, {}, step {step}", case.name);
        let exact = Tolerance::of(1e-12);
        assert_near(exact, &what, controller.coefficient(), applied[step]);
        batch.entropies = Some(entropies.to_vec());
        let bonus = EntropyBonus::new(controller.coefficient());
        batch.config = clip.with_entropy_bonus(bonus);
        let loss = runner.outcome(&batch, dtype).loss;
        assert_near(tolerance(dtype), &what, loss, losses[step]);
        let valid = entropies.iter().zip(&mask).filter(|(_, valid)| **valid);
        let count = valid.clone().count() as f64;
        let mean = valid.map(|(x, _)| x).sum::<f64>() / count;
        controller.update(mean).expect("finite");
        assert_near(exact, &what, controller.config().initial, after[step]);
    }
}

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F64 => Tolerance::of(1e-8),
        _ => Tolerance::of(2e-5),
    }
}

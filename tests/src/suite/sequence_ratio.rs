//! The ratio of a sequence, by hand.

use policy_loss::{Clip, OpenRlhfPolicyLoss, PolicyLossConfig, Ratio, Reduction};

use policy_loss_oracle::Random;

use crate::case::HostAdvantages;
use crate::compare::bits;
use crate::row::Row;
use crate::runner::Runner;

const THIRD: f64 = 1.0 / 3.0;

/// The surrogate of GSPO with the clip of PPO.
pub(super) fn gspo() -> PolicyLossConfig {
    PolicyLossConfig::new()
        .with_ratio(Ratio::SEQUENCE)
        .with_reduction(Reduction::SequenceMean)
}

/// A ratio that all tokens share, inside of the range, clipped, and clamped.
pub fn shared_by_its_tokens(runner: &Runner) {
    Row::new("inside of the range", &[0.0, 0.1, 0.0])
        .config(gspo())
        .loss(-1.0339)
        .gradient(&[-0.34463; 3])
        .check(runner);
    for advantage in [1.0, -1.0] {
        let name = format!("clamped, A = {advantage}");
        Row::new(&name, &[200.0, 300.0, 100.0])
            .config(gspo())
            .advantage(advantage)
            .loss(match advantage > 0.0 {
                true => -1.2,
                false => 20f64.exp(),
            })
            .gradient(&[0.0; 3])
            .metric("ppo_kl", -200.0)
            .check(runner);
    }
    let clip = Clip::new(0.2, 0.2).with_dual_clip(3.0);
    let ratio = 2f64.exp();
    Row::new("advantages of either sign", &[2.0; 3])
        .config(gspo().with_surrogate(clip))
        .advantages(HostAdvantages::Token(vec![1.0, -1.0, 0.0]))
        .loss((-1.2 + 3.0) / 3.0)
        .gradient(&[0.0; 3])
        .metric("clip_ratio", THIRD)
        .metric("dual_clipped", THIRD)
        .metric("ratio_mean", ratio)
        .check(runner);
    let ratio = 0.1f64.exp();
    Row::new(
        "advantages of either sign, inside of the range",
        &[0.2, 0.1, 0.0],
    )
    .config(gspo().with_surrogate(clip))
    .advantages(HostAdvantages::Token(vec![2.0, -1.0, 0.5]))
    .loss(-1.5 * ratio / 3.0)
    .gradient(&[-1.5 * ratio / 9.0; 3])
    .check(runner);
}

/// With the correction, the ratio is taken against the rollout policy, and nothing else.
pub fn against_rollout(runner: &Runner) {
    let arguments = OpenRlhfPolicyLoss {
        policy_loss_type: "gspo".into(),
        enable_vllm_is_correction: true,
        vllm_is_truncated_threshold: Some([0.99, 1.01]),
        ..OpenRlhfPolicyLoss::default()
    };
    let config = PolicyLossConfig::try_from(arguments).expect("it has a meaning");
    let ratio = 0.1f64.exp();
    let mut case = Row::new("against the rollout policy", &[0.3, 0.3, 0.3])
        .config(config)
        .case;
    case.rollout_log_probs = Some(vec![0.2; 3]);
    for dtype in runner.exact_dtypes() {
        let metrics = runner.outcome(&case, dtype).metrics;
        assert_eq!(metrics.rollout_kl, None, "{runner}, {dtype:?}");
        assert_eq!(metrics.weight_mean, None, "{runner}, {dtype:?}");
    }
    Row::of(case)
        .loss(-ratio)
        .gradient(&[-ratio / 3.0; 3])
        .metric("ppo_kl", -0.3)
        .check(runner);
}

/// The negative advantages of padding are not counted as clipped.
pub fn with_padding(runner: &Runner) {
    let [negative, none] = [-1.0, 0.0].map(|advantage| {
        Row::new("padding", &[-2.0, -2.0, 0.0])
            .config(gspo())
            .advantages(HostAdvantages::Token(vec![1.0, 1.0, advantage]))
            .mask(&[true, true, false])
            .metric("clip_ratio", 0.0)
    });
    negative.check(runner);
    for dtype in runner.exact_dtypes() {
        let [one, other] = [&negative, &none].map(|row| bits(&runner.outcome(&row.case, dtype)));
        assert_eq!(one, other, "{runner}, {dtype:?}");
    }
}

/// A run of valid tokens between others has a ratio of its own; without a mask there is one run.
pub fn of_segments(runner: &Runner) {
    let config = PolicyLossConfig::new().with_ratio(Ratio::SEGMENT);
    let [first, second] = [0.1_f64, -0.15].map(f64::exp);
    Row::new("two segments", &[0.0, 0.2, 9.0, -0.15, f64::NAN])
        .config(config)
        .mask(&[true, true, false, true, false])
        .loss(-(2.0 * first + second) / 3.0)
        .gradient(&[-first / 3.0, -first / 3.0, 0.0, -second / 3.0, 0.0])
        .metric("ratio_min", second)
        .metric("ratio_max", first)
        .check(runner);
    // The second segment is clipped, and what drops a sequence still sees all of it.
    Row::new("masked in front", &[9.0, 0.05, 9.0, 0.4, 0.6])
        .config(config)
        .mask(&[false, true, false, true, true])
        .loss(-(0.05_f64.exp() + 2.0 * 1.2) / 3.0)
        .gradient(&[0.0, -0.05_f64.exp() / 3.0, 0.0, 0.0, 0.0])
        .metric("clip_ratio", 2.0 * THIRD)
        .check(runner);
    let ratio = 0.1_f64.exp();
    Row::new("one segment", &[0.0, 0.2, 0.1])
        .config(config)
        .loss(-ratio)
        .gradient(&[-ratio / 3.0; 3])
        .check(runner);
}

/// Ids part tokens that lie beside one another, and hold those together that something masked lies
/// between; sequences have segments of their own.
pub fn of_segments_with_ids(runner: &Runner) {
    let config = PolicyLossConfig::new().with_ratio(Ratio::SEGMENT);
    let mut case = Row::new("turns", &[0.0; 10]).config(config).case;
    (case.sequences, case.tokens) = (2, 5);
    case.prompt_ids = Some(vec![0, 1]);
    case.log_probs = vec![0.1, 9.0, -0.1, -0.15, 0.06, 0.03, -0.05, 0.1, 0.12, 0.0];
    let (yes, no) = (true, false);
    case.action_mask = Some(vec![yes, no, yes, yes, yes, yes, yes, yes, yes, no]);
    // The first number comes back, which makes another segment.
    case.segment_ids = Some(vec![7, 8, 7, 8, 7, 7, 7, -3, -3, -3]);
    let ratios = [
        0.0, 0.0, 0.0, -0.15, 0.06, -0.01, -0.01, 0.11, 0.11, 0.0_f64,
    ]
    .map(f64::exp);
    let mut gradient = ratios.map(|ratio| -ratio / 8.0);
    gradient[1] = 0.0;
    gradient[9] = 0.0;
    Row::of(case)
        .loss(gradient.iter().sum())
        .gradient(&gradient)
        .check(runner);
}

/// All tokens of a segment have the same ratio, to the last bit. What is masked has none.
pub fn of_a_segment_is_one_number(runner: &Runner) {
    const TOKENS: usize = 40;
    let length = 25 * TOKENS;
    let mut random = Random(3);
    let mut case = Row::new("one number", &vec![0.0; length]).case;
    (case.sequences, case.tokens) = (length / TOKENS, TOKENS);
    case.prompt_ids = None;
    case.config = PolicyLossConfig::new().with_ratio(Ratio::SEGMENT);
    case.log_probs = (0..length).map(|_| random.between(-0.1, 0.1)).collect();
    let of_row = |row: usize, token: usize| (token / (row + 2)) as i64;
    let ids: Vec<i64> = (0..length)
        .map(|i| of_row(i / TOKENS, i % TOKENS))
        .collect();
    let starts = |i: usize| i == 0 || i.is_multiple_of(TOKENS) || ids[i] != ids[i - 1];
    case.segment_ids = Some(ids.clone());
    // No first token of a segment.
    let valid = |i: usize| starts(i) || !i.is_multiple_of(7);
    case.action_mask = Some((0..length).map(valid).collect());
    for dtype in runner.exact_dtypes() {
        let losses = runner.token_losses(&case, dtype);
        let (mut first, mut different) = (0.0, 0);
        for (i, loss) in losses.into_iter().enumerate() {
            if starts(i) {
                different += usize::from(loss != first);
                first = loss;
            }
            let expected = if valid(i) { first } else { 0.0 };
            assert_eq!(loss, expected, "{runner}, {dtype:?}, token {i}");
        }
        assert!(different > 100, "{runner}, {dtype:?}: {different} ratios");
    }
}

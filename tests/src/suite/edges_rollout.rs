//! Rows H1 to I1 of the table of edge cases: rollout weights and global totals.

use policy_loss::{
    Bounds, Filter, FilterEstimator, FilterLevel, GlobalTotals, OffPolicyMask, PolicyLossConfig,
    Reduction, Reinforce, RolloutCorrection,
};

use crate::case::{Case, HostAdvantages};
use crate::row::Row;
use crate::runner::Runner;

const LOW: f64 = 0.5;
const HIGH: f64 = 5.0;
const TIS: RolloutCorrection = RolloutCorrection::tis(LOW, HIGH);
const ICEPOP: RolloutCorrection = RolloutCorrection::icepop(LOW, HIGH);
const SEQ_MASK_TIS: RolloutCorrection = RolloutCorrection::seq_mask_tis(LOW, HIGH);

/// H1 to H3.
pub fn weights(runner: &Runner) {
    let rho = 3f64.exp();
    let check = |id: &str, first_gap: f64, correction, weights: [f64; 3]| {
        let third = 1.0 / 3.0;
        let truncated = correction == TIS;
        let zeroed = weights.iter().filter(|w| **w == 0.0).count() as f64;
        Row::new(id, &[0.0; 3])
            .gaps(&[first_gap, 0.0, 0.0], correction)
            .loss(-weights.iter().sum::<f64>() / 3.0)
            .gradient(&weights.map(|w| -w / 3.0))
            .metric("weight_mean", weights.iter().sum::<f64>() / 3.0)
            .metric("weight_truncated", if truncated { third } else { 0.0 })
            .metric("weight_zeroed", if truncated { 0.0 } else { zeroed / 3.0 })
            .metric("rollout_kl", -first_gap / 3.0)
            .check(runner);
    };
    check("H1, tis", 3.0, TIS, [5.0, 1.0, 1.0]);
    check("H1, icepop", 3.0, ICEPOP, [0.0, 1.0, 1.0]);
    check("H1, seq-mask-tis", 3.0, SEQ_MASK_TIS, [rho, 1.0, 1.0]);
    check("H2, tis", -3.0, TIS, [0.5, 1.0, 1.0]);
    check("H2, icepop", -3.0, ICEPOP, [0.0, 1.0, 1.0]);
    // The geometric mean is e^-1, below the threshold; with -1.5 it is e^-.5, above it.
    check("H2, seq-mask-tis", -3.0, SEQ_MASK_TIS, [0.0; 3]);
    let kept = [(-1.5f64).exp(), 1.0, 1.0];
    check("H2, seq-mask-tis, kept", -1.5, SEQ_MASK_TIS, kept);
    check("H3, tis", 1000.0, TIS, [5.0, 1.0, 1.0]);
    check("H3, icepop", 1000.0, ICEPOP, [0.0, 1.0, 1.0]);
    check("H3, seq-mask-tis", 1000.0, SEQ_MASK_TIS, [0.0; 3]);
    check("H3, below, tis", -1000.0, TIS, [0.5, 1.0, 1.0]);
    check("H3, below, icepop", -1000.0, ICEPOP, [0.0, 1.0, 1.0]);
    check("H3, below, seq-mask-tis", -1000.0, SEQ_MASK_TIS, [0.0; 3]);
}

/// H3 again: rejected weights meet the largest ratios, and sequences are judged one by one.
pub fn rejected_weights(runner: &Runner) {
    for correction in [ICEPOP, SEQ_MASK_TIS] {
        let mut case = Case::new(format!("H3, {correction:?}"), [2, 3]);
        case.log_probs = vec![100.0, 0.0, 0.1, 0.1, 0.2, 0.0];
        case.advantages = HostAdvantages::Token(vec![-1.0, 1.0, 1.0, 1.0, -1.0, 0.5]);
        case.rollout_log_probs = Some(vec![-1000.0, 0.0, 0.0, 0.1, 0.0, -0.1]);
        case.config = PolicyLossConfig::new().with_rollout_correction(correction);
        Row::of(case).metric("non_finite", 0.0).check(runner);
    }
}

/// H5: without a correction, rollout log-probs are ignored, and their metrics absent.
pub fn ignored_rollout(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        let without = Row::new("H5", &[0.1, 0.2, 0.3]).case;
        let with = Case {
            rollout_log_probs: Some(vec![1000.0, f64::NAN, f64::INFINITY]),
            ..without.clone()
        };
        let outcome = runner.outcome(&with, dtype);
        let what = format!("{runner}, {dtype:?}, H5");
        assert_eq!(outcome.metrics.rollout_kl, None, "{what}");
        assert_eq!(
            crate::compare::bits(&outcome),
            crate::compare::bits(&runner.outcome(&without, dtype)),
            "{what}"
        );
    }
}

/// I1: the totals of the global batch replace the local counts.
pub fn totals(runner: &Runner) {
    let row = |id: &str, totals: GlobalTotals| {
        let mut row = Row::new(id, &[0.0; 3]);
        row.case.totals = Some(totals);
        row
    };
    let tokens = GlobalTotals::new().with_tokens(10);
    row("I1", tokens.with_world_size(4))
        .loss(-1.2)
        .gradient(&[-0.4; 3])
        .metric("clip_ratio", 0.0)
        .metric("ratio_mean", 1.0)
        .check(runner);
    row("I1, one rank", tokens).loss(-0.3).check(runner);
    let sequences = GlobalTotals::new().with_sequences(10);
    row("I1, sequences", sequences.with_world_size(4))
        .config(PolicyLossConfig::new().with_reduction(Reduction::SequenceMean))
        .loss(-0.4)
        .gradient(&[-0.4 / 3.0; 3])
        .check(runner);
    // The total that the reduction does not count is not in the way.
    row("I1, both", tokens.with_sequences(99))
        .loss(-0.3)
        .check(runner);
}

/// A mean that is exactly the off-policy mask's bound is kept.
pub fn exactly_at_the_mask(runner: &Runner) {
    // A GPU need not divide exactly, but by a power of two it does.
    let tokens = if runner.is_slow() { 64 } else { 91 };
    let config = PolicyLossConfig::new()
        .with_surrogate(Reinforce::default())
        .with_off_policy_mask(OffPolicyMask::new(3.0));
    let mut case = Case::new("the mean is delta", [1, tokens]).with_config(config);
    case.log_probs = vec![-4.0; tokens];
    case.old_log_probs = vec![-1.0; tokens];
    case.advantages = HostAdvantages::Token(vec![-1.0; tokens]);
    for dtype in runner.exact_dtypes() {
        let outcome = runner.outcome(&case, dtype);
        let what = format!("{runner}, {dtype:?}");
        assert_eq!(outcome.metrics.off_policy_dropped, Some(0.0), "{what}");
        assert!(
            (outcome.loss + 4.0).abs() < 1e-5,
            "{what}: {}",
            outcome.loss
        );
    }
}

/// The largest estimate of a sequence may be that of its smallest gap.
pub fn largest_on_either_side(runner: &Runner) {
    for estimator in [FilterEstimator::K2, FilterEstimator::K3] {
        // Of ±2 the estimates are above 1, of ±0.1 below 0.01.
        let filter = Filter::new(FilterLevel::SequenceMax, estimator, Bounds::at_most(0.5));
        let correction = RolloutCorrection::filter(filter);
        for (gaps, zeroed) in [([-2.0, 0.1], 1.0), ([2.0, -0.1], 1.0), ([-0.1, 0.1], 0.0)] {
            let mut case = Case::new(format!("{estimator:?}, {gaps:?}"), [1, 2])
                .with_config(PolicyLossConfig::new().with_rollout_correction(correction));
            case.rollout_log_probs = Some(gaps.map(|gap| -gap).to_vec());
            for dtype in runner.exact_dtypes() {
                let outcome = runner.outcome(&case, dtype);
                let what = format!("{runner}, {dtype:?}, {}", case.name);
                assert_eq!(outcome.metrics.weight_zeroed, Some(zeroed), "{what}");
                assert_eq!(outcome.loss, zeroed - 1.0, "{what}");
            }
        }
    }
}

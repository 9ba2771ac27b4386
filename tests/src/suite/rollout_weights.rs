//! The weights of a rollout correction, by hand.

use policy_loss::{
    Bounds, Filter, FilterEstimator, FilterLevel, PolicyLossConfig, RolloutCorrection,
    RolloutWeight, presets,
};

use crate::case::{Case, HostAdvantages};
use crate::row::Row;
use crate::runner::Runner;

const LOW: f64 = 0.5;
const HIGH: f64 = 5.0;
const TIS: RolloutCorrection = presets::tis(LOW, HIGH);
const ICEPOP: RolloutCorrection = presets::icepop(LOW, HIGH);
const SEQ_MASK_TIS: RolloutCorrection = presets::seq_mask_tis(LOW, HIGH);

/// Sampler and trainer that agree, but at one token: too likely, too unlikely, and beyond every
/// number.
pub fn weights(runner: &Runner) {
    let rho = 3f64.exp();
    let check = |name: &str, first_gap: f64, correction, weights: [f64; 3]| {
        let third = 1.0 / 3.0;
        let truncated = correction == TIS;
        let zeroed = weights.iter().filter(|w| **w == 0.0).count() as f64;
        Row::new(name, &[0.0; 3])
            .gaps(&[first_gap, 0.0, 0.0], correction)
            .loss(-weights.iter().sum::<f64>() / 3.0)
            .gradient(&weights.map(|w| -w / 3.0))
            .metric("weight_mean", weights.iter().sum::<f64>() / 3.0)
            .metric("weight_truncated", if truncated { third } else { 0.0 })
            .metric("weight_zeroed", if truncated { 0.0 } else { zeroed / 3.0 })
            .metric("rollout_kl", -first_gap / 3.0)
            .check(runner);
    };
    check("rho = e^3, tis", 3.0, TIS, [5.0, 1.0, 1.0]);
    check("rho = e^3, icepop", 3.0, ICEPOP, [0.0, 1.0, 1.0]);
    check(
        "rho = e^3, seq-mask-tis",
        3.0,
        SEQ_MASK_TIS,
        [rho, 1.0, 1.0],
    );
    check("rho = e^-3, tis", -3.0, TIS, [0.5, 1.0, 1.0]);
    check("rho = e^-3, icepop", -3.0, ICEPOP, [0.0, 1.0, 1.0]);
    // The geometric mean is e^-1, below the threshold; with -1.5 it is e^-.5, above it.
    check("rho = e^-3, seq-mask-tis", -3.0, SEQ_MASK_TIS, [0.0; 3]);
    let kept = [(-1.5f64).exp(), 1.0, 1.0];
    check("rho = e^-1.5, seq-mask-tis", -1.5, SEQ_MASK_TIS, kept);
    check("rho = e^1000, tis", 1000.0, TIS, [5.0, 1.0, 1.0]);
    check("rho = e^1000, icepop", 1000.0, ICEPOP, [0.0, 1.0, 1.0]);
    check("rho = e^1000, seq-mask-tis", 1000.0, SEQ_MASK_TIS, [0.0; 3]);
    check("rho = e^-1000, tis", -1000.0, TIS, [0.5, 1.0, 1.0]);
    check("rho = e^-1000, icepop", -1000.0, ICEPOP, [0.0, 1.0, 1.0]);
    check(
        "rho = e^-1000, seq-mask-tis",
        -1000.0,
        SEQ_MASK_TIS,
        [0.0; 3],
    );
}

/// Rejected weights meet the largest ratios, and sequences are judged one by one.
pub fn rejected_weights(runner: &Runner) {
    for correction in [ICEPOP, SEQ_MASK_TIS] {
        let mut case = Case::new(format!("{correction:?}"), [2, 3]);
        case.log_probs = vec![100.0, 0.0, 0.1, 0.1, 0.2, 0.0];
        case.advantages = HostAdvantages::Token(vec![-1.0, 1.0, 1.0, 1.0, -1.0, 0.5]);
        case.rollout_log_probs = Some(vec![-1000.0, 0.0, 0.0, 0.1, 0.0, -0.1]);
        case.config = PolicyLossConfig::new().with_rollout_correction(correction);
        Row::of(case).metric("non_finite", 0.0).check(runner);
    }
}

/// A token that an update moves towards the sampler is spared, in a sequence that a filter drops; one
/// of which nobody knows is not.
pub fn only_moving_away(runner: &Runner) {
    let mean = Filter::new(
        FilterLevel::SequenceMean,
        FilterEstimator::RatioDistance,
        Bounds::at_most(0.5),
    );
    let away = RolloutCorrection::filter(mean).with_only_moving_away();
    let gaps = [1.0, -1.0, 0.0, 1.0, -1.0, 1.0];
    let advantages = [1.0, 1.0, 1.0, -1.0, -1.0, 0.0];
    let row = |name: &str, gaps: &[f64], correction| {
        let row = Row::new(name, &[0.0; 6]).advantages(HostAdvantages::Token(advantages.to_vec()));
        row.gaps(gaps, correction)
    };
    row("away from the sampler", &gaps, away)
        .loss(-(1.0 + 1.0 - 1.0) / 6.0)
        .metric("weight_zeroed", 2.0 / 6.0)
        .check(runner);
    row(
        "all of the sequence",
        &gaps,
        RolloutCorrection::filter(mean),
    )
    .loss(0.0)
    .metric("weight_zeroed", 1.0)
    .check(runner);
    row("near to the sampler", &gaps.map(|gap| gap / 4.0), away)
        .loss(-1.0 / 6.0)
        .metric("weight_zeroed", 0.0)
        .check(runner);
    let mut unknown = gaps;
    unknown[1] = f64::NAN;
    row("unknown", &unknown, away)
        .loss(0.0)
        .metric("weight_zeroed", 3.0 / 6.0)
        .check(runner);
    // A mask of the weight spares nothing.
    let mask = RolloutCorrection::weigh(RolloutWeight::mask(Bounds::new(0.5, 2.0)));
    row(
        "a mask and a veto",
        &gaps,
        mask.with_veto(0.5).with_only_moving_away(),
    )
    .metric("weight_zeroed", 5.0 / 6.0)
    .check(runner);
}

/// A token that was certain for the trainer, and not for the sampler: far from it, and not beyond every
/// bound.
pub fn of_certain_tokens(runner: &Runner) {
    let check = |name: &str, level, most, kept: f64| {
        let bounds = Bounds::at_most(most);
        let filter = Filter::new(level, FilterEstimator::BernoulliKl, bounds);
        // The sampler's probability is 0.7165: D = 0.7165 ln 0.7165 + 0.2835 ln(0.2835e8) = 4.6255.
        Row::new(name, &[0.0; 3])
            .gaps(&[1.0 / 3.0, 0.0, 0.0], RolloutCorrection::filter(filter))
            .loss(-kept / 3.0)
            .metric("weight_zeroed", 1.0 - kept / 3.0)
            .check(runner);
    };
    check("mean within", FilterLevel::SequenceMean, 1.55, 3.0);
    check("mean beyond", FilterLevel::SequenceMean, 1.53, 0.0);
    check("token within", FilterLevel::Token, 4.63, 3.0);
    check("token beyond", FilterLevel::Token, 4.61, 2.0);
}

/// A side of bounds that is left out bounds nothing, not even what is beyond every number.
pub fn open_sides(runner: &Runner) {
    let check = |name: &str, gaps: &[f64; 3], bounds, kept: f64| {
        let filter = Filter::new(FilterLevel::SequenceSum, FilterEstimator::K1, bounds);
        Row::new(name, &[0.0; 3])
            .gaps(gaps, RolloutCorrection::filter(filter))
            .loss(-kept)
            .metric("weight_zeroed", 1.0 - kept)
            .check(runner);
    };
    let (far, farther) = ([60.0, 30.0, 10.0], [-60.0, -30.0, -10.0]);
    check("no upper bound", &far, Bounds::at_least(0.5), 1.0);
    check("an upper bound", &far, Bounds::at_most(2.0), 0.0);
    check("no lower bound", &farther, Bounds::at_most(2.0), 1.0);
    check("a lower bound", &farther, Bounds::at_least(0.5), 0.0);
}

/// A filter of segments drops a turn and keeps the others of its sequence.
pub fn of_segments(runner: &Runner) {
    let within = |bounds| {
        let level = FilterLevel::SegmentMean;
        RolloutCorrection::filter(Filter::new(level, FilterEstimator::K1, bounds))
    };
    let check = |name: &str, segment_ids: Option<Vec<i64>>, kept: [f64; 5]| {
        // Means of the turns: 0.1 and 0.55, or 0.2 and 0.7 by ids; of all 0.325.
        let mut row = Row::new(name, &[0.0; 5])
            .gaps(
                &[0.0, 0.2, f64::NAN, 0.4, 0.7],
                within(Bounds::at_most(0.3_f64.exp())),
            )
            .mask(&[true, true, false, true, true]);
        row.case.segment_ids = segment_ids;
        row.loss(-kept.iter().sum::<f64>() / 4.0)
            .gradient(&kept.map(|kept| 0.0 - kept / 4.0))
            .metric("weight_zeroed", 1.0 - kept.iter().sum::<f64>() / 4.0)
            .check(runner);
    };
    check("between masked tokens", None, [1.0, 1.0, 0.0, 0.0, 0.0]);
    let ids = vec![3, 3, 5, 3, 4];
    check("by ids", Some(ids), [1.0, 1.0, 0.0, 1.0, 0.0]);
    let one = vec![3; 5];
    check("one segment", Some(one), [0.0; 5]);
}

/// A filter judges a segment as a whole, also where its mean lies at the bound, up to rounding.
pub fn of_segments_at_a_bound(runner: &Runner) {
    for tokens in [3, 5, 7, 12, 20] {
        for steps in 0..5 {
            let high = f32::from_bits(0.3_f32.exp().to_bits() + steps - 2);
            let filter = Filter::new(
                FilterLevel::SegmentMean,
                FilterEstimator::K1,
                Bounds::at_most(high.into()),
            );
            let row = Row::new("at a bound", &vec![0.0; tokens]);
            let row = row.gaps(&vec![0.3; tokens], RolloutCorrection::filter(filter));
            for dtype in runner.exact_dtypes() {
                let dropped = runner.outcome(&row.case, dtype).metrics.weight_zeroed;
                let dropped = dropped.expect("there is a correction");
                let is_whole = [0.0, 1.0].contains(&dropped);
                assert!(
                    is_whole,
                    "{runner}, {dtype:?}, {high}: {dropped} of {tokens}"
                );
            }
        }
    }
}

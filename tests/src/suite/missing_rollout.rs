//! Log-probs that the sampler did not give.

use policy_loss::{
    Behavior, Bounds, Filter, FilterEstimator, FilterLevel, FutureWeight, GeometricMean, KlBase,
    KlEstimator, KlPenalty, MissingRolloutLogProbs, OffPolicyMask, PolicyGradient,
    PolicyLossConfig, Ratio, Reduction, RolloutCorrection, RolloutWeight, WeightLevel,
};

use crate::busy::busy;
use crate::case::Case;
use crate::compare::assert_agrees_with_oracle;
use crate::configs::describe;
use crate::runner::{Runner, values};

/// Some of the batch, of three of its rows; one of them is masked.
const MISSING: [usize; 5] = [1, 3, 7, 13, 20];
/// How many of them are valid.
const COUNTED: f64 = 4.0;

fn case() -> Case {
    let mut case = busy(0);
    let rollout = case.rollout_log_probs.as_mut().expect("it has some");
    for i in MISSING {
        rollout[i] = f64::NAN;
    }
    case
}

/// Every part that reads the log-probs of the sampler.
fn readers() -> Vec<PolicyLossConfig> {
    let new = PolicyLossConfig::new;
    let range = Bounds::new(0.7, 1.4);
    let truncate = RolloutWeight::truncate(range);
    let weigh = |weight| new().with_rollout_correction(RolloutCorrection::weigh(weight));
    let filter = |level, estimator| {
        let filter = Filter::new(level, estimator, Bounds::new(0.01, 0.6));
        new().with_rollout_correction(RolloutCorrection::filter(filter))
    };
    let penalty = KlPenalty::new(0.1)
        .with_estimator(KlEstimator::K2)
        .against(KlBase::Rollout);
    vec![
        weigh(truncate),
        weigh(RolloutWeight::mask(range).of_level(WeightLevel::Sequence)),
        new().with_rollout_correction(
            RolloutCorrection::weigh(truncate.of_level(WeightLevel::Geometric))
                .with_normalization(),
        ),
        new().with_rollout_correction(RolloutCorrection::weigh(truncate).with_normalization()),
        weigh(truncate)
            .with_off_policy_mask(OffPolicyMask::new(0.1))
            .with_reduction(Reduction::SequenceMean),
        weigh(truncate).with_surrogate(GeometricMean::default()),
        new().with_rollout_correction(
            RolloutCorrection::weigh(RolloutWeight::raw()).with_veto(0.31),
        ),
        filter(FilterLevel::Token, FilterEstimator::BernoulliKl),
        filter(FilterLevel::SequenceMax, FilterEstimator::K2),
        filter(FilterLevel::SequenceMean, FilterEstimator::K3),
        filter(FilterLevel::SegmentMean, FilterEstimator::K3),
        new().with_ratio(Ratio::TOKEN.against(Behavior::Rollout)),
        new().with_ratio(Ratio::SEGMENT.against(Behavior::Rollout)),
        new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_future_weight(FutureWeight::new(0.9)),
        new().with_ratio(Ratio::SEQUENCE.against(Behavior::Rollout)),
        new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_surrogate(GeometricMean::default()),
        new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_surrogate(PolicyGradient::weighted_within(range))
            .with_kl_penalty(penalty),
        new().with_kl_penalty(penalty),
    ]
}

/// They are dropped, or the old log-probs stand in, in every part that reads them, as the oracle
/// has it; what is counted is the same in all of them.
pub fn tokens_are_dropped_or_stood_in_for(runner: &Runner) {
    for config in runner.share(readers()) {
        for missing in [MissingRolloutLogProbs::Drop, MissingRolloutLogProbs::UseOld] {
            let config = config.with_missing_rollout_log_probs(missing);
            let mut case = case().with_config(config);
            case.name = format!("missing, {}", describe(&config));
            assert_agrees_with_oracle(runner, &case);
            for dtype in runner.exact_dtypes() {
                let outcome = runner.outcome(&case, dtype);
                let what = format!("{runner}, {dtype:?}, {}", case.name);
                let metrics = outcome.metrics;
                assert_eq!(metrics.missing_rollout_log_probs, COUNTED, "{what}");
                assert_eq!(metrics.non_finite, 0.0, "{what}");
                assert!(outcome.loss.is_finite(), "{what}");
                let batch = runner.batch(&case, runner.leaf(&case, dtype), dtype);
                let details = runner.init(&config).token_details(batch).expect(&what);
                let missing = details.missing_rollout_log_probs.expect("it is read");
                let missing: f64 = values(missing.float()).iter().sum();
                assert_eq!(missing, COUNTED, "{what}");
            }
        }
    }
}

/// Unless it is asked for, nothing stands in for a missing one: it counts as not finite, and as missing.
pub fn tokens_stay_missing(runner: &Runner) {
    for config in runner.share(readers()) {
        let refused = case().with_config(config);
        for dtype in runner.exact_dtypes() {
            let outcome = runner.outcome(&refused, dtype);
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let metrics = outcome.metrics;
            assert_eq!(metrics.missing_rollout_log_probs, COUNTED, "{what}");
            assert_eq!(metrics.non_finite, COUNTED, "{what}");
        }
    }
}

/// The diagnostics are those of the tokens that the sampler gave a log-prob of, and count the
/// others.
pub fn diagnostics_are_of_the_others(runner: &Runner) {
    let mut without = case();
    let mask = without.action_mask.as_mut().expect("it has one");
    for i in MISSING {
        mask[i] = false;
    }
    for dtype in runner.exact_dtypes() {
        let read = |case: &Case| runner.diagnostics(case, dtype);
        let (actual, mut expected) = (read(&case()), read(&without));
        assert_eq!(actual.missing, COUNTED, "{runner}, {dtype:?}");
        assert_eq!(expected.missing, 0.0, "{runner}, {dtype:?}");
        expected.missing = COUNTED;
        assert_eq!(actual, expected, "{runner}, {dtype:?}");
        assert!(actual.named().iter().all(|(_, value)| value.is_finite()));

        let mut none = case();
        none.rollout_log_probs = Some(vec![f64::NAN; 24]);
        let valid = none.valid_tokens() as f64;
        for (name, value) in read(&none).named() {
            let expected = if name == "missing" { valid } else { 0.0 };
            assert_eq!(value, expected, "{runner}, {dtype:?}: {name}");
        }
    }
}

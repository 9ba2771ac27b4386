//! Rollout corrections that have no name.

use policy_loss::{
    Bounds, Filter, FilterEstimator, FilterLevel, GeometricMean, KlPenalty, OffPolicyMask,
    PolicyLossConfig, Reduction, Reinforce, RolloutCorrection, RolloutWeight, WeightLevel,
};

use crate::busy::busy;

/// Every level with every mode, every filter, and then several parts at once.
pub fn corrections() -> Vec<PolicyLossConfig> {
    let mut configs = weights();
    configs.extend(filters());
    configs.extend(mixed());
    configs.extend(of_geometric_means());
    configs
}

fn corrected(correction: RolloutCorrection) -> PolicyLossConfig {
    PolicyLossConfig::new().with_rollout_correction(correction)
}

fn weights() -> Vec<PolicyLossConfig> {
    let bounds = Bounds::new(0.7, 1.4);
    let modes = [
        RolloutWeight::truncate(bounds),
        RolloutWeight::mask(bounds),
        RolloutWeight::raw(),
    ];
    let levels = [
        WeightLevel::Token,
        WeightLevel::Sequence,
        WeightLevel::Geometric,
    ];
    let of_level =
        |level| modes.map(|mode| corrected(RolloutCorrection::weigh(mode.of_level(level))));
    levels.map(of_level).concat()
}

fn filters() -> Vec<PolicyLossConfig> {
    let levels = [
        FilterLevel::Token,
        FilterLevel::SequenceSum,
        FilterLevel::SequenceMean,
        FilterLevel::SequenceMax,
    ];
    let estimators = [
        FilterEstimator::K1,
        FilterEstimator::K2,
        FilterEstimator::K3,
    ];
    let pairs = levels
        .into_iter()
        .flat_map(|level| estimators.map(|it| (level, it)));
    pairs
        .map(|(level, estimator)| dividing(level, estimator))
        .collect()
}

/// A filter of this kind that rejects something and keeps something.
fn dividing(level: FilterLevel, estimator: FilterEstimator) -> PolicyLossConfig {
    let bounds = (0..50).map(|step| 20.0 * 0.85_f64.powi(step));
    let filter = |bound| Filter::new(level, estimator, Bounds::at_most(bound));
    let mut configs = bounds.map(|bound| corrected(RolloutCorrection::filter(filter(bound))));
    let divides = |config: &PolicyLossConfig| {
        let zeroed = busy(0)
            .with_config(*config)
            .answer()
            .metrics
            .get("weight_zeroed");
        zeroed.is_some_and(|zeroed| zeroed > 0.0 && zeroed < 1.0)
    };
    configs
        .find(divides)
        .expect("a bound between the statistics of the batch")
}

/// Surrogates that are one for a sequence: the gradient of a token takes the weights of all.
fn of_geometric_means() -> Vec<PolicyLossConfig> {
    let mean = |correction| corrected(correction).with_surrogate(GeometricMean::default());
    let truncate = RolloutWeight::truncate(Bounds::new(0.7, 1.4));
    vec![
        mean(RolloutCorrection::weigh(truncate)),
        mean(RolloutCorrection::weigh(
            truncate.of_level(WeightLevel::Sequence),
        ))
        .with_off_policy_mask(OffPolicyMask::new(0.1))
        .with_reduction(Reduction::SequenceMean),
        mean(RolloutCorrection::weigh(truncate).with_normalization())
            .with_kl_penalty(KlPenalty::new(0.1)),
        PolicyLossConfig::new()
            .with_surrogate(GeometricMean::default())
            .with_off_policy_mask(OffPolicyMask::new(0.1)),
    ]
}

/// Several parts at once.
fn mixed() -> Vec<PolicyLossConfig> {
    let range = Bounds::new(0.5, 2.0);
    let truncate = RolloutWeight::truncate(range);
    let raw = RolloutWeight::raw();
    let filter = |level, estimator, bounds| Filter::new(level, estimator, bounds);
    let corrected = |correction| PolicyLossConfig::new().with_rollout_correction(correction);
    vec![
        corrected(RolloutCorrection::weigh(
            truncate.of_level(WeightLevel::Sequence),
        )),
        corrected(
            RolloutCorrection::weigh(truncate.of_level(WeightLevel::Geometric))
                .with_normalization(),
        ),
        corrected(
            RolloutCorrection::weigh(RolloutWeight::truncate(Bounds::at_most(2.0)))
                .with_normalization()
                .with_filter(Filter::token_k1(Bounds::new(0.4, 3.0)))
                .with_filter(filter(
                    FilterLevel::SequenceMax,
                    FilterEstimator::K2,
                    Bounds::at_most(0.8),
                )),
        ),
        corrected(
            RolloutCorrection::weigh(RolloutWeight::mask(Bounds::at_least(0.4)))
                .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.3))),
        ),
        corrected(
            RolloutCorrection::filter(filter(
                FilterLevel::SequenceSum,
                FilterEstimator::K1,
                Bounds::new(0.1, 10.0),
            ))
            .with_veto(0.31),
        ),
        corrected(RolloutCorrection::weigh(raw).with_veto(0.31)),
        corrected(RolloutCorrection::weigh(
            raw.of_level(WeightLevel::Geometric),
        ))
        .with_surrogate(Reinforce::default()),
        corrected(RolloutCorrection::filter(filter(
            FilterLevel::SequenceMax,
            FilterEstimator::K1,
            Bounds::at_most(3.0),
        )))
        .with_surrogate(GeometricMean::default()),
    ]
}

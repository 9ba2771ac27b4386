//! Every shape that an objective can take.

use policy_loss::{
    Behavior, Bounds, Clip, CovarianceClip, CovariancePenalty, Divergence, EntropyBonus, Filter,
    FilterEstimator, FilterLevel, GammaWeight, GeometricMean, KlEstimator, KlGradient, KlPenalty,
    OffPolicyMask, PolicyGradient, PolicyLossConfig, Ratio, RatioLevel, Reduction,
    RolloutCorrection, RolloutWeight, SigmoidGate, SquaredLogRatio, Surrogate, TrustRegion,
    WeightLevel, presets,
};

use crate::busy::busy;

/// The clip with everything that it goes together with, and then every other part at least once:
/// ratios, surrogates, corrections, penalties, bonus and reductions.
pub fn all() -> Vec<PolicyLossConfig> {
    let mut configs = clips();
    configs.extend(surrogates());
    configs.extend(ratios());
    configs.extend(corrections());
    configs.extend(penalties());
    configs.extend(combinations());
    configs
}

/// A part of [`all`] in which every kind of setting still occurs, for devices that take long.
pub fn covering() -> Vec<PolicyLossConfig> {
    let mut covering = covering_clips();
    covering.extend(combinations());
    covering
}

/// A part of the objectives with a clip in which every setting of theirs still occurs.
pub fn covering_clips() -> Vec<PolicyLossConfig> {
    let clips = clips();
    [0, 16, 12, 28, 9, 39].map(|index| clips[index]).to_vec()
}

/// Ratio (level and base), with and without dual clip, the corrections that have a name, both
/// means.
fn clips() -> Vec<PolicyLossConfig> {
    let mut configs = Vec::new();
    for ratio in [Ratio::TOKEN, Ratio::SEQUENCE] {
        for clip in [
            Clip::new(0.2, 0.28),
            Clip::new(0.1, 0.3).with_dual_clip(1.5),
        ] {
            for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
                let config = PolicyLossConfig::new()
                    .with_ratio(ratio)
                    .with_surrogate(clip)
                    .with_reduction(reduction);
                let (low, high) = (0.5, 2.0);
                let named = [
                    None,
                    Some(presets::tis(low, high)),
                    Some(presets::icepop(low, high)),
                    Some(presets::seq_mask_tis(low, high)),
                ];
                configs.extend(named.map(|c| config.with_rollout_correction(c)));
                configs.push(config.with_ratio(ratio.against(Behavior::Rollout)));
            }
        }
    }
    configs
}

fn covariance_clip() -> CovarianceClip {
    CovarianceClip {
        share: 0.15,
        min_covariance: 0.1,
        max_covariance: 3.0,
        seed: 7,
        ..CovarianceClip::default()
    }
}

const COVARIANCE_PENALTY: CovariancePenalty = CovariancePenalty {
    share: 0.2,
    coefficient: 0.7,
};

const UP_TO_ONE: Bounds = Bounds::at_most(1.0);

/// Every surrogate but the plain clip, with the reductions in turn.
fn surrogates() -> Vec<PolicyLossConfig> {
    let fixed_length = Reduction::FixedLength { length: 9 };
    let surrogates: [(Surrogate, Reduction); 17] = [
        (
            Clip::new(0.2, 0.28).with_delta(1.5).into(),
            Reduction::SequenceMean,
        ),
        (Clip::new(0.2, 0.4).with_delta(1.4).into(), fixed_length),
        (
            PolicyGradient::weighted(Bounds::at_most(1.28)).into(),
            Reduction::TokenMean,
        ),
        (
            PolicyGradient::weighted(Bounds::new(0.8, 1.28)).into(),
            Reduction::SequenceSumMean,
        ),
        (SigmoidGate::default().into(), Reduction::SequenceMean),
        (GeometricMean::default().into(), Reduction::SequenceMean),
        (GeometricMean::new(0.2, 0.3).into(), Reduction::TokenMean),
        (PolicyGradient::new().into(), Reduction::SequenceSumMean),
        (
            PolicyGradient::weighted(UP_TO_ONE).into(),
            Reduction::TokenSum,
        ),
        (
            PolicyGradient::weighted_where_negative(UP_TO_ONE).into(),
            Reduction::TokenMean,
        ),
        (
            PolicyGradient::weighted_where_negative(Bounds::new(0.7, 1.3)).into(),
            Reduction::SequenceMean,
        ),
        (GammaWeight::default().into(), Reduction::TokenMean),
        (TrustRegion::default().into(), Reduction::TokenMean),
        (
            TrustRegion::new(Divergence::Kl, 0.05, 0.1).into(),
            fixed_length,
        ),
        (covariance_clip().into(), Reduction::TokenMean),
        (COVARIANCE_PENALTY.into(), Reduction::SequenceMean),
        (SquaredLogRatio::default().into(), Reduction::TokenMean),
    ];
    surrogates
        .map(|(surrogate, reduction)| {
            PolicyLossConfig::new()
                .with_surrogate(surrogate)
                .with_reduction(reduction)
        })
        .to_vec()
}

/// The remaining ratios and reductions.
fn ratios() -> Vec<PolicyLossConfig> {
    let clip = |ratio| {
        PolicyLossConfig::new()
            .with_ratio(ratio)
            .with_surrogate(Clip::new(0.2, 0.28))
    };
    vec![
        clip(Ratio::SEQUENCE_TOKEN).with_reduction(Reduction::SequenceMean),
        clip(Ratio::SEQUENCE_SUM).with_reduction(Reduction::SequenceSumMean),
        clip(Ratio::SEQUENCE).with_reduction(Reduction::SequenceSumMean),
        clip(Ratio::SEQUENCE_TOKEN.against(Behavior::Rollout)),
        clip(Ratio::TOKEN).with_reduction(Reduction::TokenSum),
        clip(Ratio::SEQUENCE).with_surrogate(SigmoidGate::default()),
        PolicyLossConfig::new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_surrogate(PolicyGradient::weighted(Bounds::at_most(1.28))),
    ]
}

/// Rollout corrections that have no name: every level with every mode, every filter, and then
/// several parts at once.
fn corrections() -> Vec<PolicyLossConfig> {
    let mut configs = weights();
    configs.extend(filters());
    configs.extend(mixed_corrections());
    configs.extend(corrected_geometric_means());
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
    let of_level = |level| FilterEstimator::ALL.map(|estimator| dividing(level, estimator));
    FilterLevel::ALL.map(of_level).concat()
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
fn corrected_geometric_means() -> Vec<PolicyLossConfig> {
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
fn mixed_corrections() -> Vec<PolicyLossConfig> {
    let range = Bounds::new(0.5, 2.0);
    let truncate = RolloutWeight::truncate(range);
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
                .with_filter(Filter::new(
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
            RolloutCorrection::filter(Filter::new(
                FilterLevel::SequenceSum,
                FilterEstimator::K1,
                Bounds::new(0.1, 10.0),
            ))
            .with_veto(0.31),
        ),
        corrected(RolloutCorrection::weigh(RolloutWeight::raw()).with_veto(0.31)),
        corrected(RolloutCorrection::filter(Filter::new(
            FilterLevel::SequenceMax,
            FilterEstimator::K1,
            Bounds::at_most(3.0),
        )))
        .with_surrogate(GeometricMean::default()),
    ]
}

/// Penalties, the bonus and the mask, one by one.
fn penalties() -> Vec<PolicyLossConfig> {
    let new = PolicyLossConfig::new;
    let penalty = KlPenalty::new(0.1);
    let mask = OffPolicyMask::new(0.1);
    let straight_through = KlGradient::StraightThrough;
    let importance_corrected = KlGradient::ImportanceCorrected;
    vec![
        new().with_kl_penalty(penalty),
        new().with_kl_penalty(penalty.with_estimator(KlEstimator::K1)),
        new().with_kl_penalty(penalty.with_estimator(KlEstimator::K2)),
        new().with_kl_penalty(penalty.with_estimator(KlEstimator::Abs)),
        new().with_kl_penalty(penalty.with_gradient(straight_through)),
        new().with_kl_penalty(
            penalty
                .with_estimator(KlEstimator::K1)
                .with_gradient(straight_through),
        ),
        new().with_kl_penalty(penalty.with_gradient(importance_corrected)),
        new()
            .with_ratio(Ratio::SEQUENCE)
            .with_kl_penalty(penalty.with_gradient(importance_corrected)),
        new().with_entropy_bonus(EntropyBonus::new(0.01)),
        new().with_off_policy_mask(mask),
    ]
}

/// Each surrogate together with parts of every other kind.
fn combinations() -> Vec<PolicyLossConfig> {
    let new = PolicyLossConfig::new;
    let with = |surrogate: Surrogate| new().with_surrogate(surrogate);
    let penalty = KlPenalty::new(0.1);
    let range = Bounds::new(0.5, 2.0);
    let truncate = RolloutWeight::truncate(range);
    vec![
        new()
            .with_ratio(Ratio::SEQUENCE_TOKEN)
            .with_surrogate(Clip::new(0.1, 0.2))
            .with_off_policy_mask(OffPolicyMask::new(0.1))
            .with_rollout_correction(presets::icepop(0.5, 2.0))
            .with_kl_penalty(penalty.with_gradient(KlGradient::ImportanceCorrected))
            .with_entropy_bonus(EntropyBonus::new(0.05))
            .with_reduction(Reduction::SequenceMean),
        with(PolicyGradient::weighted(Bounds::new(0.8, 1.28)).into())
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_reduction(Reduction::FixedLength { length: 9 }),
        with(SigmoidGate::default().into())
            .with_ratio(Ratio::SEQUENCE_SUM)
            .with_reduction(Reduction::SequenceSumMean),
        with(GeometricMean::default().into()).with_rollout_correction(
            RolloutCorrection::filter(Filter::new(
                FilterLevel::SequenceSum,
                FilterEstimator::K1,
                Bounds::new(0.1, 10.0),
            ))
            .with_veto(0.31),
        ),
        with(GeometricMean::new(0.2, 0.3).into())
            .with_rollout_correction(
                RolloutCorrection::weigh(truncate)
                    .with_filter(Filter::token_k1(Bounds::new(0.4, 3.0)))
                    .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.3))),
            )
            .with_off_policy_mask(OffPolicyMask::new(0.1)),
        with(PolicyGradient::new().into()).with_rollout_correction(RolloutCorrection::weigh(
            RolloutWeight::raw().of_level(WeightLevel::Geometric),
        )),
        with(PolicyGradient::weighted(UP_TO_ONE).into())
            .with_rollout_correction(
                RolloutCorrection::weigh(truncate.of_level(WeightLevel::Sequence))
                    .with_normalization()
                    .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.3))),
            )
            .with_reduction(Reduction::TokenSum),
        with(PolicyGradient::weighted_where_negative(UP_TO_ONE).into()).with_kl_penalty(
            penalty
                .with_estimator(KlEstimator::K1)
                .with_gradient(KlGradient::StraightThrough),
        ),
        with(GammaWeight::default().into())
            .with_kl_penalty(penalty.with_estimator(KlEstimator::Abs))
            .with_rollout_correction(
                RolloutCorrection::weigh(truncate.of_level(WeightLevel::Sequence))
                    .with_filter(Filter::new(
                        FilterLevel::SequenceMax,
                        FilterEstimator::K2,
                        Bounds::at_most(0.8),
                    ))
                    .with_veto(0.31),
            ),
        with(TrustRegion::new(Divergence::Kl, 0.05, 0.1).into())
            .with_entropy_bonus(EntropyBonus::new(0.05)),
        with(covariance_clip().into()).with_kl_penalty(penalty),
        with(COVARIANCE_PENALTY.into()).with_rollout_correction(
            RolloutCorrection::weigh(RolloutWeight::mask(range)).with_filter(Filter::new(
                FilterLevel::SequenceMax,
                FilterEstimator::K2,
                Bounds::at_most(0.8),
            )),
        ),
        with(SquaredLogRatio::default().into())
            .with_kl_penalty(penalty.with_estimator(KlEstimator::K2)),
    ]
}

/// Whether some part of the objective is a constant that moves with `log_probs`, so that the
/// gradient is not the slope of the loss.
pub fn stops_gradients(config: &PolicyLossConfig) -> bool {
    let objective = &config.objective;
    let weighs_log_probs = match objective.surrogate {
        Surrogate::Clip(_)
        | Surrogate::SigmoidGate(_)
        | Surrogate::GeometricMean(_)
        | Surrogate::SquaredLogRatio(_) => false,
        Surrogate::PolicyGradient(it) => it != PolicyGradient::new(),
        Surrogate::GammaWeight(_)
        | Surrogate::TrustRegion(_)
        | Surrogate::CovarianceClip(_)
        | Surrogate::CovariancePenalty(_) => true,
    };
    let straight_through = |penalty: KlPenalty| penalty.gradient == KlGradient::StraightThrough;
    weighs_log_probs
        || objective.ratio.level == RatioLevel::SequenceToken
        || objective.kl_penalty.is_some_and(straight_through)
}

/// One line for failure messages.
pub fn describe(config: &PolicyLossConfig) -> String {
    serde_json::to_string(config).expect("a configuration can be serialized")
}

#[cfg(test)]
mod tests {
    use policy_loss::Objective;

    use super::*;

    #[test]
    fn no_objective_is_listed_twice() {
        let configs = all();
        for (i, config) in configs.iter().enumerate() {
            assert!(!configs[..i].contains(config), "{}", describe(config));
        }
    }

    #[test]
    fn covering_holds_every_kind_of_setting() {
        let covering = covering();
        for config in all() {
            let config = config.objective;
            let holds = |same: &dyn Fn(&Objective) -> bool| {
                covering.iter().any(|covering| same(&covering.objective))
            };
            assert!(holds(&|c| c.ratio.level == config.ratio.level));
            assert!(holds(&|c| c.ratio.against == config.ratio.against));
            let surrogate = config.surrogate.name();
            assert!(holds(&|c| c.surrogate.name() == surrogate));
            assert!(holds(&|c| c.reduction == config.reduction));
            for part in [
                |c: &Objective| c.kl_penalty.is_some(),
                |c: &Objective| c.entropy_bonus.is_some(),
                |c: &Objective| c.off_policy_mask.is_some(),
                |c: &Objective| c.rollout_correction.is_some(),
            ] {
                assert!(holds(&|c| part(c) == part(&config)));
            }
        }
    }
}

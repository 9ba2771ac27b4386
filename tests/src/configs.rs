//! Every shape that an objective can take.

use policy_loss::{
    Behavior, Bounds, Clip, CovarianceClip, CovariancePenalty, Divergence, DynamicClip,
    EntropyBonus, EntropyMask, Filter, FilterEstimator, FilterLevel, FutureGuard, FutureWeight,
    GammaWeight, GeometricMean, GradientPreservingClip, KlBase, KlEstimator, KlGradient, KlPenalty,
    MissingRolloutLogProbs, OffPolicyMask, PolicyGradient, PolicyLossConfig, Preset, Ratio,
    Reduction, RolloutCorrection, RolloutWeight, SecondMomentClip, SecondMomentMask, SigmoidGate,
    Surrogate, TrustRegion, WeightLevel, presets,
};

use policy_loss_oracle::dividing_filter;

use crate::busy::busy;

/// The clip with everything that it goes together with, and then every other part at least once:
/// ratios, surrogates, corrections, penalties, bonus and reductions.
pub fn all() -> Vec<PolicyLossConfig> {
    let mut configs = clips();
    configs.extend(surrogates());
    configs.extend(ratios());
    configs.extend(corrections());
    configs.extend(penalties());
    configs.extend(future_weights());
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

/// Every surrogate with its defaults, and the forms that it can take; the reductions in turn.
fn surrogates() -> Vec<PolicyLossConfig> {
    let forms: [Surrogate; 22] = [
        DynamicClip::new(0.02, 0.03).into(),
        DynamicClip::new(0.05, 0.1).with_max_ratio(1.3).into(),
        GradientPreservingClip::new(0.1, 0.1, 0.75, 0.5).into(),
        PolicyGradient::weighted_within(Bounds::new(0.8, 1.28)).into(),
        Clip::new(0.2, 0.28).with_delta(1.5).into(),
        Clip::new(0.2, 0.4).with_delta(1.4).into(),
        PolicyGradient::weighted(Bounds::at_most(1.28)).into(),
        PolicyGradient::weighted(Bounds::new(0.8, 1.28)).into(),
        PolicyGradient::weighted(UP_TO_ONE).into(),
        PolicyGradient::weighted_where_negative(UP_TO_ONE).into(),
        PolicyGradient::weighted_where_negative(Bounds::new(0.7, 1.3)).into(),
        GeometricMean::new(0.2, 0.3).into(),
        TrustRegion::new(Divergence::Kl, 0.05, 0.1).into(),
        TrustRegion::new(Divergence::SymmetricTotalVariation, 0.05, 0.1).into(),
        TrustRegion::new(Divergence::TotalVariation, 0.05, 0.1)
            .of_ratio()
            .into(),
        TrustRegion::new(Divergence::Kl, 0.05, 0.1)
            .of_ratio()
            .into(),
        TrustRegion {
            max_ratio: 1.2,
            ..TrustRegion::new(Divergence::SymmetricTotalVariation, 0.2, 0.3).of_ratio()
        }
        .into(),
        SigmoidGate::new(3.0, 8.0).into(),
        covariance_clip().into(),
        SecondMomentMask::new(0.2).into(),
        SecondMomentClip::new(0.1, 0.0, 0.0).into(),
        SecondMomentClip::new(0.1, 0.25, 0.05).into(),
    ];
    let reductions = Reduction::all(9).into_iter().cycle();
    let surrogates = Surrogate::defaults().into_iter().chain(forms);
    let config = |(surrogate, reduction): (Surrogate, Reduction)| {
        PolicyLossConfig::new()
            .with_surrogate(surrogate)
            .with_reduction(reduction)
    };
    surrogates.zip(reductions).map(config).collect()
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
        clip(Ratio::SEQUENCE).with_surrogate(SigmoidGate::default()),
        clip(Ratio::SEGMENT),
        clip(Ratio::SEGMENT.against(Behavior::Rollout)).with_reduction(Reduction::SequenceMean),
        clip(Ratio::SEGMENT).with_surrogate(SigmoidGate::default()),
        clip(Ratio::SEGMENT)
            .with_kl_penalty(KlPenalty::new(0.1).with_gradient(KlGradient::ImportanceCorrected)),
        clip(Ratio::SEQUENCE).with_surrogate(GradientPreservingClip::new(0.05, 0.05, 0.5, 0.7)),
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
    let batch = busy(0).oracle_batch();
    let of_level = |level| {
        FilterEstimator::ALL.map(|estimator| {
            let filter = dividing_filter(level, estimator, &batch);
            corrected(RolloutCorrection::filter(filter))
        })
    };
    FilterLevel::ALL.map(of_level).concat()
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
                .with_filter(max_k2()),
        ),
        corrected(
            RolloutCorrection::weigh(RolloutWeight::mask(Bounds::at_least(0.4)))
                .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.3))),
        ),
        corrected(RolloutCorrection::filter(sum_k1()).with_veto(0.31)),
        corrected(RolloutCorrection::weigh(RolloutWeight::raw()).with_veto(0.31)),
        corrected(RolloutCorrection::filter(Filter::new(
            FilterLevel::Token,
            FilterEstimator::Difference,
            Bounds::new(-0.1, 0.1),
        ))),
        corrected(
            RolloutCorrection::weigh(RolloutWeight::mask(Bounds::new(0.3, 3.0)))
                .with_filter(Filter::new(
                    FilterLevel::SequenceMean,
                    FilterEstimator::RatioDistance,
                    Bounds::at_most(0.3),
                ))
                .with_filter(Filter::token_k1(Bounds::new(0.4, 3.0)))
                .with_only_moving_away(),
        ),
        corrected(
            RolloutCorrection::weigh(truncate)
                .with_veto(0.31)
                .with_only_moving_away(),
        )
        .with_surrogate(GeometricMean::default()),
        corrected(RolloutCorrection::weigh(truncate))
            .with_missing_rollout_log_probs(MissingRolloutLogProbs::Drop),
        corrected(RolloutCorrection::filter(Filter::new(
            FilterLevel::SequenceMax,
            FilterEstimator::K1,
            Bounds::at_most(3.0),
        )))
        .with_surrogate(GeometricMean::default()),
    ]
}

/// Weights by what is behind a token: each setting, and then other parts beside them.
fn future_weights() -> Vec<PolicyLossConfig> {
    let new = PolicyLossConfig::new;
    let guard = FutureGuard {
        ratio: 1.1,
        bounds: Bounds::new(0.7, 0.9),
    };
    let bounded = FutureWeight::new(0.8).with_bounds(Bounds::new(0.8, 1.1));
    vec![
        new().with_future_weight(FutureWeight::default()),
        new().with_future_weight(FutureWeight::new(0.0).with_bounds(Bounds::at_most(1.3))),
        new().with_future_weight(FutureWeight::new(1.0).with_guard(guard)),
        new()
            .with_surrogate(Clip::new(0.2, 0.28).with_delta(1.5))
            .with_future_weight(bounded.with_guard(guard).with_max_ratio(1.5)),
        new()
            .with_ratio(Ratio::SEQUENCE.against(Behavior::Rollout))
            .with_future_weight(bounded.with_guard(guard))
            .with_reduction(Reduction::SequenceMean),
        new()
            .with_surrogate(GeometricMean::default())
            .with_future_weight(bounded)
            .with_off_policy_mask(OffPolicyMask::new(0.1)),
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
        new().with_kl_penalty(penalty.with_gradient(KlGradient::ScoreFunction)),
        new().with_kl_penalty(
            penalty
                .with_estimator(KlEstimator::K1)
                .with_gradient(KlGradient::ScoreFunction)
                .with_max_log_ratio(0.45),
        ),
        new().with_kl_penalty(
            penalty
                .with_gradient(straight_through)
                .with_max_divergence(0.11),
        ),
        new().with_kl_penalty(
            penalty
                .with_estimator(KlEstimator::K2)
                .with_gradient(importance_corrected)
                .with_max_log_ratio(0.6)
                .with_max_divergence(0.1),
        ),
        new().with_kl_penalty(penalty.against(KlBase::Rollout)),
        Preset::PrimeRlIpo.config(),
        new()
            .with_ratio(Ratio::SEQUENCE)
            .with_kl_penalty(penalty.with_gradient(importance_corrected)),
        new().with_entropy_bonus(EntropyBonus::new(0.01)),
        new().with_off_policy_mask(mask),
        new().with_entropy_mask(EntropyMask::new(0.5)),
        new()
            .with_entropy_mask(EntropyMask::new(0.3))
            .with_entropy_bonus(EntropyBonus::new(0.05))
            .with_reduction(Reduction::SequenceMean),
        new()
            .with_surrogate(GeometricMean::default())
            .with_entropy_mask(EntropyMask::new(0.7)),
    ]
}

/// Each surrogate together with parts of every other kind.
fn combinations() -> Vec<PolicyLossConfig> {
    let new = PolicyLossConfig::new;
    let with = |surrogate: Surrogate| new().with_surrogate(surrogate);
    let penalty = KlPenalty::new(0.1);
    let range = Bounds::new(0.5, 2.0);
    let truncate = RolloutWeight::truncate(range);
    let mut combinations = vec![
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
        with(GeometricMean::default().into())
            .with_rollout_correction(RolloutCorrection::filter(sum_k1()).with_veto(0.31)),
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
                    .with_filter(max_k2())
                    .with_veto(0.31),
            ),
        with(TrustRegion::new(Divergence::Kl, 0.05, 0.1).into())
            .with_entropy_bonus(EntropyBonus::new(0.05)),
        with(covariance_clip().into()).with_kl_penalty(penalty),
        with(Clip::new(0.1, 0.2).into())
            .with_ratio(Ratio::SEGMENT)
            .with_rollout_correction(presets::tis(0.5, 2.0).with_filter(Filter::new(
                FilterLevel::SegmentMean,
                FilterEstimator::K3,
                Bounds::at_most(0.1),
            )))
            .with_off_policy_mask(OffPolicyMask::new(0.1))
            .with_kl_penalty(penalty.with_gradient(KlGradient::ImportanceCorrected))
            .with_entropy_bonus(EntropyBonus::new(0.05)),
        with(GeometricMean::default().into())
            .with_future_weight(FutureWeight::new(0.9).with_bounds(Bounds::new(0.8, 1.2))),
        new()
            .with_future_weight(FutureWeight::new(0.9).with_bounds(Bounds::new(0.8, 1.2)))
            .with_entropy_mask(EntropyMask::new(0.4))
            .with_kl_penalty(penalty)
            .with_entropy_bonus(EntropyBonus::new(0.05))
            .with_rollout_correction(presets::tis(0.5, 2.0)),
        new()
            .with_entropy_mask(EntropyMask::new(0.4))
            .with_kl_penalty(penalty)
            .with_rollout_correction(presets::tis(0.5, 2.0)),
        with(COVARIANCE_PENALTY.into()).with_rollout_correction(
            RolloutCorrection::weigh(RolloutWeight::mask(range)).with_filter(max_k2()),
        ),
    ];
    // Whatever is not above.
    for surrogate in Surrogate::defaults() {
        let is_above = |it: &PolicyLossConfig| it.objective.surrogate.name() == surrogate.name();
        if !combinations.iter().any(is_above) {
            let correction =
                RolloutCorrection::weigh(truncate).with_filter(Filter::token_k1(range));
            let config = with(surrogate).with_kl_penalty(penalty.with_estimator(KlEstimator::K2));
            combinations.push(config.with_rollout_correction(correction));
        }
    }
    for reduction in Reduction::all(9) {
        let is_above = |it: &PolicyLossConfig| it.objective.reduction == reduction;
        if !combinations.iter().any(is_above) {
            combinations.push(new().with_kl_penalty(penalty).with_reduction(reduction));
        }
    }
    combinations
}

fn sum_k1() -> Filter {
    let bounds = Bounds::new(0.1, 10.0);
    Filter::new(FilterLevel::SequenceSum, FilterEstimator::K1, bounds)
}

fn max_k2() -> Filter {
    let bounds = Bounds::at_most(0.8);
    Filter::new(FilterLevel::SequenceMax, FilterEstimator::K2, bounds)
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
                |c: &Objective| c.entropy_mask.is_some(),
                |c: &Objective| c.future_weight.is_some(),
                |c: &Objective| c.rollout_correction.is_some(),
                |c: &Objective| {
                    c.rollout_correction
                        .is_some_and(|it| it.filters.of_segments())
                },
            ] {
                assert!(holds(&|c| part(c) == part(&config)));
            }
        }
    }
}

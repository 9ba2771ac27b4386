//! Objectives in which much comes together.

use policy_loss::{
    Behavior, Bounds, Cispo, Clip, ClipCov, Divergence, Dppo, EntropyBonus, Filter,
    FilterEstimator, FilterLevel, GeometricMean, KlCov, KlEstimator, KlGradient, KlPenalty,
    OffPolicyMask, PolicyLossConfig, Ratio, Reduction, Reinforce, RolloutCorrection, RolloutWeight,
    Sapo, SquaredLogRatio, Surrogate, Topr, TruncatedImportance, Vespo, WeightLevel,
};

/// Each surrogate together with parts of every other kind.
pub fn combinations() -> Vec<PolicyLossConfig> {
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
            .with_rollout_correction(RolloutCorrection::icepop(0.5, 2.0))
            .with_kl_penalty(penalty.with_gradient(KlGradient::ImportanceCorrected))
            .with_entropy_bonus(EntropyBonus::new(0.05))
            .with_reduction(Reduction::SequenceMean),
        with(Cispo::new(1.28).with_min(0.8).into())
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_reduction(Reduction::FixedLength { length: 9 }),
        with(Sapo::default().into())
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
        with(Reinforce::default().into()).with_rollout_correction(RolloutCorrection::weigh(
            RolloutWeight::raw().of_level(WeightLevel::Geometric),
        )),
        with(TruncatedImportance::default().into())
            .with_rollout_correction(
                RolloutCorrection::weigh(truncate.of_level(WeightLevel::Sequence))
                    .with_normalization()
                    .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.3))),
            )
            .with_reduction(Reduction::TokenSum),
        with(Topr::default().into()).with_kl_penalty(
            penalty
                .with_estimator(KlEstimator::K1)
                .with_gradient(KlGradient::StraightThrough),
        ),
        with(Vespo::default().into())
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
        with(Dppo::new(Divergence::Kl, 0.05, 0.1).into())
            .with_entropy_bonus(EntropyBonus::new(0.05)),
        with(
            ClipCov {
                share: 0.15,
                min_covariance: 0.1,
                max_covariance: 3.0,
                seed: 7,
                ..ClipCov::default()
            }
            .into(),
        )
        .with_kl_penalty(penalty),
        with(
            KlCov {
                share: 0.2,
                coefficient: 0.7,
            }
            .into(),
        )
        .with_rollout_correction(
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

//! Every shape that a configuration can take.

use crate::combinations::combinations;
use crate::corrections::corrections;
use policy_loss::{
    Behavior, Cispo, Clip, ClipCov, Divergence, Dppo, EntropyBonus, GeometricMean, KlCov,
    KlEstimator, KlGradient, KlPenalty, OffPolicyMask, PolicyLossConfig, Ratio, Reduction,
    Reinforce, RolloutCorrection, Sapo, SquaredLogRatio, Surrogate, Topr, TruncatedImportance,
    Vespo,
};

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
                    Some(RolloutCorrection::tis(low, high)),
                    Some(RolloutCorrection::icepop(low, high)),
                    Some(RolloutCorrection::seq_mask_tis(low, high)),
                ];
                configs.extend(named.map(|c| config.with_rollout_correction(c)));
                configs.push(config.with_ratio(ratio.against(Behavior::Rollout)));
            }
        }
    }
    configs
}

/// Every surrogate but the plain clip, with the reductions in turn.
fn surrogates() -> Vec<PolicyLossConfig> {
    let fixed_length = Reduction::FixedLength { length: 9 };
    let surrogates: [(Surrogate, Reduction); 15] = [
        (
            Clip::new(0.2, 0.28).with_delta(1.5).into(),
            Reduction::SequenceMean,
        ),
        (Clip::new(0.2, 0.4).with_delta(1.4).into(), fixed_length),
        (Cispo::new(1.28).into(), Reduction::TokenMean),
        (
            Cispo::new(1.28).with_min(0.8).into(),
            Reduction::SequenceSumMean,
        ),
        (Sapo::default().into(), Reduction::SequenceMean),
        (GeometricMean::default().into(), Reduction::SequenceMean),
        (GeometricMean::new(0.2, 0.3).into(), Reduction::TokenMean),
        (Reinforce::default().into(), Reduction::SequenceSumMean),
        (TruncatedImportance::default().into(), Reduction::TokenSum),
        (Topr::default().into(), Reduction::TokenMean),
        (Vespo::default().into(), Reduction::TokenMean),
        (Dppo::default().into(), Reduction::TokenMean),
        (Dppo::new(Divergence::Kl, 0.05, 0.1).into(), fixed_length),
        (
            ClipCov {
                share: 0.15,
                min_covariance: 0.1,
                max_covariance: 3.0,
                seed: 7,
                ..ClipCov::default()
            }
            .into(),
            Reduction::TokenMean,
        ),
        (
            KlCov {
                share: 0.2,
                coefficient: 0.7,
            }
            .into(),
            Reduction::SequenceMean,
        ),
    ];
    let mut configs: Vec<_> = surrogates
        .into_iter()
        .map(|(surrogate, reduction)| {
            PolicyLossConfig::new()
                .with_surrogate(surrogate)
                .with_reduction(reduction)
        })
        .collect();
    configs.push(PolicyLossConfig::new().with_surrogate(SquaredLogRatio::default()));
    configs
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
        clip(Ratio::SEQUENCE).with_surrogate(Sapo::default()),
        PolicyLossConfig::new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_surrogate(Cispo::default()),
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

/// Whether some part of the objective is a constant that moves with `log_probs`, so that the
/// gradient is not the slope of the loss.
pub fn stops_gradients(config: &PolicyLossConfig) -> bool {
    let straight_through = |penalty: KlPenalty| penalty.gradient == KlGradient::StraightThrough;
    let weighs_log_probs = !matches!(
        config.surrogate,
        Surrogate::Clip(_)
            | Surrogate::Sapo(_)
            | Surrogate::GeometricMean(_)
            | Surrogate::Reinforce(_)
            | Surrogate::SquaredLogRatio(_)
    );
    weighs_log_probs
        || config.ratio.level == policy_loss::RatioLevel::SequenceToken
        || config.kl_penalty.is_some_and(straight_through)
}

/// One line for failure messages.
pub fn describe(config: &PolicyLossConfig) -> String {
    serde_json::to_string(config).expect("a configuration can be serialized")
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn covering_holds_every_kind_of_setting() {
        let covering = covering();
        for config in all() {
            let holds = |same: &dyn Fn(&PolicyLossConfig) -> bool| covering.iter().any(same);
            assert!(holds(&|c| c.ratio.level == config.ratio.level));
            assert!(holds(&|c| c.ratio.against == config.ratio.against));
            let surrogate = discriminant(&config.surrogate);
            assert!(holds(&|c| discriminant(&c.surrogate) == surrogate));
            assert!(holds(&|c| c.reduction == config.reduction));
            for part in [
                |c: &PolicyLossConfig| c.kl_penalty.is_some(),
                |c: &PolicyLossConfig| c.entropy_bonus.is_some(),
                |c: &PolicyLossConfig| c.off_policy_mask.is_some(),
                |c: &PolicyLossConfig| c.rollout_correction.is_some(),
            ] {
                assert!(holds(&|c| part(c) == part(&config)));
            }
        }
    }
}

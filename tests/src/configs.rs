//! Every shape that a configuration can take.

use policy_loss::{Behavior, Clip, PolicyLossConfig, Ratio, Reduction, RolloutCorrection};

/// Ratio (level and base), with and without dual clip, every rollout correction where it has a
/// meaning, both reductions.
pub fn all() -> Vec<PolicyLossConfig> {
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
                configs.extend(corrections().map(|c| config.with_rollout_correction(c)));
                configs.push(config.with_ratio(ratio.against(Behavior::Rollout)));
            }
        }
    }
    configs
}

/// A part of [`all`] in which every setting still occurs, for devices that take long.
pub fn covering() -> Vec<PolicyLossConfig> {
    let all = all();
    [0, 16, 12, 28, 9, 39].map(|index| all[index]).to_vec()
}

fn corrections() -> impl Iterator<Item = Option<RolloutCorrection>> {
    let (low, high) = (0.5, 2.0);
    [
        None,
        Some(RolloutCorrection::Truncate { low, high }),
        Some(RolloutCorrection::Mask { low, high }),
        Some(RolloutCorrection::SequenceMask { low, high }),
    ]
    .into_iter()
}

/// One line for failure messages.
pub fn describe(config: &PolicyLossConfig) -> String {
    serde_json::to_string(config).expect("a configuration can be serialized")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_holds_every_setting() {
        let covering = covering();
        for config in all() {
            let holds = |same: &dyn Fn(&PolicyLossConfig) -> bool| covering.iter().any(same);
            assert!(holds(&|c| c.ratio == config.ratio));
            assert!(holds(&|c| c.surrogate == config.surrogate));
            assert!(holds(&|c| c.rollout_correction == config.rollout_correction));
            assert!(holds(&|c| c.reduction == config.reduction));
        }
    }
}

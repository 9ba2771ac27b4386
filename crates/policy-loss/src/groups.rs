//! Which metrics an objective has.

use crate::PolicyLossConfig;

/// Which of the metrics that not every objective has are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Groups {
    pub rollout_correction: bool,
    pub off_policy_mask: bool,
    pub kl_penalty: bool,
    pub entropy_bonus: bool,
}

impl Groups {
    pub fn of(config: &PolicyLossConfig) -> Self {
        Self {
            rollout_correction: config.rollout_correction.is_some(),
            off_policy_mask: config.off_policy_mask.is_some(),
            kl_penalty: config.kl_penalty.is_some(),
            entropy_bonus: config.entropy_bonus.is_some(),
        }
    }
}

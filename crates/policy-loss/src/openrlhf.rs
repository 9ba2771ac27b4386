//! The arguments of OpenRLHF's `PolicyLoss`, name by name.

use policy_loss_kernels::objective::check::{above_one, positive};
use serde::{Deserialize, Serialize};

use crate::presets::{icepop, seq_mask_tis, tis};
use crate::{
    Behavior, Bounds, Clip, ConfigError, PolicyLossConfig, Ratio, Reduction, RolloutCorrection,
};

/// The constructor of OpenRLHF's `PolicyLoss`: the same names, the same defaults.
///
/// It converts into a [`PolicyLossConfig`], which is what computes:
///
/// ```
/// use policy_loss::{OpenRlhfPolicyLoss, PolicyLossConfig};
///
/// let arguments: OpenRlhfPolicyLoss =
///     serde_json::from_str(r#"{ "clip_eps_high": 0.28, "dual_clip": 3.0 }"#)?;
/// let config = PolicyLossConfig::try_from(arguments)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As there, `"gspo"` means the sequence ratio with the sequence mean, whatever
/// `token_level_loss` says, and with the correction enabled its ratio is taken against the
/// rollout policy and no further weight applies (the thresholds are checked all the same).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenRlhfPolicyLoss {
    /// The lower bound of the ratio is `1 - clip_eps_low`.
    pub clip_eps_low: f64,
    /// The upper bound of the ratio is `1 + clip_eps_high`.
    pub clip_eps_high: f64,
    /// For `A < 0` the surrogate is bounded below by `dual_clip * A`.
    pub dual_clip: Option<f64>,
    /// Token mean, or mean of the sequences' token means.
    pub token_level_loss: bool,
    /// `"ppo"` or `"gspo"`.
    pub policy_loss_type: String,
    /// Correct for the mismatch between sampler and trainer.
    #[doc(alias = "enable_rollout_is_correction")]
    pub enable_vllm_is_correction: bool,
    /// `[low, high]` of the correction.
    pub vllm_is_truncated_threshold: Option<[f64; 2]>,
    /// `"tis"`, `"icepop"` or `"seq-mask-tis"`.
    pub vllm_is_correction_type: String,
}

impl Default for OpenRlhfPolicyLoss {
    fn default() -> Self {
        Self {
            clip_eps_low: 0.2,
            clip_eps_high: 0.2,
            dual_clip: None,
            token_level_loss: true,
            policy_loss_type: "ppo".into(),
            enable_vllm_is_correction: false,
            vllm_is_truncated_threshold: None,
            vllm_is_correction_type: "tis".into(),
        }
    }
}

impl TryFrom<OpenRlhfPolicyLoss> for PolicyLossConfig {
    type Error = ConfigError;

    fn try_from(arguments: OpenRlhfPolicyLoss) -> Result<Self, ConfigError> {
        let clip = Clip {
            low: arguments.clip_eps_low,
            high: arguments.clip_eps_high,
            dual_clip: arguments.dual_clip,
            delta: None,
        };
        // Checked here too, so that the error names the argument by the name it was given.
        positive("clip_eps_low", clip.low)?;
        positive("clip_eps_high", clip.high)?;
        above_one("dual_clip", clip.dual_clip)?;
        let correction = correction(&arguments)?;
        let (ratio, correction, reduction) = match arguments.policy_loss_type.as_str() {
            "ppo" => {
                let reduction = match arguments.token_level_loss {
                    true => Reduction::TokenMean,
                    false => Reduction::SequenceMean,
                };
                (Ratio::TOKEN, correction, reduction)
            }
            "gspo" => {
                let against = match correction {
                    None => Behavior::Old,
                    Some(_) => Behavior::Rollout,
                };
                (
                    Ratio::SEQUENCE.against(against),
                    None,
                    Reduction::SequenceMean,
                )
            }
            other => {
                return Err(ConfigError::UnknownName {
                    field: "policy_loss_type",
                    value: other.into(),
                    accepted: "\"ppo\", \"gspo\"".into(),
                });
            }
        };
        let config = Self::new()
            .with_ratio(ratio)
            .with_surrogate(clip)
            .with_rollout_correction(correction)
            .with_reduction(reduction);
        config.validate()?;
        Ok(config)
    }
}

fn correction(arguments: &OpenRlhfPolicyLoss) -> Result<Option<RolloutCorrection>, ConfigError> {
    let kind: fn(f64, f64) -> RolloutCorrection = match arguments.vllm_is_correction_type.as_str() {
        "tis" => tis,
        "icepop" => icepop,
        "seq-mask-tis" => seq_mask_tis,
        other => {
            return Err(ConfigError::UnknownName {
                field: "vllm_is_correction_type",
                value: other.into(),
                accepted: "\"tis\", \"icepop\", \"seq-mask-tis\"".into(),
            });
        }
    };
    // Thresholds are checked even where nothing reads them: a wrong value is never silent.
    if let Some([low, high]) = arguments.vllm_is_truncated_threshold {
        Bounds::new(low, high).validate([
            "vllm_is_truncated_threshold[0]",
            "vllm_is_truncated_threshold[1]",
        ])?;
    }
    match (
        arguments.enable_vllm_is_correction,
        arguments.vllm_is_truncated_threshold,
    ) {
        (false, _) => Ok(None),
        (true, Some([low, high])) => Ok(Some(kind(low, high))),
        (true, None) => Err(ConfigError::Missing {
            field: "vllm_is_truncated_threshold",
            needed_by: "enable_vllm_is_correction",
            accepted: "[low, high], both finite and above 0, low <= high",
        }),
    }
}

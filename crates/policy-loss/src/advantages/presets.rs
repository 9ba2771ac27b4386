//! Named advantage estimators: nothing but values of [`AdvantageEstimatorConfig`].

use std::fmt;
use std::str::FromStr;

use super::{
    AdvantageEstimatorConfig, Among, Deviation, GeneralizedAdvantage, GroupBaseline, GroupRelative,
    MeanScale, ReturnToGo, SingleScore, TokenBaseline, Whitening,
};
use crate::ConfigError;

/// An advantage estimator by the name that its paper gave it.
///
/// ```
/// use policy_loss::AdvantagePreset;
///
/// let estimator = AdvantagePreset::Rloo.config().init()?;
/// assert_eq!("rloo".parse::<AdvantagePreset>()?, AdvantagePreset::Rloo);
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdvantagePreset {
    /// Generalised advantage estimation, gamma 1, lambda 0.95, whitened
    /// ([arXiv 1506.02438](https://arxiv.org/abs/1506.02438)).
    Gae,
    /// `(s - group mean) / (group deviation + 1e-6)`
    /// ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300)).
    Grpo,
    /// `s - group mean` ([arXiv 2503.20783](https://arxiv.org/abs/2503.20783)).
    DrGrpo,
    /// `s - mean of the others` ([arXiv 2402.14740](https://arxiv.org/abs/2402.14740)).
    Rloo,
    /// The whitened return, gamma 1 ([arXiv 2501.03262](https://arxiv.org/abs/2501.03262)).
    ReinforcePlusPlus,
    /// `s - group mean`, whitened over the batch
    /// ([arXiv 2501.03262](https://arxiv.org/abs/2501.03262)).
    ReinforcePlusPlusBaseline,
    /// The return minus the reward of the greedy answer
    /// ([arXiv 2310.10505](https://arxiv.org/abs/2310.10505)).
    Remax,
    /// `s - group mean weighted by length` ([arXiv 2505.23585](https://arxiv.org/abs/2505.23585)).
    Opo,
    /// `(s - group mean) * B / number of scores that are not 0`
    /// ([arXiv 2504.02546](https://arxiv.org/abs/2504.02546)).
    Gpg,
    /// `(best - second best) / (group deviation + 1e-6)` for the best of a group, 0 for the others
    /// ([arXiv 2503.19595](https://arxiv.org/abs/2503.19595)).
    PassAtK,
    /// MaxRL, `(s - group mean) / (group mean + 1e-6)`, as SkyRL computes it: a group of one keeps
    /// its score ([arXiv 2602.02710](https://arxiv.org/abs/2602.02710)).
    SkyrlMaxrl,
    /// MaxRL, `(s - group mean) / group mean`, as prime-rl computes it: a group of one gets 0
    /// ([arXiv 2602.02710](https://arxiv.org/abs/2602.02710)).
    PrimeRlMaxrl,
    /// GRPO as NeMo-RL computes it: `(s - mean of the others) / (deviation of the others + 1e-6)`,
    /// undivided where that deviation is 0; a group of one gets 0
    /// ([NeMo-RL](https://github.com/NVIDIA-NeMo/RL)).
    NemoRlGrpo,
    /// GRPO with TRL's `scale_rewards = "batch"`: `(s - group mean) / (batch deviation + 1e-4)`
    /// ([arXiv 2508.08221](https://arxiv.org/abs/2508.08221)).
    TrlGrpoBatch,
    /// GDPO, `(s - group mean) / (group deviation + 1e-6)` of each kind of reward by itself
    /// ([`with_more_rewards`](crate::AdvantageBatch::with_more_rewards)), added up and whitened over
    /// the tokens of the batch, as verl does ([arXiv 2601.05242](https://arxiv.org/abs/2601.05242)).
    Gdpo,
    /// Generalised advantage estimation with gamma 1, a lambda of `1 - 1 / (0.05 length)` for the
    /// policy and of 1 for the returns ([arXiv 2504.05118](https://arxiv.org/abs/2504.05118)).
    Vapo,
    /// The return minus the baseline of each token that leaves the least variance, gamma 1, as in verl
    /// ([arXiv 2602.07078](https://arxiv.org/abs/2602.07078)).
    OptimalTokenBaseline,
}

impl AdvantagePreset {
    /// Every preset, in the order of the documentation.
    pub const ALL: [Self; 17] = [
        Self::Gae,
        Self::Grpo,
        Self::DrGrpo,
        Self::Rloo,
        Self::ReinforcePlusPlus,
        Self::ReinforcePlusPlusBaseline,
        Self::Remax,
        Self::Opo,
        Self::Gpg,
        Self::PassAtK,
        Self::SkyrlMaxrl,
        Self::PrimeRlMaxrl,
        Self::NemoRlGrpo,
        Self::TrlGrpoBatch,
        Self::Gdpo,
        Self::Vapo,
        Self::OptimalTokenBaseline,
    ];

    /// The name that [`FromStr`] reads and [`Display`](fmt::Display) writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gae => "gae",
            Self::Grpo => "grpo",
            Self::DrGrpo => "dr_grpo",
            Self::Rloo => "rloo",
            Self::ReinforcePlusPlus => "reinforce_plus_plus",
            Self::ReinforcePlusPlusBaseline => "reinforce_plus_plus_baseline",
            Self::Remax => "remax",
            Self::Opo => "opo",
            Self::Gpg => "gpg",
            Self::PassAtK => "pass_at_k",
            Self::SkyrlMaxrl => "skyrl_maxrl",
            Self::PrimeRlMaxrl => "prime_rl_maxrl",
            Self::NemoRlGrpo => "nemo_rl_grpo",
            Self::TrlGrpoBatch => "trl_grpo_batch",
            Self::Gdpo => "gdpo",
            Self::Vapo => "vapo",
            Self::OptimalTokenBaseline => "optimal_token_baseline",
        }
    }

    /// The configuration that the name stands for.
    pub fn config(self) -> AdvantageEstimatorConfig {
        let whitening = Whitening::new();
        let mean = GroupRelative::new(GroupBaseline::Mean);
        match self {
            Self::Gae => GeneralizedAdvantage::default()
                .with_whitening(whitening)
                .into(),
            Self::Grpo => mean.with_deviation(Deviation::default()).into(),
            Self::DrGrpo => mean.into(),
            Self::Rloo => GroupRelative::new(GroupBaseline::LeaveOneOut).into(),
            Self::ReinforcePlusPlus => ReturnToGo::new(1.0).with_whitening(whitening).into(),
            Self::ReinforcePlusPlusBaseline => mean.with_whitening(whitening).into(),
            Self::Remax => ReturnToGo::new(1.0).with_subtract_baseline(true).into(),
            Self::Opo => GroupRelative::new(GroupBaseline::LengthWeighted).into(),
            Self::Gpg => mean.with_active_share(true).into(),
            Self::PassAtK => GroupRelative::new(GroupBaseline::BestOther)
                .with_deviation(Deviation::default())
                .into(),
            Self::SkyrlMaxrl => mean.with_mean_scale(MeanScale::default()).into(),
            Self::PrimeRlMaxrl => mean
                .with_mean_scale(MeanScale { epsilon: 0.0 })
                .with_single(SingleScore::Zero)
                .into(),
            Self::NemoRlGrpo => GroupRelative::new(GroupBaseline::LeaveOneOut)
                .with_deviation(Deviation::of(Among::Others))
                .with_single(SingleScore::Zero)
                .into(),
            Self::TrlGrpoBatch => mean
                .with_deviation(Deviation {
                    among: Among::Batch,
                    epsilon: 1e-4,
                })
                .with_single(SingleScore::Zero)
                .into(),
            Self::Gdpo => mean
                .with_deviation(Deviation::default())
                .with_whitening(whitening)
                .into(),
            Self::Vapo => GeneralizedAdvantage::default()
                .with_length_adaptive(0.05)
                .with_return_lambda(1.0)
                .into(),
            Self::OptimalTokenBaseline => ReturnToGo::new(1.0)
                .with_token_baseline(TokenBaseline::new())
                .into(),
        }
    }
}

impl fmt::Display for AdvantagePreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AdvantagePreset {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| ConfigError::UnknownName {
                field: "advantage_preset",
                value: name.into(),
                accepted: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// Declares a constructor for each preset.
macro_rules! constructors {
    ($($name:ident: $preset:ident,)+) => {
        impl AdvantageEstimatorConfig {
            $(#[doc = concat!("The configuration of [`AdvantagePreset::", stringify!($preset), "`].")]
            pub fn $name() -> Self {
                AdvantagePreset::$preset.config()
            })+
        }
    };
}

constructors! {
    gae: Gae,
    grpo: Grpo,
    dr_grpo: DrGrpo,
    rloo: Rloo,
    reinforce_plus_plus: ReinforcePlusPlus,
    reinforce_plus_plus_baseline: ReinforcePlusPlusBaseline,
    remax: Remax,
    opo: Opo,
    gpg: Gpg,
    pass_at_k: PassAtK,
    skyrl_maxrl: SkyrlMaxrl,
    prime_rl_maxrl: PrimeRlMaxrl,
    nemo_rl_grpo: NemoRlGrpo,
    trl_grpo_batch: TrlGrpoBatch,
    gdpo: Gdpo,
    vapo: Vapo,
    optimal_token_baseline: OptimalTokenBaseline,
}

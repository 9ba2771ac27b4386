//! Named algorithms: nothing but values of [`PolicyLossConfig`].

use std::fmt;
use std::str::FromStr;

use crate::{
    Bounds, Clip, ConfigError, Filter, PolicyLossConfig, Ratio, Reduction, RolloutCorrection,
    RolloutWeight,
};

/// An algorithm by the name that its paper gave it.
///
/// ```
/// use policy_loss::Preset;
///
/// let loss = Preset::Dapo.config().init()?;
/// assert_eq!("dapo".parse::<Preset>()?, Preset::Dapo);
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// Token ratio, clip 0.2 / 0.2, token mean
    /// ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347)).
    Ppo,
    /// PPO with a dual clip of 3 ([arXiv 1912.09729](https://arxiv.org/abs/1912.09729)).
    DualClipPpo,
    /// Token ratio, clip 0.2 / 0.2, mean of the sequences' token means
    /// ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300)).
    Grpo,
    /// Clip-higher: clip 0.2 / 0.28, token mean
    /// ([arXiv 2503.14476](https://arxiv.org/abs/2503.14476)).
    Dapo,
    /// Sequence ratio, clip 3e-4 / 4e-4, sequence mean
    /// ([arXiv 2507.18071](https://arxiv.org/abs/2507.18071)).
    Gspo,
}

impl Preset {
    /// Every preset, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::Ppo,
        Self::DualClipPpo,
        Self::Grpo,
        Self::Dapo,
        Self::Gspo,
    ];

    /// The name that [`FromStr`] reads and [`Display`](fmt::Display) writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ppo => "ppo",
            Self::DualClipPpo => "dual_clip_ppo",
            Self::Grpo => "grpo",
            Self::Dapo => "dapo",
            Self::Gspo => "gspo",
        }
    }

    /// The configuration that the name stands for.
    pub fn config(self) -> PolicyLossConfig {
        let clip = |low, high| PolicyLossConfig::new().with_surrogate(Clip::new(low, high));
        match self {
            Self::Ppo => clip(0.2, 0.2),
            Self::DualClipPpo => {
                PolicyLossConfig::new().with_surrogate(Clip::new(0.2, 0.2).with_dual_clip(3.0))
            }
            Self::Grpo => clip(0.2, 0.2).with_reduction(Reduction::SequenceMean),
            Self::Dapo => clip(0.2, 0.28),
            Self::Gspo => clip(3e-4, 4e-4)
                .with_ratio(Ratio::SEQUENCE)
                .with_reduction(Reduction::SequenceMean),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| ConfigError::UnknownName {
                field: "preset",
                value: name.into(),
                accepted: Self::ALL.map(Self::name).join(", "),
            })
    }
}

impl PolicyLossConfig {
    /// The configuration of [`Preset::Ppo`].
    pub fn ppo() -> Self {
        Preset::Ppo.config()
    }

    /// The configuration of [`Preset::DualClipPpo`].
    pub fn dual_clip_ppo() -> Self {
        Preset::DualClipPpo.config()
    }

    /// The configuration of [`Preset::Grpo`].
    pub fn grpo() -> Self {
        Preset::Grpo.config()
    }

    /// The configuration of [`Preset::Dapo`].
    pub fn dapo() -> Self {
        Preset::Dapo.config()
    }

    /// The configuration of [`Preset::Gspo`].
    pub fn gspo() -> Self {
        Preset::Gspo.config()
    }
}

impl RolloutCorrection {
    /// Truncated importance sampling (TIS): `clamp(rho, low, high)` of each token.
    pub const fn tis(low: f64, high: f64) -> Self {
        Self::weigh(RolloutWeight::truncate(Bounds::new(low, high)))
    }

    /// IcePop: `rho` of each token, 0 outside of `[low, high]`.
    pub const fn icepop(low: f64, high: f64) -> Self {
        Self::weigh(RolloutWeight::mask(Bounds::new(low, high)))
    }

    /// Seq-mask-TIS: `rho` of each token of a sequence whose geometric mean lies in `[low, high]`,
    /// else 0.
    pub const fn seq_mask_tis(low: f64, high: f64) -> Self {
        Self::weigh(RolloutWeight::raw())
            .with_filter(Filter::sequence_mean_k1(Bounds::new(low, high)))
    }
}

//! Named algorithms: nothing but values of [`PolicyLossConfig`] and of [`RolloutCorrection`].
//!
//! A name without a framework in front is what its paper says. Where frameworks mean different
//! things by the same name, the name says whose it is. Outside of this module a name stands for a
//! formula, never for an algorithm.

use std::fmt;
use std::str::FromStr;

use crate::{
    Behavior, Bounds, Clip, ConfigError, CovarianceClip, CovariancePenalty, Divergence,
    DynamicClip, Filter, FilterEstimator, FilterLevel, FutureGuard, FutureWeight, GammaWeight,
    GeometricMean, GradientPreservingClip, KlBase, KlEstimator, KlPenalty, OffPolicyMask,
    PolicyGradient, PolicyLossConfig, Ratio, Reduction, RolloutCorrection, RolloutWeight,
    SecondMomentMask, SigmoidGate, SquaredLogRatio, Surrogate, TrustRegion,
};

/// Declares the presets: variant, name, formula, source and value, in the order of the
/// documentation.
macro_rules! presets {
    ($($variant:ident $name:ident, $summary:literal, $source:literal => $config:expr;)*) => {
        /// An algorithm by the name that its paper gave it, or by the name that a framework has
        /// for what it computes.
        ///
        /// ```
        /// use policy_loss::Preset;
        ///
        /// let loss = Preset::Dapo.config().init()?;
        /// assert_eq!("dapo".parse::<Preset>()?, Preset::Dapo);
        /// println!("{}: {} ({})", Preset::Dapo, Preset::Dapo.summary(), Preset::Dapo.source());
        /// # Ok::<(), policy_loss::ConfigError>(())
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Preset {
            $(
                #[doc = $summary]
                ///
                #[doc = concat!("Source: ", $source, ".")]
                $variant,
            )*
        }

        impl Preset {
            /// Every preset, in the order of the documentation.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// The name that [`FromStr`] reads and [`Display`](fmt::Display) writes.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)*
                }
            }

            /// The token loss and its reduction, on one line.
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$variant => $summary,)*
                }
            }

            /// The paper, or the framework.
            pub const fn source(self) -> &'static str {
                match self {
                    $(Self::$variant => $source,)*
                }
            }

            /// The configuration that the name stands for.
            pub fn config(self) -> PolicyLossConfig {
                match self {
                    $(Self::$variant => $config,)*
                }
            }
        }

        impl PolicyLossConfig {
            $(
                #[doc = concat!("The configuration of [`Preset::", stringify!($variant), "`]: ")]
                #[doc = $summary]
                pub fn $name() -> Self {
                    Preset::$variant.config()
                }
            )*
        }
    };
}

presets! {
    Ppo ppo, "-min(r A, clamp(r, 0.8, 1.2) A), token mean", "arXiv 1707.06347"
        => clip(0.2, 0.2);
    DualClipPpo dual_clip_ppo, "PPO, for A < 0 never above -3 A, token mean", "arXiv 1912.09729"
        => PolicyLossConfig::new().with_surrogate(Clip::new(0.2, 0.2).with_dual_clip(3.0));
    DecoupledPpo decoupled_ppo,
        "PPO against the proximal policy, times rho = exp(old - rollout), 0 above 5, token mean",
        "arXiv 2110.00641, as in AReaL, arXiv 2505.24298"
        => clip(0.2, 0.2).with_rollout_correction(RolloutCorrection::weigh(
            RolloutWeight::mask(Bounds::at_most(5.0)),
        ));
    Grpo grpo, "PPO, mean of the sequences' token means (its KL penalty is a part of its own)",
        "arXiv 2402.03300"
        => clip(0.2, 0.2).with_reduction(Reduction::SequenceMean);
    DrGrpo dr_grpo, "PPO, sum over B * length; set the length to your longest completion",
        "arXiv 2503.20783"
        => clip(0.2, 0.2).with_reduction(Reduction::FixedLength { length: 1024 });
    Dapo dapo, "-min(r A, clamp(r, 0.8, 1.28) A), token mean", "arXiv 2503.14476"
        => clip(0.2, 0.28);
    Bnpo bnpo, "PPO, mean over the tokens of the batch at hand", "TRL and Liger-Kernel"
        => clip(0.2, 0.2);
    Gspo gspo, "-min(s A, clamp(s, 1 - 3e-4, 1 + 4e-4) A), s = exp(mean d), sequence mean",
        "arXiv 2507.18071"
        => clip(3e-4, 4e-4)
            .with_ratio(Ratio::SEQUENCE)
            .with_reduction(Reduction::SequenceMean);
    GspoToken gspo_token, "GSPO with the gradient of each token's own log-prob, sequence mean",
        "arXiv 2507.18071"
        => clip(3e-4, 4e-4)
            .with_ratio(Ratio::SEQUENCE_TOKEN)
            .with_reduction(Reduction::SequenceMean);
    Luspo luspo, "GSPO times the length of each sequence: mean of the sequences' sums",
        "arXiv 2602.05261"
        => clip(3e-4, 4e-4)
            .with_ratio(Ratio::SEQUENCE)
            .with_reduction(Reduction::SequenceSumMean);
    Gmpo gmpo, "-mean(A) exp(mean of d clipped to [-0.4, 0.4] by the sign of A), sequence mean",
        "arXiv 2507.20673"
        => PolicyLossConfig::new()
            .with_surrogate(GeometricMean::default())
            .with_reduction(Reduction::SequenceMean);
    Cispo cispo, "-sg(min(r, 1.28)) A log_probs, token mean", "arXiv 2506.13585"
        => policy_gradient(Bounds::at_most(1.28));
    CeGppo ce_gppo,
        "-r A; beyond 0.8 for A < 0 and 1.28 for A > 0 the gradient is 0.5 and 1 times that bound",
        "arXiv 2509.20712"
        => PolicyLossConfig::new().with_surrogate(GradientPreservingClip::default());
    Dcpo dcpo,
        "-min(r A, clamp(r) A), bounds where r |r - 1| old_p is 0.16 and 0.2, sequence mean",
        "arXiv 2509.02333, which does not divide by the number of sequences"
        => PolicyLossConfig::new()
            .with_surrogate(DynamicClip::default())
            .with_reduction(Reduction::SequenceMean);
    Sapo sapo, "-A sigmoid(tau (r - 1)) 4 / tau, tau 1 or 1.05 by the sign of A, sequence mean",
        "arXiv 2511.20347"
        => PolicyLossConfig::new()
            .with_surrogate(SigmoidGate::default())
            .with_reduction(Reduction::SequenceMean);
    Vespo vespo, "-sg(exp(lambda + k W - lambda e^W)) A log_probs, W = sum d, token mean",
        "arXiv 2602.10693"
        => PolicyLossConfig::new().with_surrogate(GammaWeight::default());
    Reinforce reinforce, "-A log_probs, token mean", "Williams 1992"
        => PolicyLossConfig::new().with_surrogate(PolicyGradient::new());
    ReinforcePlusPlus reinforce_plus_plus,
        "PPO; what is new are its advantages, token mean", "arXiv 2501.03262"
        => clip(0.2, 0.2);
    Rloo rloo, "-A log_probs of the whole sequence; what is new are its advantages",
        "arXiv 2402.14740"
        => PolicyLossConfig::new()
            .with_surrogate(PolicyGradient::new())
            .with_reduction(Reduction::SequenceSumMean);
    TisPg tis_pg, "-sg(min(r, 1)) A log_probs, token mean", "ROLL; Ionides 2008"
        => policy_gradient(Bounds::at_most(1.0));
    Topr topr, "-A log_probs for A > 0, else -sg(min(r, 1)) A log_probs, token mean",
        "arXiv 2503.14286"
        => PolicyLossConfig::new()
            .with_surrogate(PolicyGradient::weighted_where_negative(Bounds::at_most(1.0)));
    DppoTv dppo_tv,
        "-sg(min(r, 20)) A log_probs where p has moved by 0.2 at most, token mean",
        "arXiv 2602.04879"
        => PolicyLossConfig::new().with_surrogate(TrustRegion::default());
    DppoKl dppo_kl,
        "-sg(min(r, 20)) A log_probs where the binary KL is 0.2 at most, token mean",
        "arXiv 2602.04879"
        => PolicyLossConfig::new()
            .with_surrogate(TrustRegion::new(Divergence::Kl, 0.2, 0.2));
    ClipCov clip_cov, "PPO without 2e-4 of the tokens, by lot among those of covariance 1 to 5",
        "arXiv 2505.22617"
        => PolicyLossConfig::new().with_surrogate(CovarianceClip::default());
    KlCov kl_cov, "-r A, + |d| at the 2e-4 tokens of the largest covariance, token mean",
        "arXiv 2505.22617"
        => PolicyLossConfig::new().with_surrogate(CovariancePenalty::default());
    Kimi kimi, "-A log_probs + 0.05 d^2, token mean", "arXiv 2501.12599"
        => PolicyLossConfig::new().with_surrogate(SquaredLogRatio::default());
    Dro dro, "-(A log_probs - 0.05 d^2), token mean", "arXiv 2405.19107"
        => PolicyLossConfig::new().with_surrogate(SquaredLogRatio::default());
    M2po m2po,
        "-r A without the tokens furthest away, while the mean of d^2 of those that move away is above 0.04, token mean",
        "arXiv 2510.01161"
        => PolicyLossConfig::new().with_surrogate(SecondMomentMask::default());
    Fipo fipo,
        "-min(r A, clamp(r, 0.8, 1.28) A) f, f = exp(sum of 2^(-k/32) d_k behind) within 1 and 1.2, token mean",
        "arXiv 2603.19835, as in ms-swift"
        => clip(0.2, 0.28).with_future_weight(
            FutureWeight::default()
                .with_bounds(Bounds::new(1.0, 1.2))
                .with_guard(FutureGuard::default()),
        );
    Opsm opsm, "GRPO without sequences where A < 0 and mean(old - log_probs) > 1e-4",
        "arXiv 2512.02556"
        => Preset::Grpo.config().with_off_policy_mask(OffPolicyMask::default());
    OpenRlhfGspo openrlhf_gspo, "GSPO with the clip 0.2 / 0.2, sequence mean", "OpenRLHF"
        => clip(0.2, 0.2)
            .with_ratio(Ratio::SEQUENCE)
            .with_reduction(Reduction::SequenceMean);
    VerlGrpo verl_grpo, "dual-clip PPO + 1e-3 k3 against the reference, token mean",
        "verl, with use_kl_loss and low_var_kl"
        => Preset::DualClipPpo.config().with_kl_penalty(KlPenalty::new(1e-3));
    VerlGspo verl_gspo, "GSPO-token with the clip 0.2 / 0.2, sequence mean", "verl"
        => clip(0.2, 0.2)
            .with_ratio(Ratio::SEQUENCE_TOKEN)
            .with_reduction(Reduction::SequenceMean);
    VerlCispo verl_cispo, "-sg(clamp(r, 0.8, 1.2)) A log_probs, token mean", "verl"
        => policy_gradient(Bounds::new(0.8, 1.2));
    PrimeRl prime_rl,
        "-w A within 0.2 of the sampler's p, by the sign of A, + 1e-3 u^2, w = exp(u), token mean",
        "prime-rl, its default; arXiv 2602.04879"
        => near_sampler(TrustRegion::new(Divergence::TotalVariation, 0.2, 0.2));
    PrimeRlIpo prime_rl_ipo,
        "-w A where p is within 0.1 of the sampler's, + 1e-3 u^2, w = exp(u), token mean",
        "prime-rl, its loss \"ipo\""
        => near_sampler(TrustRegion::new(Divergence::SymmetricTotalVariation, 0.1, 0.1));
    SkyRlDppo skyrl_dppo,
        "-w A within 0.2 of the sampler's p, by the sign of A, w = exp(u), token mean",
        "SkyRL, its DPPO by total variation"
        => against_sampler(TrustRegion::default().of_ratio());
    SkyRlRolloutIs skyrl_rollout_is,
        "-sg(w) A log_probs where 0.8 <= w <= 1.2, w = exp(u) against the sampler, token mean",
        "SkyRL, its loss \"rollout_is\""
        => against_sampler(PolicyGradient::weighted_within(Bounds::new(0.8, 1.2)));
    TrlGrpo trl_grpo, "PPO, token mean: the loss_type \"dapo\" is TRL's default", "TRL"
        => clip(0.2, 0.2);
    TrlCispo trl_cispo, "-sg(min(r, 5)) A log_probs, token mean: epsilon_high bounds r itself",
        "TRL and Liger-Kernel"
        => policy_gradient(Bounds::at_most(5.0));
    TrlRloo trl_rloo, "-min(r A, clamp(r, 0.8, 1.2) A), r = exp(sum d), sequence mean", "TRL"
        => clip(0.2, 0.2)
            .with_ratio(Ratio::SEQUENCE_SUM)
            .with_reduction(Reduction::SequenceMean);
}

fn clip(low: f64, high: f64) -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(Clip::new(low, high))
}

fn against_sampler(surrogate: impl Into<Surrogate>) -> PolicyLossConfig {
    PolicyLossConfig::new()
        .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
        .with_surrogate(surrogate)
}

/// The ratio against the sampler within a region, and half of `2e-3` times its squared logarithm.
fn near_sampler(region: TrustRegion) -> PolicyLossConfig {
    let squared_log_ratio = KlPenalty::new(2e-3)
        .with_estimator(KlEstimator::K2)
        .against(KlBase::Rollout);
    against_sampler(region.of_ratio()).with_kl_penalty(squared_log_ratio)
}

fn policy_gradient(weights: Bounds) -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(PolicyGradient::weighted(weights))
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

/// Truncated importance sampling (TIS): `clamp(rho, low, high)` of each token, with
/// `rho = exp(old_log_probs - rollout_log_probs)`.
///
/// ```
/// use policy_loss::{PolicyLossConfig, presets};
///
/// let loss = PolicyLossConfig::grpo()
///     .with_rollout_correction(presets::tis(0.5, 2.0))
///     .init()?;
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
#[must_use]
pub const fn tis(low: f64, high: f64) -> RolloutCorrection {
    RolloutCorrection::weigh(RolloutWeight::truncate(Bounds::new(low, high)))
}

/// IcePop: `rho` of each token, 0 outside of `[low, high]`.
#[must_use]
pub const fn icepop(low: f64, high: f64) -> RolloutCorrection {
    RolloutCorrection::weigh(RolloutWeight::mask(Bounds::new(low, high)))
}

/// KPop: `rho` of each token, 0 where the Bernoulli divergence of the old policy and the sampler, in
/// either direction, exceeds `bound`.
///
/// As AReaL's `binary_kl`. Bounds that are in use differ by more than ten: AReaL's documentation says
/// 2.0, its default is 5.0, and others propose 0.1.
#[must_use]
pub const fn kpop(bound: f64) -> RolloutCorrection {
    RolloutCorrection::weigh(RolloutWeight::raw()).with_filter(Filter::new(
        FilterLevel::Token,
        FilterEstimator::BernoulliKl,
        Bounds::at_most(bound),
    ))
}

/// The total variation mask of open-instruct: `rho` of each token, 2 at most, and 0 for the tokens that
/// an update moves away from the sampler in sequences whose mean of `|rho - 1|` exceeds `bound`
/// ([arXiv 2603.01365](https://arxiv.org/abs/2603.01365)).
///
/// It is the distance of ratios and not of probabilities, though it is called total variation there.
#[must_use]
pub const fn open_instruct_tv(bound: f64) -> RolloutCorrection {
    RolloutCorrection::weigh(RolloutWeight::truncate(Bounds::at_most(2.0)))
        .with_filter(Filter::new(
            FilterLevel::SequenceMean,
            FilterEstimator::RatioDistance,
            Bounds::at_most(bound),
        ))
        .with_only_moving_away()
}

/// Seq-mask-TIS: `rho` of each token of a sequence whose geometric mean lies in `[low, high]`,
/// else 0.
#[must_use]
pub const fn seq_mask_tis(low: f64, high: f64) -> RolloutCorrection {
    RolloutCorrection::weigh(RolloutWeight::raw())
        .with_filter(Filter::sequence_mean_k1(Bounds::new(low, high)))
}

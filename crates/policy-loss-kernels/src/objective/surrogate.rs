//! The surrogate objectives: one list of them, and the numbers of each.

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::check::{ConfigError, if_given, part, require, sides};
use super::ratio::{LEAST_LOG_RATIO, LOG_RATIO_LIMIT, Ratio, RatioLevel};
use crate::numbers::Numbers;

/// Declares the surrogates once: the name that JSON carries, the type, and what the surrogate of a token
/// depends on.
macro_rules! surrogates {
    (
        with kernels { $($(#[$doc:meta])* $name:ident: $type:ident of $scope:ident,)* }
        composed only {
            $($(#[$composed_doc:meta])* $composed_name:ident: $composed:ident of $composed_scope:ident,)*
        }
    ) => {
        /// The surrogate objective of one token; its negative is the token loss.
        ///
        /// Each variant is a formula of its own, documented with its type. In the formulas `r` is
        /// the [`Ratio`], `d` its logarithm, `A` the advantage, and `sg` stops the gradient.
        ///
        /// All variants are listed, so that whoever matches on them cannot forget one.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Surrogate {
            $($(#[$doc])* $type($type),)*
            $($(#[$composed_doc])* $composed($composed),)*
        }

        /// A [`Surrogate`] without its numbers, of those that have kernels: what a kernel is
        /// compiled for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum SurrogateKind {
            $($(#[$doc])* $type,)*
        }

        $(impl From<$type> for Surrogate {
            fn from(surrogate: $type) -> Self {
                Self::$type(surrogate)
            }
        })*

        $(impl From<$composed> for Surrogate {
            fn from(surrogate: $composed) -> Self {
                Self::$composed(surrogate)
            }
        })*

        impl Surrogate {
            /// Every surrogate, with its default numbers.
            #[must_use]
            pub fn defaults() -> Vec<Self> {
                vec![$($type::default().into(),)* $($composed::default().into(),)*]
            }

            /// What kernels are compiled for; none for a surrogate that is composed only.
            #[must_use]
            pub const fn kind(&self) -> Option<SurrogateKind> {
                match self {
                    $(Self::$type(_) => Some(SurrogateKind::$type),)*
                    $(Self::$composed(_) => None,)*
                }
            }

            /// The name that JSON carries.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$type(_) => stringify!($name),)*
                    $(Self::$composed(_) => stringify!($composed_name),)*
                }
            }

            /// What the surrogate of a token depends on, beside the ratio.
            #[must_use]
            pub const fn scope(&self) -> SurrogateScope {
                match self {
                    $(Self::$type(_) => SurrogateScope::$scope,)*
                    $(Self::$composed(_) => SurrogateScope::$composed_scope,)*
                }
            }

            fn check_numbers(&self) -> Result<(), ConfigError> {
                match self {
                    $(Self::$type(surrogate) => surrogate.check_numbers(),)*
                    $(Self::$composed(surrogate) => surrogate.check_numbers(),)*
                }
            }

            pub(crate) fn properties(&self) -> &dyn Properties {
                match self {
                    $(Self::$type(surrogate) => surrogate,)*
                    $(Self::$composed(surrogate) => surrogate,)*
                }
            }
        }
    };
}

surrogates! {
    with kernels {
        /// The clipped surrogate.
        clip: Clip of Token,
        /// The policy gradient, with or without an importance weight.
        policy_gradient: PolicyGradient of Token,
        /// A soft gate in the place of the clip.
        sigmoid_gate: SigmoidGate of Token,
        /// The geometric mean of a sequence's clipped ratios.
        geometric_mean: GeometricMean of Sequence,
        /// The policy gradient with a smooth weight of the whole sequence's ratio.
        gamma_weight: GammaWeight of Sequence,
        /// The policy gradient within a trust region of the divergence.
        trust_region: TrustRegion of Token,
        /// The policy gradient with a squared log-ratio as its penalty.
        squared_log_ratio: SquaredLogRatio of Token,
        /// The clip, with bounds of the ratio that depend on the probability of the token.
        dynamic_clip: DynamicClip of Token,
        /// The clip, with a part of the gradient left beyond its bounds.
        gradient_preserving_clip: GradientPreservingClip of Token,
    }
    composed only {
        /// The clip, without a random share of the tokens of high covariance.
        covariance_clip: CovarianceClip of Batch,
        /// The ratio, with a penalty on the tokens of the highest covariance.
        covariance_penalty: CovariancePenalty of Batch,
        /// The ratio, without the tokens that have moved away furthest.
        second_moment_mask: SecondMomentMask of Batch,
        /// The clip, with one range for the batch that bounds how far tokens have moved away.
        second_moment_clip: SecondMomentClip of Batch,
    }
}

impl Default for Surrogate {
    fn default() -> Self {
        Self::Clip(Clip::default())
    }
}

/// What the surrogate of a token depends on, beside the [`Ratio`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SurrogateScope {
    /// On the token alone.
    Token,
    /// On the valid tokens of its sequence.
    Sequence,
    /// On the valid tokens of the batch at hand: shards do not add up to the undivided batch.
    Batch,
}

impl Surrogate {
    /// Whether it is made of the second moment of a batch, of which a part is told the limit.
    #[must_use]
    pub const fn reads_second_moment(&self) -> bool {
        matches!(self, Self::SecondMomentMask(_) | Self::SecondMomentClip(_))
    }

    /// Where it bounds the ratio, each bound with what it is called; none where its bounds are of
    /// something else, or another one for each token or batch.
    #[must_use]
    pub fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        self.properties().ratio_bounds()
    }

    pub(super) fn validate(&self, ratio: Ratio) -> Result<(), ConfigError> {
        self.check_numbers()?;
        self.properties().validate()?;
        let first = match ratio.level {
            RatioLevel::Token => return Ok(()),
            RatioLevel::Sequence => "ratio.level = sequence",
            RatioLevel::SequenceToken => "ratio.level = sequence_token",
            RatioLevel::SequenceSum => "ratio.level = sequence_sum",
            RatioLevel::Segment => "ratio.level = segment",
        };
        match self.properties().needs_token_ratio() {
            None => Ok(()),
            Some(reason) => Err(ConfigError::Combination {
                first,
                second: "surrogate",
                reason,
            }),
        }
    }
}

/// What there is to say about every surrogate.
pub(crate) trait Properties {
    /// Checks the numbers together, and bounds; each by itself is checked before.
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Why a ratio of another level than the token's has no meaning in the formula; `None` where
    /// it has one.
    fn needs_token_ratio(&self) -> Option<&'static str>;

    /// As [`Surrogate::ratio_bounds`].
    fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        Vec::new()
    }

    /// What a kernel is compiled for, beside its [`SurrogateKind`]; a formula without choices, or
    /// without a kernel, has none.
    fn choices(&self) -> SurrogateChoices {
        SurrogateChoices::NONE
    }

    /// The numbers that a kernel is given; those of other parts are 0. A formula without numbers, or
    /// without a kernel, has none.
    fn numbers(&self) -> Numbers {
        Numbers::default()
    }
}

/// What a surrogate's kernel is compiled for, beside its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SurrogateChoices {
    /// The surrogate is bounded for negative advantages.
    pub dual_clip: bool,
    /// The policy gradient is weighted for negative advantages.
    pub weighs_negative: bool,
    /// The policy gradient is weighted for all other advantages.
    pub weighs_others: bool,
    /// Weights of the policy gradient out of their bounds are 0.
    pub drops_outside: bool,
    /// The measure of a trust region.
    pub divergence: Divergence,
    /// Within a trust region the ratio is multiplied, and not `log_probs`.
    pub multiplies_ratio: bool,
}

impl SurrogateChoices {
    /// Those of a formula without choices.
    pub(crate) const NONE: Self = Self {
        dual_clip: false,
        weighs_negative: false,
        weighs_others: false,
        drops_outside: false,
        divergence: Divergence::TotalVariation,
        multiplies_ratio: false,
    };
}

/// The reason of every surrogate whose gradient is that of `log_probs`.
const WEIGHS_LOG_PROBS: &str = "this surrogate weighs the gradient of each token's log-prob with \
                                that token's own ratio; use `ratio.level = token`";

/// The reason of the surrogates of high covariance.
const OF_COVARIANCES: &str =
    "covariances are those of tokens, and so are the ratios; use `ratio.level = token`";

/// How near to the limit of second moments a square counts as on it: a rounding of f32 does not move
/// a token to the other side.
pub const SECOND_MOMENT_MARGIN: f64 = 1e-6;

/// The bounds of a ratio from `1 - low` to `1 + high`.
fn around_one(low: f64, high: f64) -> Vec<(f64, &'static str)> {
    vec![(1.0 - low, "1 - low"), (1.0 + high, "1 + high")]
}

/// Numbers in order, without what is none.
fn sorted(squares: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let squares = squares.into_iter();
    let mut squares: Vec<f64> = squares.filter(|square| !square.is_nan()).collect();
    squares.sort_unstable_by(f64::total_cmp);
    squares
}

/// The reason of the surrogates of second moments.
const OF_SECOND_MOMENTS: &str =
    "second moments are those of the tokens' log-ratios; use `ratio.level = token`";

part! {
    /// The clipped surrogate:
    ///
    /// ```text
    /// s1 = r * A;  with delta: min(r, delta) * A
    /// s2 = clamp(r, 1 - low, 1 + high) * A
    /// surrogate = min(s1, s2);  with dual_clip c and A < 0: max(min(s1, s2), c * A)
    /// ```
    ///
    /// Gradient: `r * A` on the unclipped branch, 0 on every other; where `s1 == s2` the unclipped
    /// branch is taken. With a sequence ratio it is the surrogate of GSPO. Default: 0.2 and 0.2.
    ///
    /// Papers: PPO [arXiv 1707.06347](https://arxiv.org/abs/1707.06347), dual clip
    /// [arXiv 1912.09729](https://arxiv.org/abs/1912.09729), clip-higher (DAPO)
    /// [arXiv 2503.14476](https://arxiv.org/abs/2503.14476), two-sided clip with `delta`
    /// (INTELLECT-2) [arXiv 2505.07291](https://arxiv.org/abs/2505.07291). Used by every framework.
    Clip at "surrogate.clip" {
        /// The lower bound of the ratio is `1 - low`. Finite and above 0.
        low: f64 = 0.2, positive;
        /// The upper bound of the ratio is `1 + high`. Finite and above 0.
        high: f64 = 0.2, positive;
        /// For `A < 0` the surrogate is bounded below by `dual_clip * A`. Finite and above 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        dual_clip: Option<f64> = None, above_one;
        /// The unclipped branch uses `min(r, delta)`. Finite, `1 + high` or above; there it matters
        /// for `A < 0` alone, and is a dual clip of the same size.
        #[serde(skip_serializing_if = "Option::is_none")]
        delta: Option<f64> = None, above_one;
    }
}

impl Clip {
    /// Clips the ratio to `[1 - low, 1 + high]`.
    #[must_use]
    pub const fn new(low: f64, high: f64) -> Self {
        Self {
            low,
            high,
            dual_clip: None,
            delta: None,
        }
    }

    /// Also bounds the surrogate below by `dual_clip * A` where `A < 0`.
    #[must_use]
    pub const fn with_dual_clip(mut self, dual_clip: f64) -> Self {
        self.dual_clip = Some(dual_clip);
        self
    }

    /// Also bounds the ratio of the unclipped branch by `delta`.
    #[must_use]
    pub const fn with_delta(mut self, delta: f64) -> Self {
        self.delta = Some(delta);
        self
    }

    /// `c`, where the surrogate of a negative advantage is bounded below by `c * A`: of
    /// `dual_clip` or of `delta`, which is a dual clip of the same size.
    #[must_use]
    pub const fn lower_bound(&self) -> Option<f64> {
        match self.dual_clip {
            Some(dual_clip) => Some(dual_clip),
            None => self.delta,
        }
    }
}

impl Properties for Clip {
    fn validate(&self) -> Result<(), ConfigError> {
        let least = 1.0 + self.high;
        match (self.dual_clip, self.delta) {
            (None, Some(delta)) if delta < least => Err(ConfigError::OutOfRange {
                field: "surrogate.clip.delta",
                value: format!("{delta}, below 1 + `surrogate.clip.high` = {least}"),
                accepted: "1 + high or above",
            }),
            (Some(_), Some(_)) => Err(ConfigError::Combination {
                first: "surrogate.clip.dual_clip",
                second: "surrogate.clip.delta",
                reason: "both bound what a negative advantage can do; leave one of them out",
            }),
            (_, None) | (None, Some(_)) => Ok(()),
        }
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        None
    }

    fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        let mut bounds = around_one(self.low, self.high);
        let dual = self.lower_bound();
        bounds.extend(dual.map(|bound| (bound, "bound where A < 0")));
        bounds
    }

    fn choices(&self) -> SurrogateChoices {
        SurrogateChoices {
            dual_clip: self.lower_bound().is_some(),
            ..SurrogateChoices::NONE
        }
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            low: 1.0 - self.low,
            high: 1.0 + self.high,
            dual_clip: self.lower_bound().unwrap_or(0.0),
            ..Numbers::default()
        }
    }
}

part! {
    /// The clip, with bounds that depend on the probability `q` of the token in the base of the ratio: a
    /// probability may change by so much, whatever that is as a ratio.
    ///
    /// ```text
    /// least    = (1 + sqrt(max(1 - 4 low / q, 0))) / 2
    /// greatest = min((1 + sqrt(1 + 4 high / q)) / 2, max_ratio)
    /// surrogate = min(r * A, clamp(r, least, greatest) * A)
    /// ```
    ///
    /// which is `r (1 - r) q <= low` and `r (r - 1) q <= high`. `least` is 0.5 at least, and `greatest`
    /// grows without end as `q` falls, unless `max_ratio` stops it. `q` is `exp(-80)` at least.
    ///
    /// Gradient: `r * A` on the unclipped branch, 0 on the other; where both are equal the unclipped branch
    /// is taken. Defaults: 0.16 and 0.2, no `max_ratio`.
    ///
    /// Paper: DCPO, [arXiv 2509.02333](https://arxiv.org/abs/2509.02333), which adds up the means of
    /// sequences without dividing by their number.
    DynamicClip at "surrogate.dynamic_clip" {
        /// How much of a probability may be lost, where `A < 0`. Finite and above 0.
        low: f64 = 0.16, positive;
        /// How much of a probability may be won, where `A > 0`. Finite and above 0.
        high: f64 = 0.2, positive;
        /// The largest upper bound of a ratio. Finite and above 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_ratio: Option<f64> = None, above_one;
    }
}

impl DynamicClip {
    /// Bounds the change of a probability; see the formula of the type.
    #[must_use]
    pub const fn new(low: f64, high: f64) -> Self {
        Self {
            low,
            high,
            max_ratio: None,
        }
    }

    /// Also bounds the ratio itself above.
    #[must_use]
    pub const fn with_max_ratio(mut self, max_ratio: f64) -> Self {
        self.max_ratio = Some(max_ratio);
        self
    }
}

impl Properties for DynamicClip {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some("the bounds are those of each token's own probability; use `ratio.level = token`")
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            low: self.low,
            high: self.high,
            max_ratio: self.max_ratio.unwrap_or(f64::INFINITY),
            ..Numbers::default()
        }
    }
}

part! {
    /// The clip, beyond whose bounds a part of the gradient is left: what is clipped in PPO keeps
    /// `low_gradient` or `high_gradient` of the gradient that it has at the bound.
    ///
    /// ```text
    /// surrogate = r * A                                     inside
    ///             low_gradient * (1 - low) * r / sg(r) * A    where A < 0 and r < 1 - low
    ///             high_gradient * (1 + high) * r / sg(r) * A  where A > 0 and r > 1 + high
    /// ```
    ///
    /// Gradient: `r * A` inside, `low_gradient * (1 - low) * A` and `high_gradient * (1 + high) * A` beyond,
    /// which is that of PPO with both 0, and does not jump at the bounds with both 1. A token beyond a bound
    /// counts as clipped. Tokens that fall below with `A < 0` are those that keep the entropy up, tokens
    /// that rise above with `A > 0` let it fall. Defaults: 0.2 and 0.28, 0.5 and 1.
    ///
    /// Paper: CE-GPPO, [arXiv 2509.20712](https://arxiv.org/abs/2509.20712).
    GradientPreservingClip at "surrogate.gradient_preserving_clip" {
        /// The lower bound of the ratio is `1 - low`. Finite and above 0.
        low: f64 = 0.2, positive;
        /// The upper bound of the ratio is `1 + high`. Finite and above 0.
        high: f64 = 0.28, positive;
        /// The part of the gradient that is left below. Finite, 0 or above.
        low_gradient: f64 = 0.5, not_negative;
        /// The part of the gradient that is left above. Finite, 0 or above.
        high_gradient: f64 = 1.0, not_negative;
    }
    /// Clips the ratio to `[1 - low, 1 + high]`, and keeps these parts of the gradient beyond.
    new
}

impl Properties for GradientPreservingClip {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        None
    }

    fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        around_one(self.low, self.high)
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            low: 1.0 - self.low,
            high: 1.0 + self.high,
            low_gradient: self.low_gradient,
            high_gradient: self.high_gradient,
            ..Numbers::default()
        }
    }
}

part! {
    /// The surrogate of a policy gradient, whose importance weight `w` is a constant, so that no token
    /// loses its gradient:
    ///
    /// ```text
    /// none                  w = 1
    /// ratio                 w = sg(clamp(r, low, high))
    /// ratio_where_negative  w = sg(clamp(r, low, high)) where A < 0, 1 elsewhere
    /// ratio_within          w = sg(r) where low <= r <= high, 0 elsewhere
    ///
    /// surrogate = w * A * log_probs
    /// ```
    ///
    /// Gradient: `w * A`. The bounds are those of the ratio itself, not of its distance from 1. A token
    /// counts as clipped where its weight was moved to a bound, or to 0, and `A` is not 0. Default: no
    /// weight.
    ///
    /// - Without a weight it is REINFORCE ([Williams 1992](https://doi.org/10.1007/BF00992696)), as GPG
    ///   [arXiv 2504.02546](https://arxiv.org/abs/2504.02546): right where the batch was sampled by the
    ///   policy that is trained. Used by verl, ROLL, NeMo-RL and rlax.
    /// - With a weight up to 1 it is truncated importance sampling
    ///   ([Ionides 2008](https://doi.org/10.1198/106186008X320456)): no token counts more than on
    ///   policy. Used by ROLL.
    /// - With room above 1 it is CISPO, MiniMax-M1
    ///   ([arXiv 2506.13585](https://arxiv.org/abs/2506.13585)), whose upper bound TRL and Liger-Kernel
    ///   call `epsilon_high`. Used by TRL, verl, Liger-Kernel, slime, NeMo-RL, ROLL and SkyRL.
    /// - With a weight up to 1 where `A < 0` it is TOPR
    ///   ([arXiv 2503.14286](https://arxiv.org/abs/2503.14286)): what went well is learnt whatever its
    ///   ratio, what went badly fades as it becomes unlikely. Used by ROLL.
    /// - With a ratio against the sampler that counts within its bounds only, it is what SkyRL calls
    ///   `rollout_is`; there a ratio on the bound itself does not count.
    PolicyGradient at "surrogate.policy_gradient" {
        /// What the gradient of a token is weighed with.
        weight: ImportanceWeight = ImportanceWeight::None;
    }
}

/// The constant that a [`PolicyGradient`] weighs a token with.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceWeight {
    /// 1.
    #[default]
    None,
    /// The ratio, moved into the bounds.
    Ratio(Bounds),
    /// The ratio, moved into the bounds, where `A < 0`; 1 elsewhere.
    RatioWhereNegative(Bounds),
    /// The ratio within the bounds, 0 outside.
    RatioWithin(Bounds),
}

impl ImportanceWeight {
    /// The bounds of the ratio; absent without a weight.
    #[must_use]
    pub const fn bounds(self) -> Option<Bounds> {
        match self {
            Self::None => None,
            Self::Ratio(bounds) | Self::RatioWhereNegative(bounds) | Self::RatioWithin(bounds) => {
                Some(bounds)
            }
        }
    }
}

impl PolicyGradient {
    /// Without a weight.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            weight: ImportanceWeight::None,
        }
    }

    /// With the ratio, moved into `bounds`, as the weight.
    #[must_use]
    pub const fn weighted(bounds: Bounds) -> Self {
        Self {
            weight: ImportanceWeight::Ratio(bounds),
        }
    }

    /// With the ratio, moved into `bounds`, as the weight where `A < 0`, and 1 elsewhere.
    #[must_use]
    pub const fn weighted_where_negative(bounds: Bounds) -> Self {
        Self {
            weight: ImportanceWeight::RatioWhereNegative(bounds),
        }
    }

    /// With the ratio as the weight within `bounds`, and 0 outside.
    #[must_use]
    pub const fn weighted_within(bounds: Bounds) -> Self {
        Self {
            weight: ImportanceWeight::RatioWithin(bounds),
        }
    }
}

impl Properties for PolicyGradient {
    fn validate(&self) -> Result<(), ConfigError> {
        let fields = match self.weight {
            ImportanceWeight::None => return Ok(()),
            ImportanceWeight::Ratio(_) => sides!("surrogate.policy_gradient.weight.ratio"),
            ImportanceWeight::RatioWhereNegative(_) => {
                sides!("surrogate.policy_gradient.weight.ratio_where_negative")
            }
            ImportanceWeight::RatioWithin(_) => {
                sides!("surrogate.policy_gradient.weight.ratio_within")
            }
        };
        if_given(self.weight.bounds(), |bounds| bounds.validate(fields))
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(match self.weight.bounds() {
            None => "this surrogate has no ratio; leave `ratio` out",
            Some(_) => WEIGHS_LOG_PROBS,
        })
    }

    fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        let bounds = self.weight.bounds();
        let sides = bounds.map(|it| {
            [
                it.low.map(|low| (low, "low")),
                it.high.map(|high| (high, "high")),
            ]
        });
        sides.into_iter().flatten().flatten().collect()
    }

    fn choices(&self) -> SurrogateChoices {
        SurrogateChoices {
            weighs_negative: self.weight != ImportanceWeight::None,
            weighs_others: matches!(
                self.weight,
                ImportanceWeight::Ratio(_) | ImportanceWeight::RatioWithin(_)
            ),
            drops_outside: matches!(self.weight, ImportanceWeight::RatioWithin(_)),
            ..SurrogateChoices::NONE
        }
    }

    fn numbers(&self) -> Numbers {
        let numbers = |bounds: Bounds| Numbers {
            low: bounds.low_or_zero(),
            high: bounds.high_or_infinity(),
            ..Numbers::default()
        };
        self.weight.bounds().map_or_else(Numbers::default, numbers)
    }
}

part! {
    /// A soft gate in the place of the clip: the gradient fades smoothly as the ratio moves away from
    /// 1, faster for negative advantages:
    ///
    /// ```text
    /// tau = positive_temperature where A > 0, else negative_temperature
    /// surrogate = A * sigmoid(tau * (r - 1)) * 4 / tau
    /// ```
    ///
    /// Gradient: `4 p (1 - p) * r * A` with `p = sigmoid(tau (r - 1))`; at `r = 1` that is `A`.
    /// Defaults: 1 and 1.05.
    ///
    /// Paper: SAPO, [arXiv 2511.20347](https://arxiv.org/abs/2511.20347). Used by TRL, verl,
    /// Liger-Kernel and AReaL.
    SigmoidGate at "surrogate.sigmoid_gate" {
        /// The temperature where `A > 0`. Finite and above 0.
        positive_temperature: f64 = 1.0, positive;
        /// The temperature elsewhere. Finite and above 0.
        negative_temperature: f64 = 1.05, positive;
    }
    /// With the temperatures of positive and of negative advantages.
    new
}

impl Properties for SigmoidGate {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        None
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            positive_temperature: self.positive_temperature,
            negative_temperature: self.negative_temperature,
            ..Numbers::default()
        }
    }
}

part! {
    /// The geometric mean of a sequence's ratios, each clipped in log space on the side where it would
    /// gain:
    ///
    /// ```text
    /// c = min(d, high) where A > 0, max(d, -low) where A < 0, 0 where A = 0;  d clamped to ±20
    /// surrogate = mean of A * exp(mean of c)      means over the valid tokens of the sequence
    /// ```
    ///
    /// Gradient: `surrogate / n_b` for every token that is not clipped, 0 for the others. The losses of
    /// all tokens of the sequence have it: with rollout weights, the gradient of each token takes the
    /// sum of the weights of its sequence, not its own. The geometric mean is less sensitive to a
    /// single large ratio than the mean. Defaults: 0.4 and 0.4.
    ///
    /// Paper: GMPO, [arXiv 2507.20673](https://arxiv.org/abs/2507.20673). Used by verl and TRL.
    GeometricMean at "surrogate.geometric_mean" {
        /// The log-ratio is bounded below by `-low` where `A < 0`. Above 0, at most 20.
        low: f64 = 0.4, log_ratio_bound;
        /// The log-ratio is bounded above by `high` where `A > 0`. Above 0, at most 20.
        high: f64 = 0.4, log_ratio_bound;
    }
    /// Clips log-ratios to `[-low, high]` on the side where they would gain.
    new
}

impl Properties for GeometricMean {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(
            "the geometric mean is taken over the clipped ratios of the tokens; \
             use `ratio.level = token`",
        )
    }

    fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        vec![
            ((-self.low).exp(), "exp(-low)"),
            (self.high.exp(), "exp(high)"),
        ]
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            low: -self.low,
            high: self.high,
            ..Numbers::default()
        }
    }
}

/// The logarithm of the largest weight of a [`GammaWeight`]: f32 ends at e^88.7, and an advantage
/// comes on top.
const LARGEST_LOG_WEIGHT: f64 = 80.0;

part! {
    /// A policy gradient whose weight is a smooth function of the ratio of the whole sequence, like the
    /// density of a gamma distribution:
    ///
    /// ```text
    /// W = clamp(sum of clamp(d, -20, 20) over the sequence, ln 1e-8, 20)
    /// phi = exp(lambda + k W - lambda e^W),  k and lambda by the sign of A (A = 0 as positive)
    /// surrogate = sg(phi) * A * log_probs
    /// ```
    ///
    /// Gradient: `phi * A`; at `W = 0` that is `A`. `phi` is 0 where it is not a number, and largest at
    /// `e^W = k / lambda`, where it may be e^80 at most. Defaults: k 2 and 3, lambda 3 and 2.
    ///
    /// Paper: VESPO, [arXiv 2602.10693](https://arxiv.org/abs/2602.10693). Used by TRL and
    /// Liger-Kernel.
    GammaWeight at "surrogate.gamma_weight" {
        /// `k` where `A >= 0`. Finite and above 0.
        positive_k: f64 = 2.0, positive;
        /// `lambda` where `A >= 0`. Finite and above 0.
        positive_lambda: f64 = 3.0, positive;
        /// `k` where `A < 0`. Finite and above 0.
        negative_k: f64 = 3.0, positive;
        /// `lambda` where `A < 0`. Finite and above 0.
        negative_lambda: f64 = 2.0, positive;
    }
}

impl GammaWeight {
    /// The logarithm of the largest weight, that of `W = ln(k / lambda)`.
    fn largest_log_weight(k: f64, lambda: f64) -> f64 {
        let log_ratio = (k / lambda).ln().clamp(LEAST_LOG_RATIO, LOG_RATIO_LIMIT);
        lambda + k * log_ratio - lambda * log_ratio.exp()
    }
}

impl Properties for GammaWeight {
    fn validate(&self) -> Result<(), ConfigError> {
        for (field, k, lambda) in [
            (
                "surrogate.gamma_weight.positive_lambda",
                self.positive_k,
                self.positive_lambda,
            ),
            (
                "surrogate.gamma_weight.negative_lambda",
                self.negative_k,
                self.negative_lambda,
            ),
        ] {
            require(
                Self::largest_log_weight(k, lambda) <= LARGEST_LOG_WEIGHT,
                field,
                lambda,
                "a number that makes, with the `k` beside it, no weight larger than e^80, which \
                 f32 still holds",
            )?;
        }
        Ok(())
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(
            "this surrogate takes the ratio of the sequence itself, from the log-ratios of its \
             tokens; use `ratio.level = token`",
        )
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            positive_k: self.positive_k,
            positive_lambda: self.positive_lambda,
            negative_k: self.negative_k,
            negative_lambda: self.negative_lambda,
            ..Numbers::default()
        }
    }
}

part! {
    /// A policy gradient in which a token takes part unless its probability has already moved out of a
    /// trust region, to the side that its advantage asks for. A ratio says little about how far a
    /// policy has moved: from 1e-6 to 1e-5 it is 10, and hardly anything has changed.
    ///
    /// With `p` and `q` the probabilities of the token, now and in the base of the ratio:
    ///
    /// ```text
    /// total_variation            dropped where A > 0 and p - q > high, or A < 0 and q - p > low
    /// symmetric_total_variation  dropped where p - q > high or q - p > low, whatever A asks for
    /// kl                         dropped where D > high, A > 0 and p > q, or D > low, A < 0 and p < q
    ///                            D = q ln(q / p) + (1 - q) ln(max(1 - q, 1e-8) / max(1 - p, 1e-8))
    ///
    /// weight  surrogate = sg(min(r, max_ratio)) * A * log_probs, 0 where dropped
    /// ratio   surrogate = min(r, max_ratio) * A, 0 where dropped
    /// ```
    ///
    /// Gradient: `min(r, max_ratio) * A`, 0 where dropped; in the form of a ratio it is 0 beyond `max_ratio`
    /// as well. A `max_ratio` of 1e9 is never met. Tokens that are dropped count as clipped where `A` is not
    /// 0. Defaults: total variation, 0.2 and 0.2, the form of a weight, `max_ratio` 20.
    ///
    /// Paper: DPPO, [arXiv 2602.04879](https://arxiv.org/abs/2602.04879). Used by verl in the form of a
    /// weight, by SkyRL and prime-rl in that of a ratio without a bound; prime-rl calls the symmetric region
    /// `ipo`.
    TrustRegion at "surrogate.trust_region" {
        /// How far the probability has moved.
        divergence: Divergence = Divergence::TotalVariation;
        /// The bound where `A < 0`, or of a probability that has fallen. Finite and above 0.
        low: f64 = 0.2, positive;
        /// The bound where `A > 0`, or of a probability that has risen. Finite and above 0.
        high: f64 = 0.2, positive;
        /// The largest ratio. Finite and above 0.
        max_ratio: f64 = 20.0, positive;
        /// What is multiplied by the advantage of a token that is kept.
        form: TrustRegionForm = TrustRegionForm::Weight;
    }
}

/// What a [`TrustRegion`] multiplies by the advantage of a token that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustRegionForm {
    /// `log_probs`, with the ratio as a constant weight.
    #[default]
    Weight,
    /// The ratio itself.
    Ratio,
}

/// How far the probability of a sampled token has moved; see [`TrustRegion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// By the difference of its probabilities, to the side that the advantage asks for.
    #[default]
    TotalVariation,
    /// By the difference of its probabilities, to either side.
    SymmetricTotalVariation,
    /// By the KL divergence between the token and everything else.
    Kl,
}

impl TrustRegion {
    /// Within `low` and `high` of a divergence.
    #[must_use]
    pub const fn new(divergence: Divergence, low: f64, high: f64) -> Self {
        Self {
            divergence,
            low,
            high,
            max_ratio: 20.0,
            form: TrustRegionForm::Weight,
        }
    }

    /// The ratio itself is multiplied by the advantage; without a bound for it.
    #[must_use]
    pub const fn of_ratio(mut self) -> Self {
        self.form = TrustRegionForm::Ratio;
        self.max_ratio = 1e9;
        self
    }
}

impl Properties for TrustRegion {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(WEIGHS_LOG_PROBS)
    }

    fn choices(&self) -> SurrogateChoices {
        SurrogateChoices {
            divergence: self.divergence,
            multiplies_ratio: self.form == TrustRegionForm::Ratio,
            ..SurrogateChoices::NONE
        }
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            low: self.low,
            high: self.high,
            max_ratio: self.max_ratio,
            ..Numbers::default()
        }
    }
}

part! {
    /// The policy gradient with a squared log-ratio that keeps the policy near the base of the ratio:
    ///
    /// ```text
    /// surrogate = A * log_probs - coefficient / 2 * d^2
    /// ```
    ///
    /// Gradient: `A - coefficient * d`. The penalty is part of the policy term: a rollout correction
    /// weighs it, which is what tells it from a KL penalty of k2. Kimi k1.5 calls the coefficient
    /// `tau`, DRO `beta`; their objectives are the same. Default: 0.1.
    ///
    /// Papers: Kimi k1.5 [arXiv 2501.12599](https://arxiv.org/abs/2501.12599), DRO
    /// [arXiv 2405.19107](https://arxiv.org/abs/2405.19107). Used by ROLL and verl.
    SquaredLogRatio at "surrogate.squared_log_ratio" {
        /// What half of the squared log-ratio is multiplied by. Finite and above 0.
        coefficient: f64 = 0.1, positive;
    }
    /// With `coefficient / 2` times the square.
    new
}

impl Properties for SquaredLogRatio {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some("this surrogate is made of each token's own log-ratio; use `ratio.level = token`")
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            coefficient: self.coefficient,
            ..Numbers::default()
        }
    }
}

part! {
    /// The clip, without a random few of the tokens of high covariance. Few tokens carry most of the
    /// covariance between log-prob and advantage, which is what the entropy falls with:
    ///
    /// ```text
    /// cov = (A - mean A) * (log_probs - mean log_probs)      means over the batch, constants
    /// candidates: unclipped tokens with min_covariance < cov < max_covariance
    /// dropped: max(1, floor(share * n)) of the candidates, by chance; or all, if there are fewer
    /// surrogate = that of Clip, 0 where dropped
    /// ```
    ///
    /// Gradient: that of [`Clip`], 0 where dropped; the denominators keep counting what was dropped,
    /// and it counts as clipped where `A` is not 0. The chance is that of `seed` and of the position in
    /// the batch, the same on every device. Defaults: 0.2 and 0.2, share 2e-4, covariances from 1 to 5.
    ///
    /// The means, the share and the positions are those of the batch at hand: shards do not add up to
    /// the undivided batch.
    ///
    /// Paper: Clip-Cov, [arXiv 2505.22617](https://arxiv.org/abs/2505.22617). Used by verl and SkyRL.
    CovarianceClip at "surrogate.covariance_clip" {
        /// The lower bound of the ratio is `1 - low`. Finite and above 0.
        low: f64 = 0.2, positive;
        /// The upper bound of the ratio is `1 + high`. Finite and above 0.
        high: f64 = 0.2, positive;
        /// The share of the valid tokens that is dropped. Above 0, 1 at most.
        share: f64 = 2e-4, share;
        /// Candidates have more covariance. Finite and above 0.
        min_covariance: f64 = 1.0, positive;
        /// Candidates have less covariance. Finite and above `min_covariance`.
        max_covariance: f64 = 5.0, positive;
        /// Chooses among the candidates.
        seed: u64 = 0;
    }
}

impl Properties for CovarianceClip {
    fn validate(&self) -> Result<(), ConfigError> {
        match self.min_covariance < self.max_covariance {
            true => Ok(()),
            false => Err(ConfigError::OutOfRange {
                field: "surrogate.covariance_clip.min_covariance",
                value: format!(
                    "{}, not below `surrogate.covariance_clip.max_covariance` = {}",
                    self.min_covariance, self.max_covariance
                ),
                accepted: "min_covariance < max_covariance",
            }),
        }
    }

    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(OF_COVARIANCES)
    }

    fn ratio_bounds(&self) -> Vec<(f64, &'static str)> {
        around_one(self.low, self.high)
    }
}

part! {
    /// The ratio without a clip; the tokens of the highest covariance between log-prob and advantage,
    /// which is what the entropy falls with, are held back by a penalty instead:
    ///
    /// ```text
    /// cov = (A - mean A) * (log_probs - mean log_probs)      means over the batch, constants
    /// surrogate = r * A                        everywhere
    ///             - coefficient * abs(d)       at the max(1, floor(share * n)) largest cov
    /// ```
    ///
    /// Gradient: `r * A - coefficient * sign(d)` there, `r * A` elsewhere. Tokens that tie with the
    /// last of the largest are held back as well. Defaults: share 2e-4, coefficient 1.
    ///
    /// The means and the share are those of the batch at hand: shards do not add up to the undivided
    /// batch.
    ///
    /// Paper: KL-Cov, [arXiv 2505.22617](https://arxiv.org/abs/2505.22617). Used by verl and SkyRL.
    CovariancePenalty at "surrogate.covariance_penalty" {
        /// The share of the valid tokens that is held back. Above 0, 1 at most.
        share: f64 = 2e-4, share;
        /// What the absolute log-ratio is multiplied by. Finite and above 0.
        coefficient: f64 = 1.0, positive;
    }
}

impl Properties for CovariancePenalty {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(OF_COVARIANCES)
    }
}

part! {
    /// The ratio, without the tokens that have moved away furthest: of those that move away from the base of
    /// the ratio (`A > 0` and `r > 1`, or `A < 0` and `r < 1`), the ones with the largest `d^2` are dropped
    /// until the mean of `d^2` over the rest of them is `threshold` at most.
    ///
    /// ```text
    /// surrogate = r * A;  0 where dropped
    /// ```
    ///
    /// Gradient: `r * A`, nothing where dropped. All other tokens stay whatever their ratio, and nothing is
    /// clipped; a dropped token counts as clipped, and the denominators of the reduction keep counting it.
    /// Where several tokens are as far as the first that is dropped, all of them are. Default: 0.04.
    ///
    /// Which tokens are dropped is a statistic of all tokens of an update. A part of a batch is told the least
    /// `d^2` that is dropped by `PolicyBatch::with_second_moment_limit`, for which [`limit`](Self::limit)
    /// makes it.
    ///
    /// Paper: M2PO, [arXiv 2510.01161](https://arxiv.org/abs/2510.01161), its Algorithm 1. What goes by the
    /// same name in its authors' code is a [`SecondMomentClip`]; what does in AReaL is an action mask,
    /// `policy_loss::within_second_moment`.
    SecondMomentMask at "surrogate.second_moment_mask" {
        /// The largest mean of `d^2`. Finite and above 0.
        threshold: f64 = 0.04, positive;
    }
    /// Drops tokens until the mean of `d^2` is this at most.
    new
}

impl SecondMomentMask {
    /// The least `d^2` that is dropped, of those of all tokens that move away; infinity where nothing
    /// is dropped. A NaN moves nowhere.
    #[must_use]
    pub fn limit(&self, squares: impl IntoIterator<Item = f64>) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        let mut squares = sorted(squares).into_iter();
        let dropped = squares.find(|square| {
            sum += square;
            count += 1.0;
            sum / count > self.threshold
        });
        dropped.unwrap_or(f64::INFINITY)
    }
}

impl Properties for SecondMomentMask {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(OF_SECOND_MOMENTS)
    }
}

part! {
    /// The clip with one range for the batch, no wider than that the mean of `d^2` over the tokens that move
    /// away (`A > 0` and `r > 1`, or `A < 0` and `r < 1`) is `threshold` at most, were each of them moved
    /// back into it:
    ///
    /// ```text
    /// cap^2     = the largest d^2 of theirs, v, with mean(min(d^2, v)) < threshold; 0 where there is none
    /// low, high = max(1 - exp(-cap), min_low), max(exp(cap) - 1, min_high)
    /// surrogate = min(r * A, clamp(r, 1 - low, 1 + high) * A)
    /// ```
    ///
    /// Nothing is clipped where their mean of `d^2` is `threshold` at most. Gradient: `r * A`, nothing where
    /// clipped; the token that `cap` is made of lies on the bound and is clipped. Defaults: 0.04, 0.3, 0.5.
    ///
    /// The range is a statistic of all tokens of an update. A part of a batch is told `cap^2` by
    /// `PolicyBatch::with_second_moment_limit`, for which [`limit`](Self::limit) makes it.
    ///
    /// Source: the code of the authors of M2PO, [arXiv 2510.01161](https://arxiv.org/abs/2510.01161), whose
    /// paper drops tokens instead: [`SecondMomentMask`].
    SecondMomentClip at "surrogate.second_moment_clip" {
        /// The largest mean of `d^2`. Finite and above 0.
        threshold: f64 = 0.04, positive;
        /// The least `low` of the range. Finite, 0 or above.
        min_low: f64 = 0.3, not_negative;
        /// The least `high` of the range. Finite, 0 or above.
        min_high: f64 = 0.5, not_negative;
    }
    /// A range for this mean of `d^2`, and how narrow it may be at most.
    new
}

impl SecondMomentClip {
    /// `cap^2` of the `d^2` of all tokens that move away; infinity where nothing is clipped. A NaN moves
    /// nowhere.
    #[must_use]
    pub fn limit(&self, squares: impl IntoIterator<Item = f64>) -> f64 {
        let squares = sorted(squares);
        let count = squares.len() as f64;
        if squares.iter().sum::<f64>() / count.max(1.0) <= self.threshold {
            return f64::INFINITY;
        }
        let (mut sum, mut cap) = (0.0, 0.0);
        for (nth, square) in squares.iter().enumerate() {
            sum += square;
            let rest = count - 1.0 - nth as f64;
            if (sum + square * rest) / count >= self.threshold {
                break;
            }
            cap = *square;
        }
        cap
    }
}

impl Properties for SecondMomentClip {
    fn needs_token_ratio(&self) -> Option<&'static str> {
        Some(OF_SECOND_MOMENTS)
    }
}

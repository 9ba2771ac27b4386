//! The surrogate objectives, one file each.

mod covariance;

use burn::tensor::{Bool, Tensor};
use policy_loss_kernels as kernels;
use serde::{Deserialize, Serialize};

use crate::valid::Valid;
use crate::{ConfigError, Ratio, RatioLevel};

/// Declares the surrogates once: module, type, variant, and the tag that JSON carries.
macro_rules! surrogates {
    ($($(#[$doc:meta])* $module:ident: $name:ident,)*) => {
        $(mod $module;)*
        $(pub use $module::$name;)*

        /// The surrogate objective of one token; its negative is the token loss.
        ///
        /// Each variant is a formula of its own, documented with its type. In the formulas `r` is
        /// the [`Ratio`], `d` its logarithm, `A` the advantage, and `sg` stops the gradient.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Surrogate {
            $($(#[$doc])* $name($name),)*
        }

        $(impl From<$name> for Surrogate {
            fn from(surrogate: $name) -> Self {
                Self::$name(surrogate)
            }
        })*

        impl Surrogate {
            fn formula(&self) -> &dyn Formula {
                match self {
                    $(Self::$name(surrogate) => surrogate,)*
                }
            }

            /// The tag that JSON carries.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($module),)*
                }
            }
        }
    };
}

surrogates! {
    /// The clipped surrogate of PPO.
    clip: Clip,
    /// Clipped importance weights as constants (CISPO).
    cispo: Cispo,
    /// A soft gate in the place of the clip (SAPO).
    sapo: Sapo,
    /// The geometric mean of a sequence's clipped ratios (GMPO).
    geometric_mean: GeometricMean,
    /// The plain policy gradient (REINFORCE).
    reinforce: Reinforce,
    /// The policy gradient with a truncated importance weight.
    truncated_importance: TruncatedImportance,
    /// Truncated importance weights for negative advantages alone (TOPR).
    topr: Topr,
    /// A smooth weight of the whole sequence's ratio (VESPO).
    vespo: Vespo,
    /// The policy gradient within a trust region of the divergence (DPPO).
    dppo: Dppo,
    /// The clip, without a random share of the tokens of high covariance (Clip-Cov).
    clip_cov: ClipCov,
    /// The ratio, with a penalty on the tokens of the highest covariance (KL-Cov).
    kl_cov: KlCov,
    /// The policy gradient with a squared log-ratio as its penalty (Kimi k1.5, DRO).
    squared_log_ratio: SquaredLogRatio,
}

pub use dppo::Divergence;

impl Default for Surrogate {
    fn default() -> Self {
        Self::Clip(Clip::default())
    }
}

/// What a surrogate is computed from. All of it is 0 at padding.
pub(crate) struct Tokens<'a> {
    /// `[B, T]`, tracked.
    pub log_probs: Tensor<2>,
    /// `[B, T]`, the denominator of the ratio.
    pub base_log_probs: Tensor<2>,
    /// `[B, T]`, tracked: `log_probs - base_log_probs`.
    pub log_ratio: Tensor<2>,
    /// `[B, T]`, or `[B, 1]` where a sequence shares it; tracked.
    pub ratio: Tensor<2>,
    /// `[B, T]` or `[B, 1]`.
    pub advantages: Tensor<2>,
    pub valid: &'a Valid,
}

impl Tokens<'_> {
    /// The ratio as a constant.
    fn constant_ratio(&self) -> Tensor<2> {
        self.ratio.clone().without_autodiff()
    }

    /// `[B, T]`.
    fn shape(&self) -> [usize; 2] {
        self.log_ratio.dims()
    }

    /// No token at all.
    fn nowhere(&self) -> Tensor<2, Bool> {
        self.valid
            .tokens
            .clone()
            .bool_and(self.valid.padding.clone())
    }
}

/// The surrogate of each token, `[B, T]`, or `[B, 1]` where a whole sequence shares it.
pub(crate) struct Surrogated {
    /// The value, tracked.
    pub surrogate: Tensor<2>,
    /// Where a bound was met: the clipped branch taken, a weight cut, a token dropped.
    pub clipped: Tensor<2, Bool>,
    /// Where the bound for negative advantages was met; absent without one.
    pub dual_clipped: Option<Tensor<2, Bool>>,
}

/// What every surrogate has.
trait Formula {
    /// The formula. Tokens without a gradient are constants: use `mask_where` on a value that
    /// left autodiff.
    fn of(&self, tokens: &Tokens) -> Surrogated;

    /// Checks the numbers.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Why a ratio of another level than the token's has no meaning in the formula; `None` where
    /// it has one.
    fn needs_token_ratio(&self) -> Option<&'static str>;

    /// The formula in the kernels' terms; `None` where they do not have it.
    fn kernel(&self) -> Option<kernels::Surrogate> {
        None
    }

    /// Whether a token's surrogate depends on no other token but through the ratio.
    fn is_of_tokens(&self) -> bool;

    /// Whether a token's surrogate depends on its own sequence alone, so that shards add up.
    fn is_local(&self) -> bool {
        true
    }
}

impl Surrogate {
    pub(crate) fn of(&self, tokens: &Tokens) -> Surrogated {
        self.formula().of(tokens)
    }

    /// As [`Formula::kernel`].
    pub(crate) fn kernel(&self) -> Option<kernels::Surrogate> {
        self.formula().kernel()
    }

    /// As [`Formula::is_of_tokens`].
    #[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
    pub(crate) fn is_of_tokens(&self) -> bool {
        self.formula().is_of_tokens()
    }

    pub(crate) fn is_local(&self) -> bool {
        self.formula().is_local()
    }

    pub(crate) fn validate(&self, ratio: Ratio) -> Result<(), ConfigError> {
        self.formula().validate()?;
        let first = match ratio.level {
            RatioLevel::Token => return Ok(()),
            RatioLevel::Sequence => "ratio.level = sequence",
            RatioLevel::SequenceToken => "ratio.level = sequence_token",
            RatioLevel::SequenceSum => "ratio.level = sequence_sum",
        };
        match self.formula().needs_token_ratio() {
            None => Ok(()),
            Some(reason) => Err(ConfigError::Combination {
                first,
                second: "surrogate",
                reason,
            }),
        }
    }
}

/// The surrogate of a policy gradient: `weight * A * log_probs`, the weight a constant.
fn weighted_log_probs(tokens: &Tokens, weight: Tensor<2>) -> Tensor<2> {
    weight * tokens.advantages.clone() * tokens.log_probs.clone()
}

/// Where a weight was cut and it made a difference: not at `A = 0`.
fn cut(tokens: &Tokens, outside: Tensor<2, Bool>) -> Tensor<2, Bool> {
    let matters = tokens.advantages.clone().not_equal_elem(0);
    outside.bool_and(matters.expand(tokens.shape()))
}

/// The reason of every surrogate whose gradient is that of `log_probs`.
const WEIGHS_LOG_PROBS: &str = "this surrogate weighs the gradient of each token's log-prob with \
                                that token's own ratio; use `ratio.level = token`";

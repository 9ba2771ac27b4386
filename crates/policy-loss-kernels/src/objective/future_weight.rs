//! How far the policy moves at a token and behind it, as its weight.

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::check::{ConfigError, above_one, if_given, positive, sides, unit};

/// The weight of a token by the log-ratios of it and of those that follow. With the log-ratios
/// `d = log_probs - base` of the tokens, a constant, 0 at masked ones:
///
/// ```text
/// F_t = sum_{k >= t} discount^(k - t) d_k
/// f_t = clamp(exp(F_t), bounds)
/// f_t = clamp(f_t, guard.bounds)   where A < 0 and r > guard.ratio
/// token_loss = -surrogate * f * ...
/// ```
///
/// `k - t` counts positions, masked ones too, and `F` is clamped to ±20 where it is exponentiated. A
/// token that the policy moves towards, with all that follows it, weighs more, and one that it moves
/// away from less. With `max_ratio` tokens whose own ratio is above it add nothing to `F`. The base is
/// that of the [`Ratio`](super::Ratio), and `r` is the ratio. The KL penalty and the entropy bonus are
/// not weighed, and denominators do not change.
///
/// Source: FIPO, [arXiv 2603.19835](https://arxiv.org/abs/2603.19835), as in ms-swift: discount
/// 2^(-1/32), bounds 1 and 1.2, a guard from a ratio of 4 on with bounds 0.8 and 1; what it calls
/// `delta` is `max_ratio` together with the `delta` of the [`Clip`](super::Clip).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FutureWeight {
    /// How much less a token counts for each position that it is further behind. From 0 to 1.
    pub discount: f64,
    /// What weights are moved into, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// Bounds of their own for negative advantages at large ratios, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<FutureGuard>,
    /// The largest ratio of a token that counts, if any. Finite and above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ratio: Option<f64>,
}

/// What a [`FutureWeight`] is moved into where `A < 0` and the ratio is large: what has become much more
/// likely and is bad is not to weigh more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FutureGuard {
    /// Ratios above it are meant. Finite and above 0.
    pub ratio: f64,
    /// What the weights there are moved into.
    pub bounds: Bounds,
}

impl Default for FutureGuard {
    fn default() -> Self {
        Self {
            ratio: 4.0,
            bounds: Bounds::new(0.8, 1.0),
        }
    }
}

impl Default for FutureWeight {
    fn default() -> Self {
        // 2^(-1/32): after 32 positions a half is left.
        Self::new(0.978_572_062_087_700_1)
    }
}

impl FutureWeight {
    /// With this discount, and nothing that bounds it.
    #[must_use]
    pub const fn new(discount: f64) -> Self {
        Self {
            discount,
            bounds: None,
            guard: None,
            max_ratio: None,
        }
    }

    /// Sets what weights are moved into.
    #[must_use]
    pub fn with_bounds(mut self, bounds: impl Into<Option<Bounds>>) -> Self {
        self.bounds = bounds.into();
        self
    }

    /// Sets the bounds for negative advantages at large ratios.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Into<Option<FutureGuard>>) -> Self {
        self.guard = guard.into();
        self
    }

    /// Sets the largest ratio of a token that counts.
    #[must_use]
    pub fn with_max_ratio(mut self, max_ratio: impl Into<Option<f64>>) -> Self {
        self.max_ratio = max_ratio.into();
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        unit("future_weight.discount", self.discount)?;
        if_given(self.bounds, |it| {
            it.validate(sides!("future_weight.bounds"))
        })?;
        if let Some(guard) = self.guard {
            positive("future_weight.guard.ratio", guard.ratio)?;
            let fields = sides!("future_weight.guard.bounds");
            guard.bounds.validate(fields)?;
        }
        above_one("future_weight.max_ratio", self.max_ratio)
    }
}

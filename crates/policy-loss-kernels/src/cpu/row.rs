//! What the tokens of a row share.

use crate::{LOG_RATIO_BOUND, Objective, RatioLevel, Reduction, Surrogate};

use super::gaps::{Gaps, RowWeight};
use super::real::Real;
use super::sums::Totals;

/// A row of the batch: first what is gathered over its tokens, then what follows from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// Number of valid tokens.
    pub valid: usize,
    /// Sum of `log_probs - base`, for the ratio of a sequence.
    pub log_ratio: f64,
    /// Sums of `old_log_probs - rollout_log_probs`, for the weight of a sequence.
    pub gaps: Gaps,
    /// Sum of the log-ratios as the surrogate bounds them.
    pub bounded_log_ratio: f64,
    /// Sum of `A`, for a surrogate that is one for the sequence.
    pub advantage: f64,
    /// Sum of the weights of tokens that are not dropped, for the same.
    pub kept_weight: f64,
    /// Sum of `A * weight` over tokens that are not clipped, for the gradient of a sequence.
    pub unclipped_advantage: f64,

    /// The ratio of the sequence.
    pub ratio: f64,
    /// 1 where its logarithm reached a bound, else 0.
    pub saturated: f64,
    /// What the surrogate makes of the sequence.
    pub surrogate: [f64; 2],
    /// 1 where tokens with a negative advantage are dropped, else 0.
    pub drops_negative: f64,
    /// The weights of its tokens.
    pub weight: RowWeight,
    /// The row's part of the reduction's factor: `1 / n_b`, or 1.
    pub loss_factor: f64,
    /// The whole factor of the reduction.
    pub gradient_factor: f64,
}

impl Row {
    /// Derives the ratio, the weight and the factors from what was gathered.
    /// `scale` is the batch's part of the reduction's factor.
    pub fn derive<T: Real>(&mut self, objective: &Objective, scale: f64) {
        // Divided, not multiplied by 1 / n: a mean of equal numbers is that number.
        let tokens = self.valid.max(1) as f64;
        let mean_log_ratio = self.log_ratio / tokens;
        let log_ratio = match objective.ratio_level {
            RatioLevel::SequenceSum => self.log_ratio,
            _ => mean_log_ratio,
        };
        // `clamp` keeps NaN.
        self.ratio = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp();
        self.saturated = indicator(log_ratio.abs() > LOG_RATIO_BOUND);
        self.surrogate = match objective.surrogate {
            Surrogate::SequenceWeight { positive, negative } => {
                [positive, negative].map(|gamma| gamma.weight(self.bounded_log_ratio))
            }
            Surrogate::GeometricMean { .. } => {
                let ratio = (self.bounded_log_ratio / tokens).exp();
                let value = ratio * (self.advantage / tokens);
                // Of the mean over n_b tokens, a token's part is 1 / n_b, and n_b tokens have
                // the value.
                [value, value]
            }
            _ => [0.0; 2],
        };
        // Not where a NaN is, which must be seen.
        let rounded = |number: f64| T::from_f64(number).to_f64();
        let far = |delta: f64| rounded(mean_log_ratio) < rounded(-delta);
        self.drops_negative = indicator(objective.off_policy.is_some_and(far));
        let correction = objective.correction.as_ref();
        self.weight = RowWeight::new::<T>(correction, &self.gaps, self.valid);
        self.loss_factor = match objective.reduction {
            Reduction::SequenceMean => 1.0 / tokens,
            _ => 1.0,
        };
        self.gradient_factor = self.loss_factor * scale;
    }

    /// What follows from the sum of its weights, for a surrogate that is one for the sequence.
    pub fn derive_weighted_slope(&mut self) {
        let [value, slope] = &mut self.surrogate;
        *slope = *value * (self.kept_weight / self.valid.max(1) as f64);
    }

    /// The gradient of every valid token of a sequence that shares one ratio.
    pub fn shared_gradient(&self, level: RatioLevel) -> f64 {
        if self.saturated > 0.0 {
            return 0.0;
        }
        let per_token = match level {
            RatioLevel::SequenceSum => 1.0,
            _ => 1.0 / self.valid.max(1) as f64,
        };
        // Adding 0 turns -0 into 0.
        -self.ratio * self.unclipped_advantage * per_token * self.gradient_factor + 0.0
    }

    /// Whether an input that was gathered is not finite.
    pub fn is_finite(&self) -> bool {
        (self.log_ratio + self.gaps.sum + self.bounded_log_ratio + self.advantage).is_finite()
    }

    /// Adds the ratio of a sequence, once for each of its tokens.
    pub fn count_ratio(&self, objective: &Objective, totals: &mut Totals) {
        if objective.ratio_level == RatioLevel::Token || self.valid == 0 {
            return;
        }
        totals.ratio += self.valid as f64 * self.ratio;
        totals.squared_ratio += self.valid as f64 * self.ratio * self.ratio;
        totals.min_ratio = totals.min_ratio.min(self.ratio);
        totals.max_ratio = totals.max_ratio.max(self.ratio);
    }
}

fn indicator(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

//! The formulas of the surrogate objectives.

use burn::tensor::{Bool, Tensor, TensorData};
use policy_loss_kernels::objective::{
    LEAST_BASE_LOG_PROB, LEAST_LOG_RATIO, LEAST_PROBABILITY, LOG_RATIO_LIMIT, SECOND_MOMENT_MARGIN,
};

use super::kl::expm1;
use super::ratio::{is_moved_into, limited, moved_into};
use crate::order::in_order;
use crate::valid::{Moments, Valid, largest, sum_per_row};
use crate::{
    Clip, CovarianceClip, CovariancePenalty, Divergence, DynamicClip, GammaWeight, GeometricMean,
    GradientPreservingClip, ImportanceWeight, PolicyGradient, SecondMomentClip, SecondMomentMask,
    SigmoidGate, SquaredLogRatio, Surrogate, TrustRegion, TrustRegionForm,
};

/// A square that no token reaches, and that every type and device has.
const NEVER: f64 = f32::MAX as f64;

/// What a surrogate is computed from. All of it is 0 at padding.
pub(super) struct Tokens<'a> {
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
    /// From which squared log-ratio on tokens are dropped or clipped, where the batch says so.
    pub second_moment_limit: Option<f64>,
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

    /// Where `A > 0`, `[B, T]`.
    fn positive(&self) -> Tensor<2, Bool> {
        self.advantages.clone().greater_elem(0).expand(self.shape())
    }

    /// Where `A < 0`, `[B, T]`.
    fn negative(&self) -> Tensor<2, Bool> {
        self.advantages.clone().lower_elem(0).expand(self.shape())
    }

    /// Where the policy moves a token further away from the base of the ratio, `[B, T]`.
    fn moves_away(&self) -> Tensor<2, Bool> {
        let log_ratio = self.log_ratio.clone().without_autodiff();
        let up = log_ratio.clone().greater_elem(0).bool_and(self.positive());
        let down = log_ratio.lower_elem(0).bool_and(self.negative());
        up.bool_or(down)
    }

    /// Where a square is as large as a limit, `[B, T]`: the given one, or that of the batch.
    fn reaches(&self, squares: Tensor<2>, of_batch: impl FnOnce() -> Tensor<1>) -> Tensor<2, Bool> {
        match self.second_moment_limit {
            Some(limit) => {
                squares.greater_equal_elem(limit.min(NEVER) * (1.0 - SECOND_MOMENT_MARGIN))
            }
            None => {
                let limit = of_batch().reshape([1, 1]).expand(self.shape());
                squares.greater_equal(limit)
            }
        }
    }

    /// No token at all, `[B, T]`.
    fn nowhere(&self) -> Tensor<2, Bool> {
        self.valid
            .tokens
            .clone()
            .bool_and(self.valid.padding.clone())
    }

    /// `weight * A * log_probs`: the surrogate of a policy gradient, the weight a constant.
    fn weighted_log_probs(&self, weight: Tensor<2>) -> Tensor<2> {
        weight * self.advantages.clone() * self.log_probs.clone()
    }
}

/// The surrogate of each token, `[B, T]`, or `[B, 1]` where a whole sequence shares it.
pub(super) struct SurrogateOutput {
    /// The value, tracked.
    pub surrogate: Tensor<2>,
    /// Where a bound was met: the clipped branch taken, a weight cut, a token dropped.
    pub clipped: Tensor<2, Bool>,
    /// Where the bound for negative advantages was met; absent without one.
    pub dual_clipped: Option<Tensor<2, Bool>>,
}

impl SurrogateOutput {
    /// Without a bound of its own for negative advantages.
    fn new(surrogate: Tensor<2>, clipped: Tensor<2, Bool>) -> Self {
        Self {
            surrogate,
            clipped,
            dual_clipped: None,
        }
    }

    /// `min(r * A, bounded * A)`. What is bounded is a constant, so that a clipped token has gradient 0.
    ///
    /// `min` is written as a comparison and a select because its sub-gradient at a tie differs between
    /// frameworks; here the unclipped branch wins a tie.
    fn lesser(tokens: &Tokens, bounded: Tensor<2>) -> Self {
        let free = tokens.ratio.clone() * tokens.advantages.clone();
        let bounded = bounded * tokens.advantages.clone();
        let clipped = bounded.clone().lower(free.clone().without_autodiff());
        Self::new(free.mask_where(clipped.clone(), bounded), clipped)
    }
}

/// A surrogate as a formula of tensors. Tokens without a gradient are constants: a formula selects
/// for them a value that left autodiff.
pub(super) trait Formula {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput;
}

impl Formula for Surrogate {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        match self {
            Self::Clip(surrogate) => surrogate.of(tokens),
            Self::DynamicClip(surrogate) => surrogate.of(tokens),
            Self::GradientPreservingClip(surrogate) => surrogate.of(tokens),
            Self::PolicyGradient(surrogate) => surrogate.of(tokens),
            Self::SigmoidGate(surrogate) => surrogate.of(tokens),
            Self::GeometricMean(surrogate) => surrogate.of(tokens),
            Self::GammaWeight(surrogate) => surrogate.of(tokens),
            Self::TrustRegion(surrogate) => surrogate.of(tokens),
            Self::SquaredLogRatio(surrogate) => surrogate.of(tokens),
            Self::CovarianceClip(surrogate) => surrogate.of(tokens),
            Self::CovariancePenalty(surrogate) => surrogate.of(tokens),
            Self::SecondMomentMask(surrogate) => surrogate.of(tokens),
            Self::SecondMomentClip(surrogate) => surrogate.of(tokens),
        }
    }
}

impl Formula for Clip {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let ratio = tokens.constant_ratio();
        let bounded = ratio.clamp(1.0 - self.low, 1.0 + self.high);
        let output = SurrogateOutput::lesser(tokens, bounded);
        let Some(dual_clip) = self.lower_bound() else {
            return output;
        };
        let advantages = tokens.advantages.clone();
        let floor = advantages.clone() * dual_clip;
        let surrogate = output.surrogate;
        let below = surrogate.clone().without_autodiff().lower(floor.clone());
        let dual_clipped = below.bool_and(advantages.lower_elem(0));
        SurrogateOutput {
            surrogate: surrogate.mask_where(dual_clipped.clone(), floor),
            dual_clipped: Some(dual_clipped),
            ..output
        }
    }
}

impl Formula for DynamicClip {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let ratio = tokens.constant_ratio();
        let q = tokens.base_log_probs.clone().clamp_min(LEAST_BASE_LOG_PROB);
        let per_probability = q.neg().exp() * 4.0;
        let low = (per_probability.clone() * -self.low + 1.0)
            .clamp_min(0)
            .sqrt()
            * 0.5
            + 0.5;
        let high = (per_probability * self.high + 1.0).sqrt() * 0.5 + 0.5;
        let high = match self.max_ratio {
            Some(max_ratio) => high.clamp_max(max_ratio),
            None => high,
        };
        let too_low = ratio.clone().lower(low.clone());
        let too_high = ratio.clone().greater(high.clone());
        let bounded = ratio.mask_where(too_low, low).mask_where(too_high, high);
        SurrogateOutput::lesser(tokens, bounded)
    }
}

impl Formula for GradientPreservingClip {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let constant = tokens.constant_ratio();
        let above = constant
            .clone()
            .greater_elem(1.0 + self.high)
            .expand(tokens.shape());
        let above = above.bool_and(tokens.positive());
        let below = constant
            .clone()
            .lower_elem(1.0 - self.low)
            .expand(tokens.shape());
        let below = below.bool_and(tokens.negative());
        // What the ratio is multiplied by, so that it has the value of the bound and still a slope.
        let factor = |bound: f64, left: f64| {
            (constant.clone().recip() * (bound * left)).expand(tokens.shape())
        };
        let scale = constant
            .ones_like()
            .expand(tokens.shape())
            .mask_where(above.clone(), factor(1.0 + self.high, self.high_gradient))
            .mask_where(below.clone(), factor(1.0 - self.low, self.low_gradient));
        let surrogate = scale * tokens.ratio.clone() * tokens.advantages.clone();
        SurrogateOutput::new(surrogate, above.bool_or(below))
    }
}

impl Formula for PolicyGradient {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let Some(bounds) = self.weight.bounds() else {
            let surrogate = tokens.log_probs.clone() * tokens.advantages.clone();
            return SurrogateOutput::new(surrogate, tokens.nowhere());
        };
        let ratio = tokens.constant_ratio();
        let cut = is_moved_into(bounds, ratio.clone());
        let negative = tokens.negative();
        // At A = 0 it made no difference.
        let either = tokens.positive().bool_or(negative.clone());
        let (weight, matters) = match self.weight {
            ImportanceWeight::None | ImportanceWeight::Ratio(_) => {
                (moved_into(bounds, ratio), either)
            }
            ImportanceWeight::RatioWithin(_) => (ratio.mask_fill(cut.clone(), 0), either),
            ImportanceWeight::RatioWhereNegative(_) => {
                let elsewhere = negative.clone().bool_not();
                (moved_into(bounds, ratio).mask_fill(elsewhere, 1), negative)
            }
        };
        SurrogateOutput::new(tokens.weighted_log_probs(weight), cut.bool_and(matters))
    }
}

impl Formula for SigmoidGate {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let advantages = tokens.advantages.clone();
        let positive = advantages.clone().greater_elem(0);
        let temperature = advantages
            .zeros_like()
            .add_scalar(self.negative_temperature)
            .mask_fill(positive, self.positive_temperature);
        let x = (tokens.ratio.clone() - 1.0) * temperature.clone();
        let surrogate = accurate_sigmoid(x) * (advantages * 4.0 / temperature);
        SurrogateOutput::new(surrogate, tokens.nowhere())
    }
}

/// `sigmoid(x)`, whose gradient `p (1 - p)` keeps its digits where `p` is near 1.
fn accurate_sigmoid(x: Tensor<2>) -> Tensor<2> {
    let positive = x.clone().without_autodiff().greater_elem(0);
    // Not the absolute value, which has no gradient at 0; and not Burn's sigmoid, which NdArray
    // computes in f32 whatever the type.
    let small = x.clone().mask_where(positive.clone(), x.neg()).exp();
    let below_half = small.clone() / (small + 1.0);
    let above_half = below_half.clone().neg() + 1.0;
    below_half.mask_where(positive, above_half)
}

impl Formula for GeometricMean {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let valid = tokens.valid;
        let advantages = valid.select(tokens.advantages.clone().expand(tokens.shape()));
        let log_ratio = tokens.log_ratio.clone();
        let constant = log_ratio.clone().without_autodiff();
        let above = constant.clone().greater_elem(self.high);
        let above = above.bool_and(tokens.positive());
        let below = constant.lower_elem(-self.low);
        let below = below.bool_and(tokens.negative());
        let neutral = advantages.clone().equal_elem(0);
        let clipped_log_ratio = limited(log_ratio)
            .mask_fill(above.clone(), self.high)
            .mask_fill(below.clone(), -self.low)
            .mask_fill(neutral, 0);
        let ratio = valid.mean_per_sequence(clipped_log_ratio).exp();
        let surrogate = ratio * valid.mean_per_sequence(advantages);
        SurrogateOutput::new(surrogate, above.bool_or(below))
    }
}

impl Formula for GammaWeight {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let shape = tokens.shape();
        let bounded = limited(tokens.log_ratio.clone().without_autodiff());
        let sum = sum_per_row(bounded);
        let log_ratio = sum.clamp(LEAST_LOG_RATIO, LOG_RATIO_LIMIT);
        let phi = |k: f64, lambda: f64| -> Tensor<2> {
            let exponent = log_ratio.clone() * k - expm1(log_ratio.clone()) * lambda;
            let phi = exponent.exp();
            let not_a_number = phi.clone().is_nan();
            phi.mask_fill(not_a_number, 0).expand(shape)
        };
        let weight = phi(self.positive_k, self.positive_lambda).mask_where(
            tokens.negative(),
            phi(self.negative_k, self.negative_lambda),
        );
        SurrogateOutput::new(tokens.weighted_log_probs(weight), tokens.nowhere())
    }
}

impl Formula for TrustRegion {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let [up, down] = has_moved(self, tokens);
        let dropped = up
            .bool_and(tokens.positive())
            .bool_or(down.bool_and(tokens.negative()));
        let kept = match self.form {
            TrustRegionForm::Weight => {
                let weight = tokens.constant_ratio().clamp_max(self.max_ratio);
                tokens.weighted_log_probs(weight)
            }
            TrustRegionForm::Ratio => {
                let beyond = tokens.constant_ratio().greater_elem(self.max_ratio);
                let ratio = tokens.ratio.clone().mask_fill(beyond, self.max_ratio);
                ratio * tokens.advantages.clone()
            }
        };
        SurrogateOutput::new(kept.mask_fill(dropped.clone(), 0), dropped)
    }
}

/// Where the probability has moved by more than the bounds of a trust region: what is dropped with a
/// positive advantage, and with a negative one.
fn has_moved(region: &TrustRegion, tokens: &Tokens) -> [Tensor<2, Bool>; 2] {
    let log_p = tokens.log_probs.clone().without_autodiff();
    let log_q = tokens.base_log_probs.clone();
    let (p, q) = (log_p.clone().exp(), log_q.clone().exp());
    match region.divergence {
        Divergence::TotalVariation => {
            let change = p - q;
            [
                change.clone().greater_elem(region.high),
                change.lower_elem(-region.low),
            ]
        }
        Divergence::SymmetricTotalVariation => {
            let change = p - q;
            let up = change.clone().greater_elem(region.high);
            let out = up.bool_or(change.lower_elem(-region.low));
            [out.clone(), out]
        }
        Divergence::Kl => {
            let rest = |p: &Tensor<2>| (p.clone().neg() + 1.0).clamp_min(LEAST_PROBABILITY).log();
            let of_the_token = q.clone() * (log_q - log_p);
            let of_the_rest = (q.clone().neg() + 1.0) * (rest(&q) - rest(&p));
            let divergence = of_the_token + of_the_rest;
            let up = p.clone().greater(q.clone());
            [
                divergence.clone().greater_elem(region.high).bool_and(up),
                divergence.greater_elem(region.low).bool_and(p.lower(q)),
            ]
        }
    }
}

impl Formula for SquaredLogRatio {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let penalty = tokens.log_ratio.clone().square() * (self.coefficient / 2.0);
        let surrogate = tokens.log_probs.clone() * tokens.advantages.clone() - penalty;
        SurrogateOutput::new(surrogate, tokens.nowhere())
    }
}

impl Formula for SecondMomentMask {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let away = tokens.moves_away();
        let squares = tokens.log_ratio.clone().without_autodiff().square();
        let reached = tokens.reaches(squares.clone(), || {
            let moments = Moments::new(squares, away.clone());
            moments.first_beyond(moments.means().greater_elem(self.threshold))
        });
        let dropped = reached.bool_and(away);
        let surrogate = tokens.ratio.clone() * tokens.advantages.clone();
        SurrogateOutput::new(surrogate.mask_fill(dropped.clone(), 0), dropped)
    }
}

impl Formula for SecondMomentClip {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let shape = tokens.shape();
        let everywhere = |x: Tensor<1>| x.reshape([1, 1]).expand(shape);
        let away = tokens.moves_away();
        let squares = tokens.log_ratio.clone().without_autodiff().square();
        let limit = match tokens.second_moment_limit {
            Some(limit) => tokens.valid.total.zeros_like() + limit.min(NEVER),
            None => {
                let moments = Moments::new(squares.clone(), away.clone());
                let within = moments.means_of_lesser().lower_elem(self.threshold);
                let all = moments.mean().lower_equal_elem(self.threshold);
                moments.last_within(within).mask_fill(all, NEVER)
            }
        };
        let beyond = tokens.reaches(squares, || limit.clone()).bool_and(away);

        let cap = limit.sqrt().clamp_max(LOG_RATIO_LIMIT);
        let high = everywhere(cap.clone().exp()).clamp_min(1.0 + self.min_high);
        let low = everywhere(cap.neg().exp()).clamp_max(1.0 - self.min_low);
        let ratio = tokens.constant_ratio();
        let up = ratio.clone().greater_elem(1.0 + self.min_high);
        let down = ratio.lower_elem(1.0 - self.min_low);
        let above = up.bool_and(tokens.positive()).bool_and(beyond.clone());
        let below = down.bool_and(tokens.negative()).bool_and(beyond);
        let advantages = tokens.advantages.clone().expand(shape);
        let free = tokens.ratio.clone() * advantages.clone();
        let surrogate = free
            .mask_where(above.clone(), high * advantages.clone())
            .mask_where(below.clone(), low * advantages);
        SurrogateOutput::new(surrogate, above.bool_or(below))
    }
}

impl Formula for CovarianceClip {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        let shape = tokens.shape();
        let SurrogateOutput {
            surrogate, clipped, ..
        } = Clip::new(self.low, self.high).of(tokens);
        let covariance = covariance(tokens);
        let candidate = covariance
            .clone()
            .greater_elem(self.min_covariance)
            .bool_and(covariance.clone().lower_elem(self.max_covariance))
            .bool_and(clipped.clone().bool_not())
            .bool_and(tokens.valid.tokens.clone());
        let order = shuffled(self.seed, &covariance);
        let behind_all = shape.iter().product::<usize>() as f64;
        let order = order.mask_fill(candidate.clone().bool_not(), behind_all);
        let last = last_of_smallest(order.clone(), self.share, tokens);
        let dropped = candidate.bool_and(order.lower_equal(last));
        let surrogate = surrogate.mask_fill(dropped.clone(), 0);
        SurrogateOutput::new(surrogate, clipped.bool_or(dropped))
    }
}

impl Formula for CovariancePenalty {
    fn of(&self, tokens: &Tokens) -> SurrogateOutput {
        // Smallest first: the largest covariances, and padding last of all.
        let order = covariance(tokens)
            .neg()
            .mask_fill(tokens.valid.padding.clone(), f32::MAX);
        let last = last_of_smallest(order.clone(), self.share, tokens);
        let elsewhere = order.greater(last);
        let penalty = tokens.log_ratio.clone().abs() * self.coefficient;
        let free = tokens.ratio.clone() * tokens.advantages.clone();
        let surrogate = free - penalty.mask_fill(elsewhere, 0);
        SurrogateOutput::new(surrogate, tokens.nowhere())
    }
}

/// `(A - mean A) * (log_probs - mean log_probs)`, means over the valid tokens of the batch; 0 at
/// padding, a constant, `[B, T]`.
fn covariance(tokens: &Tokens) -> Tensor<2> {
    let shape = tokens.shape();
    let valid = tokens.valid;
    let centred = |x: Tensor<2>| {
        let mean = valid.mean(x.clone()).reshape([1, 1]).expand(shape);
        // Where all are the same, the rounding of their mean must not decide who is the largest.
        let at_padding = |value: f32| x.clone().mask_fill(valid.padding.clone(), value);
        let smallest = largest(at_padding(f32::MAX).neg()).neg();
        let same = largest(at_padding(f32::MIN)).lower_equal(smallest);
        (x - mean).mask_fill(same.reshape([1, 1]).expand(shape), 0)
    };
    let advantages = valid.select(tokens.advantages.clone().expand(shape));
    let log_probs = tokens.log_probs.clone().without_autodiff();
    valid.select(centred(advantages) * centred(log_probs))
}

/// The `k`-th smallest value of `x`, everywhere, `[B, T]`; `k = max(1, floor(share * n))` of `n`
/// valid tokens.
fn last_of_smallest(x: Tensor<2>, share: f64, tokens: &Tokens) -> Tensor<2> {
    let [batch, length] = x.dims();
    // A share that is a whole number of tokens must not lose one to a rounding.
    let count = (tokens.valid.total.clone() * (share * (1.0 + 1e-6))).floor();
    let count = count.min_pair(tokens.valid.total.clone());
    let last = in_order(x, count.clamp_min(1) - 1.0);
    last.reshape([1, 1]).expand([batch, length])
}

/// A permutation of the positions `0..B * T`, row by row, the same for the same seed: the order of
/// SplitMix64's numbers.
fn shuffled(seed: u64, like: &Tensor<2>) -> Tensor<2> {
    let length = like.dims().iter().product();
    let of_position = |position| (split_mix(seed, position as u64), position);
    let mut drawn: Vec<(u64, usize)> = (0..length).map(of_position).collect();
    drawn.sort_unstable();
    let mut ranks = vec![0.0f64; length];
    for (rank, (_, position)) in drawn.into_iter().enumerate() {
        ranks[position] = rank as f64;
    }
    let data = TensorData::new(ranks, like.dims()).convert_dtype(like.dtype());
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

/// The `index`-th number of SplitMix64 from `seed`.
fn split_mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tensor};

    use crate::{CovarianceClip, CovariancePenalty, PolicyBatch, PolicyLossConfig};

    #[test]
    fn a_share_of_one_is_every_token_of_a_large_batch() {
        // From a million tokens on, what guards a share against a rounding is a token and more.
        let shape = [1024, 1040];
        let zeros = || Tensor::<2>::zeros(shape, &Device::flex());
        let batch = PolicyBatch::new(zeros(), zeros(), zeros() + 1.0);
        let clip = CovarianceClip {
            share: 1.0,
            ..CovarianceClip::default()
        };
        let penalty = CovariancePenalty {
            share: 1.0,
            ..CovariancePenalty::default()
        };
        let config = PolicyLossConfig::new();
        for config in [config.with_surrogate(clip), config.with_surrogate(penalty)] {
            let loss = config.init().expect("sound");
            let output = loss.forward(batch.clone()).expect("sound");
            let values = output.read().expect("computed");
            assert_eq!(values.loss, -1.0);
        }
    }
}

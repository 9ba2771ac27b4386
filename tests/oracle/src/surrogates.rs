//! The surrogate of each token, with its gradient by hand.

use policy_loss_kernels::objective::{
    Bounds, Clip, CovarianceClip, CovariancePenalty, Divergence, DynamicClip, GammaWeight,
    GeometricMean, GradientPreservingClip, ImportanceWeight, PolicyGradient, SecondMomentClip,
    SecondMomentMask, SigmoidGate, SquaredLogRatio, Surrogate, TrustRegion, TrustRegionForm,
};

use crate::{Batch, LIMIT, Margin, Random, Token};

pub fn fill(surrogate: &Surrogate, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for i in batch.valid_tokens() {
        // A ratio of the token, unless it says otherwise.
        let token = &mut tokens[i];
        token.condition = token.size.ratio / token.ratio;
    }
    match surrogate {
        Surrogate::Clip(it) => clip(it, batch, tokens, margin),
        Surrogate::DynamicClip(it) => dynamic_clip(it, batch, tokens, margin),
        Surrogate::GradientPreservingClip(it) => {
            gradient_preserving_clip(it, batch, tokens, margin);
        }
        Surrogate::PolicyGradient(it) => policy_gradient(it, batch, tokens, margin),
        Surrogate::SigmoidGate(it) => sigmoid_gate(it, batch, tokens),
        Surrogate::GeometricMean(it) => geometric_mean(it, batch, tokens, margin),
        Surrogate::GammaWeight(it) => gamma_weight(it, batch, tokens, margin),
        Surrogate::TrustRegion(it) => trust_region(it, batch, tokens, margin),
        Surrogate::SquaredLogRatio(it) => squared_log_ratio(it, batch, tokens),
        Surrogate::CovarianceClip(it) => covariance_clip(it, batch, tokens, margin),
        Surrogate::CovariancePenalty(it) => covariance_penalty(it, batch, tokens, margin),
        Surrogate::SecondMomentMask(it) => second_moment_mask(it, batch, tokens, margin),
        Surrogate::SecondMomentClip(it) => second_moment_clip(it, batch, tokens, margin),
    }
    for i in batch.valid_tokens() {
        let token = &mut tokens[i];
        let slope = token.by_log_prob.abs() + (token.by_ratio * token.ratio_slope).abs();
        token.size.surrogate = token.surrogate.abs() * token.condition + token.size.cancelled;
        token.size.slope = slope * token.condition + token.size.cancelled_slope;
        token.size.by_row = token.by_row.abs() * token.condition + token.size.cancelled;
    }
}

/// `min(r A, clamp(r) A)`, with a dual clip or a delta.
fn clip(clip: &Clip, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let ratio = token.ratio;
        for bound in [1.0 - clip.low, 1.0 + clip.high] {
            // A bound of 0 or below is never met.
            if bound > 0.0 {
                margin.meet(ratio.ln(), bound.ln());
            }
        }
        for bound in [clip.dual_clip, clip.delta].into_iter().flatten() {
            margin.meet(ratio.ln(), bound.ln());
        }
        let beyond = clip.delta.is_some_and(|delta| ratio > delta);
        let free = match clip.delta {
            Some(delta) if beyond => delta * advantage,
            Some(_) | None => ratio * advantage,
        };
        let bounded = ratio.clamp(1.0 - clip.low, 1.0 + clip.high) * advantage;
        // Where `delta` is the upper bound itself, it is the bound that is met.
        token.clipped = bounded < ratio * advantage;
        token.surrogate = match bounded < free {
            true => bounded,
            // NaN too, which `min` would drop.
            false => free,
        };
        token.dual_clipped = beyond && !token.clipped && advantage != 0.0;
        if let Some(dual_clip) = clip.dual_clip
            && advantage < 0.0
            && token.surrogate < dual_clip * advantage
        {
            token.surrogate = dual_clip * advantage;
            token.dual_clipped = true;
        }
        if !token.clipped && !token.dual_clipped {
            token.follow(advantage);
        }
    }
}

/// `min(r A, clamp(r) A)` between the roots of `r |r - 1| q = e`.
fn dynamic_clip(clip: &DynamicClip, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let ratio = token.ratio;
        let q = token.base.max(-80.0).exp();
        let low = match 4.0 * clip.low < q {
            true => 0.5 + (0.25 - clip.low / q).sqrt(),
            false => 0.5,
        };
        let mut high = 0.5 + (0.25 + clip.high / q).sqrt();
        if let Some(max_ratio) = clip.max_ratio {
            high = high.min(max_ratio);
        }
        margin.meet(ratio.ln(), low.ln());
        margin.meet(ratio.ln(), high.ln());
        // The root of what rounding leaves of a difference.
        let near_half = (0.25 - clip.low / q).max(0.0).sqrt().max(1e-3);
        token.size.cancelled = advantage.abs() * low / near_half;
        token.clipped = (advantage > 0.0 && ratio > high) || (advantage < 0.0 && ratio < low);
        match token.clipped {
            true if advantage > 0.0 => token.surrogate = high * advantage,
            true => token.surrogate = low * advantage,
            false => {
                token.surrogate = ratio * advantage;
                token.follow(advantage);
            }
        }
    }
}

/// The ratio, that keeps a part of its gradient beyond the bounds.
fn gradient_preserving_clip(
    clip: &GradientPreservingClip,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let ratio = token.ratio;
        for bound in [1.0 - clip.low, 1.0 + clip.high] {
            // A bound of 0 or below is never met.
            if bound > 0.0 {
                margin.meet(ratio.ln(), bound.ln());
            }
        }
        let above = advantage > 0.0 && ratio > 1.0 + clip.high;
        let below = advantage < 0.0 && ratio < 1.0 - clip.low;
        let scale = match (above, below) {
            (true, _) => clip.high_gradient * (1.0 + clip.high) / token.constant_ratio,
            (_, true) => clip.low_gradient * (1.0 - clip.low) / token.constant_ratio,
            (false, false) => 1.0,
        };
        token.clipped = above || below;
        token.surrogate = scale * ratio * advantage;
        token.follow(scale * advantage);
    }
}

/// A constant weight times `A log_probs`.
fn policy_gradient(
    surrogate: &PolicyGradient,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let (weight, is_cut) = match surrogate.weight {
            ImportanceWeight::None => (1.0, false),
            ImportanceWeight::Ratio(bounds) => cut_ratio(token, bounds, margin),
            ImportanceWeight::RatioWithin(bounds) => match cut_ratio(token, bounds, margin) {
                (_, true) => (0.0, true),
                inside => inside,
            },
            ImportanceWeight::RatioWhereNegative(bounds) => match advantage < 0.0 {
                true => cut_ratio(token, bounds, margin),
                false => (1.0, false),
            },
        };
        token.clipped = is_cut && advantage.abs() > 0.0;
        let slope = weight * advantage;
        token.surrogate = slope * batch.log_probs[i];
        token.by_log_prob = slope;
    }
}

/// The constant ratio of a token, moved into the bounds, and whether it had to be moved.
fn cut_ratio(token: &Token, bounds: Bounds, margin: &Margin) -> (f64, bool) {
    let ratio = token.constant_log_ratio.clamp(-LIMIT, LIMIT).exp();
    for bound in [bounds.low, bounds.high].into_iter().flatten() {
        margin.meet(token.constant_log_ratio, bound.ln());
    }
    let low = bounds.low.unwrap_or(0.0);
    let high = bounds.high.unwrap_or(f64::INFINITY);
    (ratio.clamp(low, high), ratio < low || ratio > high)
}

/// How far a gate that is shut may be open, in proportion to a rounding error.
const SHUT: f64 = 1e-22;

/// A sigmoid of the ratio.
fn sigmoid_gate(gate: &SigmoidGate, batch: &Batch, tokens: &mut [Token]) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let temperature = match advantage > 0.0 {
            true => gate.positive_temperature,
            false => gate.negative_temperature,
        };
        let token = &mut tokens[i];
        let x = temperature * (token.ratio - 1.0);
        let (open, closed) = (1.0 / (1.0 + (-x).exp()), 1.0 / (1.0 + x.exp()));
        token.condition *= 1.0 + temperature * token.ratio;
        token.surrogate = advantage * open * 4.0 / temperature;
        token.follow(advantage * 4.0 * open * closed);
        // Where it is shut, the last digit of an open one may be left.
        token.size.cancelled = SHUT * advantage.abs();
        token.size.cancelled_slope = SHUT * advantage.abs() * token.ratio;
    }
}

/// The geometric mean of clipped ratios.
fn geometric_mean(mean: &GeometricMean, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for row in batch.rows() {
        let n = row.len() as f64;
        let (mut sum, mut advantages) = (0.0, 0.0);
        let (mut exponent, mut advantage_size) = (0.0, 0.0);
        for &i in &row {
            let advantage = batch.advantages[i];
            let token = &mut tokens[i];
            let d = token.log_ratio;
            margin.meet(d, mean.high);
            margin.meet(d, -mean.low);
            margin.meet(d.abs(), LIMIT);
            token.clipped =
                (advantage > 0.0 && d > mean.high) || (advantage < 0.0 && d < -mean.low);
            let moves = !token.clipped && advantage != 0.0 && d.abs() <= LIMIT;
            sum += match (advantage == 0.0, token.clipped) {
                (true, _) => 0.0,
                (false, true) if d > 0.0 => mean.high,
                (false, true) => -mean.low,
                (false, false) => d.clamp(-LIMIT, LIMIT),
            };
            advantages += advantage;
            exponent += d.abs().min(LIMIT) / n;
            advantage_size += advantage.abs() / n;
            // The row shares the logarithm of its geometric mean.
            token.row_slope = if moves { 1.0 / n } else { 0.0 };
        }
        for &i in &row {
            let token = &mut tokens[i];
            token.surrogate = advantages / n * (sum / n).exp();
            token.by_row = token.surrogate;
            token.condition = 1.0 + exponent;
            token.size.cancelled = advantage_size * (sum / n).exp();
        }
    }
}

/// A weight of the ratio of the whole sequence.
fn gamma_weight(weight: &GammaWeight, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for row in batch.rows() {
        let (mut sum, mut size) = (0.0, 0.0);
        for &i in &row {
            let bounded = tokens[i].constant_log_ratio.clamp(-LIMIT, LIMIT);
            sum += bounded;
            size += bounded.abs();
        }
        let least = 1e-8f64.ln();
        margin.meet(sum, least);
        margin.meet(sum, LIMIT);
        let log_ratio = sum.clamp(least, LIMIT);
        for &i in &row {
            let advantage = batch.advantages[i];
            let (k, lambda) = match advantage < 0.0 {
                true => (weight.negative_k, weight.negative_lambda),
                false => (weight.positive_k, weight.positive_lambda),
            };
            let phi = (lambda + k * log_ratio - lambda * log_ratio.exp()).exp();
            let phi = if phi.is_nan() { 0.0 } else { phi };
            let token = &mut tokens[i];
            token.surrogate = phi * advantage * batch.log_probs[i];
            token.by_log_prob = phi * advantage;
            token.condition = 1.0 + lambda + (k + lambda * log_ratio.exp()) * (1.0 + size);
        }
    }
}

/// A trust region of the divergence.
fn trust_region(region: &TrustRegion, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let (log_p, log_q) = (batch.constant_log_probs[i], token.base);
        let (p, q) = (log_p.exp(), log_q.exp());
        token.clipped = match region.divergence {
            Divergence::TotalVariation => {
                (margin.exceeds(p - q, region.high) && advantage > 0.0)
                    || (margin.exceeds(q - p, region.low) && advantage < 0.0)
            }
            Divergence::SymmetricTotalVariation => {
                let risen = margin.exceeds(p - q, region.high);
                let fallen = margin.exceeds(q - p, region.low);
                // A NaN goes on, so that it is seen.
                (risen || fallen) && advantage.abs() > 0.0
            }
            Divergence::Kl => {
                let rest = |p: f64| (1.0 - p).max(1e-8);
                let kl = q * (log_q - log_p) + (1.0 - q) * (rest(q) / rest(p)).ln();
                (margin.exceeds(kl, region.high) && advantage > 0.0 && p > q)
                    || (margin.exceeds(kl, region.low) && advantage < 0.0 && p < q)
            }
        };
        let ratio = token.constant_log_ratio.clamp(-LIMIT, LIMIT).exp();
        margin.meet(token.constant_log_ratio, region.max_ratio.ln());
        if !token.clipped {
            // Not `min`, which drops a NaN.
            let weight = match ratio > region.max_ratio {
                true => region.max_ratio,
                false => ratio,
            };
            match region.form {
                TrustRegionForm::Weight => {
                    token.surrogate = weight * advantage * batch.log_probs[i];
                    token.by_log_prob = weight * advantage;
                }
                TrustRegionForm::Ratio if token.ratio > region.max_ratio => {
                    token.surrogate = region.max_ratio * advantage;
                }
                TrustRegionForm::Ratio => {
                    token.surrogate = token.ratio * advantage;
                    token.follow(advantage);
                }
            }
        }
    }
}

/// `A log_probs` with a squared log-ratio.
fn squared_log_ratio(square: &SquaredLogRatio, batch: &Batch, tokens: &mut [Token]) {
    for i in batch.valid_tokens() {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        token.surrogate = advantage * batch.log_probs[i]
            - square.coefficient / 2.0 * token.log_ratio * token.log_ratio;
        token.by_log_prob = advantage - square.coefficient * token.log_ratio;
        token.size.cancelled = (advantage * batch.log_probs[i]).abs()
            + square.coefficient * token.log_ratio * token.log_ratio;
        token.size.cancelled_slope = advantage.abs() + square.coefficient * token.log_ratio.abs();
    }
}

/// The clip, without a random few of the tokens of high covariance.
fn covariance_clip(
    surrogate: &CovarianceClip,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    let bounds = Clip::new(surrogate.low, surrogate.high);
    clip(&bounds, batch, tokens, margin);
    let mut candidates = Vec::new();
    for (i, covariance) in covariances(batch) {
        let above = margin.exceeds(covariance, surrogate.min_covariance);
        let below = margin.exceeds(surrogate.max_covariance, covariance);
        if above && below && !tokens[i].clipped {
            candidates.push(i);
        }
    }
    let mut random = Random(surrogate.seed);
    let numbers: Vec<u64> = (0..tokens.len()).map(|_| random.bits()).collect();
    candidates.sort_by_key(|i| numbers[*i]);
    candidates.truncate(count(surrogate.share, batch));
    for i in candidates {
        tokens[i].surrogate = 0.0;
        // A token whose advantage is 0 loses nothing.
        tokens[i].clipped = batch.advantages[i] != 0.0;
        tokens[i].follow(0.0);
    }
}

/// The ratio, with a penalty on the tokens of the highest covariance.
fn covariance_penalty(
    surrogate: &CovariancePenalty,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    let mut covariances = covariances(batch);
    covariances.sort_by(|one, other| other.1.total_cmp(&one.1));
    let largest = count(surrogate.share, batch);
    for (rank, (i, covariance)) in covariances.iter().enumerate() {
        let advantage = batch.advantages[*i];
        let token = &mut tokens[*i];
        token.surrogate = token.ratio * advantage;
        token.follow(advantage);
        // Those that tie with the last one count as well.
        let last = covariances[largest.min(covariances.len()) - 1].1;
        if rank + 1 != largest {
            margin.meet(*covariance, last);
        }
        if *covariance >= last {
            margin.meet(token.log_ratio, 0.0);
            token.surrogate -= surrogate.coefficient * token.log_ratio.abs();
            if token.log_ratio != 0.0 {
                token.by_log_prob = -surrogate.coefficient * token.log_ratio.signum();
            }
        }
    }
}

/// The ratio; of the tokens that move away, the furthest are dropped one by one.
fn second_moment_mask(
    mask: &SecondMomentMask,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    let mut rest = moving_away(batch, tokens, margin);
    if let Some(limit) = batch.second_moment_limit {
        for (i, square) in &rest {
            tokens[*i].clipped = reaches(*square, limit, margin);
        }
        rest.clear();
    }
    while let Some((_, furthest)) = rest.last().copied() {
        let mean = rest.iter().map(|(_, square)| square).sum::<f64>() / rest.len() as f64;
        if !margin.exceeds(mean, mask.threshold) {
            break;
        }
        while let Some((i, square)) = rest.last().copied() {
            if square != furthest {
                margin.meet(square, furthest);
                break;
            }
            tokens[i].clipped = true;
            rest.pop();
        }
    }
    for i in batch.valid_tokens() {
        let token = &mut tokens[i];
        if !token.clipped {
            token.surrogate = token.ratio * batch.advantages[i];
            token.follow(batch.advantages[i]);
        }
    }
}

/// The clip, at the distance of the furthest token that the mean of squares lets the others be moved
/// back to.
fn second_moment_clip(
    clip: &SecondMomentClip,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    for i in batch.valid_tokens() {
        tokens[i].surrogate = tokens[i].ratio * batch.advantages[i];
        tokens[i].follow(batch.advantages[i]);
    }
    let away = moving_away(batch, tokens, margin);
    let mean_of = |f: &dyn Fn(f64) -> f64| {
        away.iter().map(|(_, square)| f(*square)).sum::<f64>() / away.len() as f64
    };
    let mut cap = 0.0;
    if let Some(limit) = batch.second_moment_limit {
        cap = limit;
    } else if away.is_empty() || !margin.exceeds(mean_of(&|square| square), clip.threshold) {
        return;
    } else {
        for (_, square) in &away {
            let mean = mean_of(&|other| other.min(*square));
            if margin.exceeds(clip.threshold, mean) {
                cap = *square;
            }
        }
    }
    let distance = cap.sqrt().min(LIMIT);
    let low = (1.0 - clip.min_low).min((-distance).exp());
    let high = (1.0 + clip.min_high).max(distance.exp());
    for (i, square) in away {
        let advantage = batch.advantages[i];
        let token = &mut tokens[i];
        let ratio = token.constant_ratio;
        let (bound, floor) = match advantage > 0.0 {
            true => (high, 1.0 + clip.min_high),
            false => (low, 1.0 - clip.min_low),
        };
        margin.meet(ratio, floor);
        let is_beyond_floor = match advantage > 0.0 {
            true => ratio > floor,
            false => ratio < floor,
        };
        if reaches(square, cap, margin) && is_beyond_floor {
            token.clipped = true;
            token.surrogate = bound * advantage;
            token.follow(0.0);
        }
    }
}

/// Whether a square is as large as a limit, but for a rounding.
fn reaches(square: f64, limit: f64, margin: &Margin) -> bool {
    let is_near = (square - limit).abs() <= 1e-6 * limit;
    let is_on_it = square != limit && limit.is_finite() && is_near;
    if square != limit && !is_on_it {
        margin.meet(square, limit);
    }
    is_on_it || square >= limit
}

/// Valid tokens that move away from the base of the ratio, with their squared log-ratios, the nearest
/// first.
fn moving_away(batch: &Batch, tokens: &[Token], margin: &Margin) -> Vec<(usize, f64)> {
    let mut away = Vec::new();
    for i in batch.valid_tokens() {
        let d = tokens[i].constant_log_ratio;
        let advantage = batch.advantages[i];
        if d != 0.0 && advantage != 0.0 {
            margin.meet(d, 0.0);
        }
        if (advantage > 0.0 && d > 0.0) || (advantage < 0.0 && d < 0.0) {
            away.push((i, d * d));
        }
    }
    away.sort_by(|one, other| one.1.total_cmp(&other.1));
    away
}

/// The number of tokens that a share of the batch holds.
fn count(share: f64, batch: &Batch) -> usize {
    ((batch.valid_tokens().len() as f64 * share + 1e-3) as usize).max(1)
}

/// Each valid token with its covariance.
fn covariances(batch: &Batch) -> Vec<(usize, f64)> {
    let valid = batch.valid_tokens();
    let mean = |values: &[f64]| valid.iter().map(|&i| values[i]).sum::<f64>() / valid.len() as f64;
    let (advantage, log_prob) = (mean(&batch.advantages), mean(&batch.constant_log_probs));
    let covariance =
        |i: usize| (batch.advantages[i] - advantage) * (batch.constant_log_probs[i] - log_prob);
    valid.iter().map(|&i| (i, covariance(i))).collect()
}

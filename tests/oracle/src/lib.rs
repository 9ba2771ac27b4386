//! The policy loss as plain loops over `f64`: no tensor, no vector, no automatic differentiation,
//! and no line shared with what it is the measure of but the types of an objective.
//!
//! The gradient is derived by hand, with the declared sub-gradients: inside a clamp it is 1, a
//! clipped branch carries none, a tie takes the unclipped branch, and beyond a log-ratio of ±20
//! it is 0.

mod batch;
mod correction;
mod future_weight;
mod margin;
mod metrics;
mod penalty;
mod random;
mod ratio;
mod surrogates;

pub use batch::{Batch, Prompts, Scale};
pub use correction::dividing_filter;
pub use metrics::Metrics;
pub use random::Random;

use margin::Margin;
use policy_loss_kernels::Sums;
use policy_loss_kernels::objective::{MissingRolloutLogProbs, Objective, RatioLevel, Reduction};

/// Beyond this, a log-ratio is clamped.
const LIMIT: f64 = 20.0;

/// What comes of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The reduced loss.
    pub loss: f64,
    /// Row by row, 0 at masked positions.
    pub token_losses: Vec<f64>,
    /// d loss / d log_probs, row by row, 0 at masked positions.
    pub gradient: Vec<f64>,
    /// d loss / d entropies, row by row; all 0 without an entropy bonus.
    pub entropy_gradient: Vec<f64>,
    /// Every metric, by a loop of its own.
    pub metrics: Metrics,
    /// The row of sums.
    pub sums: Sums,
    /// What kernels are given, and do not compute.
    pub told: Told,
    /// What the rounding errors of sums and gradient are relative to.
    pub sizes: Sizes,
    /// How near any number came to where a formula changes its branch.
    pub margin: f64,
}

/// What kernels are given, and do not compute, because it is made of many tokens. Row by row, and NaN
/// at masked positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// What the rollout weights were divided by; 1 where they are not normalized.
    pub weight_mean: f64,
    /// The weights by what is behind the tokens; 1 where there are none.
    pub future_weights: Vec<f64>,
    /// The mean log-ratios of segments.
    pub segment_log_ratios: Vec<f64>,
    /// 1 where a filter rejects the segment of a token, else 0.
    pub segment_rejections: Vec<f64>,
}

/// What the rounding errors of results are relative to: sums of absolute values, as if no terms
/// cancelled, and an exponential times one more than the terms of its exponent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Of the reduced loss.
    pub loss: f64,
    /// Of the row of sums.
    pub sums: Sums,
    /// Of the gradient.
    pub gradient: Vec<f64>,
}

/// What one token looks like; masked ones are never read.
#[derive(Clone, Copy, Default)]
struct Token {
    /// `log_probs - base`.
    log_ratio: f64,
    /// The same without a gradient.
    constant_log_ratio: f64,
    /// The log-prob of the base.
    base: f64,
    ratio: f64,
    /// The same without a gradient.
    constant_ratio: f64,
    /// d ratio / d log-prob of the token, where the ratio is its own.
    ratio_slope: f64,
    surrogate: f64,
    /// d surrogate / d ratio.
    by_ratio: f64,
    /// d surrogate / d log-prob, apart from the ratio.
    by_log_prob: f64,
    /// d surrogate / d of the number that the row shares.
    by_row: f64,
    /// d of the number that the row shares / d log-prob of this token.
    row_slope: f64,
    clipped: bool,
    dual_clipped: bool,
    off_policy: bool,
    /// It is dropped for its low entropy.
    low_entropy: bool,
    /// The sampler gave no log-prob.
    missing: bool,
    /// It is dropped for that.
    dropped_missing: bool,
    /// The weight by what is behind.
    future: f64,
    weight: f64,
    truncated: bool,
    zeroed: bool,
    /// A filter rejects its segment.
    segment_rejected: bool,
    /// The divergence, times the ratio where it is multiplied by it.
    kl: f64,
    /// d kl / d log-prob, apart from a ratio that the row shares.
    kl_slope: f64,
    /// d kl / d of the ratio that the row shares.
    kl_by_row: f64,
    /// What the token's loss is multiplied by before the reduction divides.
    of_mean: f64,
    /// d loss / d token loss.
    share: f64,
    /// How many times its own size the error of the surrogate is relative to.
    condition: f64,
    size: TokenSize,
}

/// What the rounding errors of a token's numbers are relative to.
#[derive(Clone, Copy, Default)]
struct TokenSize {
    ratio: f64,
    surrogate: f64,
    /// Of what the surrogate moves by with the token's own log-prob.
    slope: f64,
    by_row: f64,
    future: f64,
    weight: f64,
    kl: f64,
    kl_slope: f64,
    /// What cancels within the surrogate, and within its slope.
    cancelled: f64,
    cancelled_slope: f64,
}

impl Token {
    /// It takes no part in the policy term, whatever its weight.
    fn is_dropped(&self) -> bool {
        self.off_policy || self.low_entropy || self.dropped_missing
    }

    /// The surrogate follows the ratio with this slope.
    fn follow(&mut self, slope: f64) {
        self.by_ratio = slope;
        self.by_row = slope;
    }
}

/// What `objective` makes of `batch`.
///
/// # Panics
///
/// The batch lacks something that the objective reads.
#[must_use]
pub fn solve(objective: &Objective, batch: &Batch, scale: Option<Scale>) -> Answer {
    let margin = Margin::new();
    let mut tokens = vec![Token::default(); batch.valid.len()];
    let batch = &fill_in_missing(objective, batch, &mut tokens);
    ratio::fill(objective.ratio, batch, &mut tokens, &margin);
    surrogates::fill(&objective.surrogate, batch, &mut tokens, &margin);
    mask_off_policy(objective, batch, &mut tokens, &margin);
    mask_low_entropy(objective, batch, &mut tokens, &margin);
    future_weight::fill(objective, batch, &mut tokens, &margin);
    let correction = objective.rollout_correction;
    let weight_mean = correction::fill(correction.as_ref(), batch, &mut tokens, &margin);
    penalty::fill(objective, batch, &mut tokens, &margin);
    share(objective.reduction, batch, scale, &mut tokens);

    let mut answer = Answer {
        loss: 0.0,
        token_losses: vec![0.0; tokens.len()],
        gradient: vec![0.0; tokens.len()],
        entropy_gradient: vec![0.0; tokens.len()],
        metrics: metrics::of(objective, batch, &tokens),
        sums: Sums::default(),
        told: told(objective, weight_mean, batch, &tokens),
        sizes: Sizes {
            loss: 0.0,
            sums: Sums::default(),
            gradient: vec![0.0; tokens.len()],
        },
        margin: margin.least(),
    };
    let kl_coefficient = objective.kl_penalty.map_or(0.0, |it| it.coefficient);
    for row in &ratio::groups(objective.ratio, batch) {
        let (mut of_the_row, mut size_of_the_row) = (0.0, 0.0);
        for &i in row {
            let token = &tokens[i];
            // Whatever it is: 0 times NaN would be NaN.
            let kept = |x: f64| match token.is_dropped() {
                true => 0.0,
                false => x * token.future * token.weight,
            };
            let own = token.by_log_prob + token.by_ratio * token.ratio_slope;
            let mut loss = -kept(token.surrogate) + kl_coefficient * token.kl;
            let slope = -kept(own) + kl_coefficient * token.kl_slope;
            let by_row = -kept(token.by_row) + kl_coefficient * token.kl_by_row;
            let mut bonus_size = 0.0;
            if let Some(bonus) = objective.entropy_bonus
                && !token.low_entropy
            {
                let entropy = bonus.coefficient * batch.entropy(i);
                loss -= entropy;
                bonus_size = entropy.abs();
                answer.entropy_gradient[i] = -bonus.coefficient * token.share;
            }
            answer.token_losses[i] = loss;
            answer.loss += loss * token.share;
            answer.gradient[i] += slope * token.share;
            of_the_row += by_row * token.share;
            let size = &token.size;
            let kept = match token.is_dropped() {
                true => 0.0,
                false => size.future * size.weight,
            };
            let loss = size.surrogate * kept + kl_coefficient * size.kl + bonus_size;
            let slope = size.slope * kept + kl_coefficient * size.kl_slope;
            let by_row = size.by_row * kept + kl_coefficient * token.kl_by_row.abs();
            answer.sizes.loss += loss * token.share;
            answer.sizes.sums.loss += loss * token.of_mean;
            answer.sizes.gradient[i] += slope * token.share;
            size_of_the_row += by_row * token.share;
        }
        for &i in row {
            answer.gradient[i] += of_the_row * tokens[i].row_slope;
            let token = &tokens[i];
            let row_slope = token.row_slope.abs() * token.size.ratio / token.ratio;
            answer.sizes.gradient[i] += size_of_the_row * row_slope;
        }
    }
    metrics::fill(objective, batch, &tokens, &mut answer);
    answer
}

fn told(objective: &Objective, weight_mean: f64, batch: &Batch, tokens: &[Token]) -> Told {
    let nothing = || vec![f64::NAN; tokens.len()];
    let mut told = Told {
        weight_mean,
        future_weights: nothing(),
        segment_log_ratios: nothing(),
        segment_rejections: nothing(),
    };
    for i in batch.valid_tokens() {
        told.future_weights[i] = tokens[i].future;
        told.segment_rejections[i] = f64::from(u8::from(tokens[i].segment_rejected));
    }
    if objective.ratio.level == RatioLevel::Segment {
        for segment in batch.segments() {
            let sum: f64 = segment.iter().map(|&i| tokens[i].log_ratio).sum();
            for &i in &segment {
                told.segment_log_ratios[i] = sum / segment.len() as f64;
            }
        }
    }
    told
}

/// The batch with what stands in for missing log-probs of the sampler.
fn fill_in_missing(objective: &Objective, batch: &Batch, tokens: &mut [Token]) -> Batch {
    let mut filled = batch.clone();
    let Some(rollout) = filled
        .rollout
        .as_mut()
        .filter(|_| objective.reads_rollout())
    else {
        return filled;
    };
    for i in batch.valid_tokens() {
        if !rollout[i].is_nan() {
            continue;
        }
        tokens[i].missing = true;
        match objective.missing_rollout_log_probs {
            MissingRolloutLogProbs::Propagate => {}
            MissingRolloutLogProbs::Drop => {
                tokens[i].dropped_missing = true;
                rollout[i] = batch.old(i);
            }
            MissingRolloutLogProbs::UseOld => rollout[i] = batch.old(i),
        }
    }
    filled
}

/// `exp(d) - 1 - d`, near 0 by its series: nothing would be left of the difference.
#[must_use]
pub fn k3(d: f64) -> f64 {
    match d.abs() < 1e-3 {
        true => d * d / 2.0 * (1.0 + d / 3.0 * (1.0 + d / 4.0 * (1.0 + d / 5.0))),
        false => d.exp_m1() - d,
    }
}

fn mask_off_policy(objective: &Objective, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    let Some(mask) = objective.off_policy_mask else {
        return;
    };
    for row in batch.rows() {
        let sum: f64 = row.iter().map(|&i| tokens[i].constant_log_ratio).sum();
        let far = margin.exceeds(-sum / row.len() as f64, mask.delta);
        for i in row {
            tokens[i].off_policy = far && batch.advantages[i] < 0.0;
        }
    }
}

/// Below the quantile, interpolated between the two entropies that it lies between.
fn mask_low_entropy(objective: &Objective, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    let Some(mask) = objective.entropy_mask else {
        return;
    };
    let valid = batch.valid_tokens();
    // A NaN is the least of all, and dropped nowhere.
    let entropy = |i: usize| match batch.entropy(i).is_nan() {
        true => f64::NEG_INFINITY,
        false => batch.entropy(i),
    };
    let threshold = batch.entropy_threshold.unwrap_or_else(|| {
        let mut sorted: Vec<f64> = valid.iter().map(|i| entropy(*i)).collect();
        sorted.sort_by(f64::total_cmp);
        let place = (1.0 - mask.share) * sorted.len().saturating_sub(1) as f64;
        // A share of whole tokens lies on one of them, whatever its rounding.
        let place = match (place - place.round()).abs() < 1e-6 * (1.0 + place) {
            true => place.round(),
            false => place,
        };
        let ends = [place.floor(), place.ceil()];
        match ends.map(|end| sorted.get(end as usize).copied()) {
            [Some(low), Some(high)] if high > low => low + (high - low) * (place - ends[0]),
            [_, high] => high.unwrap_or(f64::NEG_INFINITY),
        }
    });
    for i in valid {
        if entropy(i) != threshold {
            margin.meet(entropy(i), threshold);
        }
        tokens[i].low_entropy = batch.entropy(i) < threshold;
    }
}

/// What each token's loss is multiplied by in the reduced loss.
fn share(reduction: Reduction, batch: &Batch, scale: Option<Scale>, tokens: &mut [Token]) {
    let rows = batch.rows();
    let sequences = rows.len() as f64;
    let all: usize = rows.iter().map(Vec::len).sum();
    let of_prompt = match reduction {
        Reduction::PromptMean => batch.prompt_shares(),
        Reduction::TokenMean
        | Reduction::SequenceMean
        | Reduction::SequenceSumMean
        | Reduction::FixedLength { .. }
        | Reduction::TokenSum => Vec::new(),
    };
    // Those that have a token here, or the part of them that this batch has.
    let prompts: f64 = match of_prompt.is_empty() {
        true => 0.0,
        false => rows
            .iter()
            .flatten()
            .map(|i| of_prompt[i / batch.tokens])
            .sum(),
    };
    for row in &rows {
        for &i in row {
            let (of_mean, length, count) = match reduction {
                Reduction::TokenMean => (1.0, 1.0, all as f64),
                Reduction::SequenceMean => (1.0 / row.len() as f64, 1.0, sequences),
                Reduction::PromptMean => (of_prompt[i / batch.tokens], 1.0, prompts),
                Reduction::SequenceSumMean => (1.0, 1.0, sequences),
                Reduction::FixedLength { length } => (1.0, length as f64, sequences),
                Reduction::TokenSum => (1.0, 1.0, 1.0),
            };
            let share = of_mean / length;
            tokens[i].of_mean = of_mean;
            tokens[i].share = match scale {
                None => share / count,
                Some(Scale { total, world_size }) => share / total * world_size,
            };
        }
    }
}

//! The ratio of each token, and how it moves with the log-probs.

use policy_loss_kernels::objective::{Behavior, Ratio, RatioLevel};

use crate::{Batch, LIMIT, Margin, Token};

/// Whether tokens share one number with all of their gradients.
pub fn is_shared(ratio: Ratio) -> bool {
    match ratio.level {
        RatioLevel::Token | RatioLevel::SequenceToken => false,
        RatioLevel::Sequence | RatioLevel::SequenceSum | RatioLevel::Segment => true,
    }
}

/// The valid tokens that share a number: those of each sequence, or of each segment.
pub fn groups(ratio: Ratio, batch: &Batch) -> Vec<Vec<usize>> {
    match ratio.level {
        RatioLevel::Token
        | RatioLevel::Sequence
        | RatioLevel::SequenceToken
        | RatioLevel::SequenceSum => batch.rows(),
        RatioLevel::Segment => batch.segments(),
    }
}

pub fn fill(ratio: Ratio, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for row in groups(ratio, batch) {
        let n = row.len() as f64;
        let (mut sum, mut constant_sum, mut size) = (0.0, 0.0, 0.0);
        for &i in &row {
            let base = match ratio.against {
                Behavior::Old => batch.old(i),
                Behavior::Rollout => batch.rollout(i),
            };
            tokens[i].base = base;
            tokens[i].log_ratio = batch.log_probs[i] - base;
            tokens[i].constant_log_ratio = batch.constant_log_probs[i] - base;
            sum += tokens[i].log_ratio;
            size += tokens[i].log_ratio.abs();
            constant_sum += tokens[i].constant_log_ratio;
        }
        for &i in &row {
            let token = &mut tokens[i];
            let log_ratio = match ratio.level {
                RatioLevel::Token => token.log_ratio,
                RatioLevel::Sequence | RatioLevel::Segment => sum / n,
                RatioLevel::SequenceSum => sum,
                RatioLevel::SequenceToken => {
                    // Only the constant part is clamped.
                    let moved = batch.log_probs[i] - batch.constant_log_probs[i];
                    let mean = constant_sum / n;
                    match mean.abs() > LIMIT {
                        true => mean,
                        false => mean + moved,
                    }
                }
            };
            let constant = match ratio.level {
                RatioLevel::Token => token.constant_log_ratio,
                RatioLevel::Sequence | RatioLevel::SequenceToken | RatioLevel::Segment => {
                    constant_sum / n
                }
                RatioLevel::SequenceSum => constant_sum,
            };
            token.constant_ratio = constant.clamp(-LIMIT, LIMIT).exp();
            margin.meet(log_ratio.abs(), LIMIT);
            token.ratio = log_ratio.clamp(-LIMIT, LIMIT).exp();
            let slope = match log_ratio.abs() > LIMIT {
                true => 0.0,
                false => token.ratio,
            };
            let exponent = match ratio.level {
                RatioLevel::Token => token.log_ratio.abs(),
                RatioLevel::Sequence | RatioLevel::SequenceToken | RatioLevel::Segment => size / n,
                RatioLevel::SequenceSum => size,
            };
            token.size.ratio = token.ratio * (1.0 + exponent);
            match ratio.level {
                RatioLevel::Token | RatioLevel::SequenceToken => token.ratio_slope = slope,
                RatioLevel::Sequence | RatioLevel::Segment => token.row_slope = slope / n,
                RatioLevel::SequenceSum => token.row_slope = slope,
            }
        }
    }
}

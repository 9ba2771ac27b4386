//! The policy loss as plain loops over `f64`: no tensor, no broadcasting, no automatic
//! differentiation, and no line shared with the library but the types of its configuration.
//!
//! The gradient is derived by hand, with the declared sub-gradients: inside a clamp it is 1, a
//! clipped branch carries none, a tie takes the unclipped branch, and beyond a log-ratio of ±20
//! it is 0.

mod answer;
mod batch;
mod correction;
mod kl;
mod metrics;
mod ratio;
mod reduction;
mod surrogate;

pub use answer::Answer;
pub use batch::{Batch, Scale};
pub use metrics::Metrics;

use batch::Margin;
use metrics::Observed;
use policy_loss::{KlGradient, PolicyLossConfig};

/// Beyond this, a log-ratio is clamped.
const LIMIT: f64 = 20.0;

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
    weight: f64,
    truncated: bool,
    zeroed: bool,
    kl: f64,
    kl_slope: f64,
    /// d loss / d token loss.
    share: f64,
}

/// What `objective` makes of `batch`.
pub fn solve(objective: &PolicyLossConfig, batch: &Batch, scale: Option<Scale>) -> Answer {
    let margin = Margin::new();
    let mut tokens = vec![Token::default(); batch.valid.len()];
    let rows = batch.rows();
    ratio::fill(objective.ratio, batch, &mut tokens, &margin);
    surrogate::fill(&objective.surrogate, batch, &mut tokens, &margin);
    for row in &rows {
        let mean: f64 = row
            .iter()
            .map(|&i| tokens[i].constant_log_ratio)
            .sum::<f64>();
        let mean = mean / row.len() as f64;
        for &i in row {
            if let Some(mask) = objective.off_policy_mask {
                let far = margin.exceeds(-mean, mask.delta);
                tokens[i].off_policy = far && batch.advantages[i] < 0.0;
            }
        }
    }
    correction::fill(
        objective.rollout_correction.as_ref(),
        batch,
        &mut tokens,
        &margin,
    );
    kl::fill(objective.kl_penalty, batch, &mut tokens, &margin);
    reduction::fill(objective.reduction, batch, scale, &mut tokens);

    let mut answer = Answer::zeros(tokens.len());
    for row in &rows {
        let mut of_the_row = 0.0;
        for &i in row {
            let token = &tokens[i];
            let kept = if token.off_policy { 0.0 } else { token.weight };
            let mut loss = -token.surrogate * kept;
            let own = token.by_log_prob + token.by_ratio * token.ratio_slope;
            let mut slope = -own * kept;
            let mut row_slope = -token.by_row * kept;
            if let Some(penalty) = objective.kl_penalty {
                let mut factor = 1.0;
                if penalty.gradient == KlGradient::ImportanceCorrected {
                    factor = token.ratio;
                    slope += penalty.coefficient * token.kl * token.ratio_slope;
                    if ratio::is_shared(objective.ratio) {
                        row_slope += penalty.coefficient * token.kl;
                    }
                }
                loss += penalty.coefficient * token.kl * factor;
                slope += penalty.coefficient * token.kl_slope * factor;
            }
            if let Some(bonus) = objective.entropy_bonus {
                let entropies = batch.entropies.as_ref().expect("the bonus reads them");
                loss -= bonus.coefficient * entropies[i];
                answer.entropy_gradient[i] = -bonus.coefficient * token.share;
            }
            answer.token_losses[i] = loss;
            answer.loss += loss * token.share;
            answer.gradient[i] += slope * token.share;
            of_the_row += row_slope * token.share;
        }
        for &i in row {
            answer.gradient[i] += of_the_row * tokens[i].row_slope;
        }
    }
    answer.margin = margin.least();
    answer.metrics = Observed {
        objective,
        batch,
        tokens: &tokens,
    }
    .metrics();
    answer
}

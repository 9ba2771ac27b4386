//! The surrogate of each token, one file each, with its gradient by hand.

mod clip;
mod covariance;
mod dppo;
mod geometric_mean;
mod policy_gradient;
mod sapo;
mod vespo;

use policy_loss::Surrogate;

use super::{Batch, LIMIT, Margin, Token};

pub(super) fn fill(surrogate: &Surrogate, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    match surrogate {
        Surrogate::Clip(clip) => clip::fill(clip, batch, tokens, margin),
        Surrogate::Cispo(cispo) => {
            let weight = |r: f64, _| r.clamp(cispo.min.unwrap_or(0.0), cispo.max);
            policy_gradient::fill(weight, [cispo.min, Some(cispo.max)], batch, tokens, margin);
        }
        Surrogate::TruncatedImportance(tis) => {
            let weight = |r: f64, _| r.clamp(tis.low.unwrap_or(0.0), tis.high);
            policy_gradient::fill(weight, [tis.low, Some(tis.high)], batch, tokens, margin);
        }
        Surrogate::Topr(_) => {
            let weight = |r: f64, a: f64| if a > 0.0 { 1.0 } else { r.min(1.0) };
            policy_gradient::fill(weight, [None, Some(1.0)], batch, tokens, margin);
            for (token, advantage) in tokens.iter_mut().zip(&batch.advantages) {
                token.clipped &= *advantage < 0.0;
            }
        }
        Surrogate::Reinforce(_) => {
            policy_gradient::fill(|_, _| 1.0, [None, None], batch, tokens, margin);
        }
        Surrogate::SquaredLogRatio(penalty) => {
            policy_gradient::fill(|_, _| 1.0, [None, None], batch, tokens, margin);
            for token in tokens.iter_mut() {
                token.surrogate -= penalty.coefficient / 2.0 * token.log_ratio.powi(2);
                token.by_log_prob -= penalty.coefficient * token.log_ratio;
            }
        }
        Surrogate::Sapo(sapo) => sapo::fill(sapo, batch, tokens),
        Surrogate::GeometricMean(gmpo) => geometric_mean::fill(gmpo, batch, tokens, margin),
        Surrogate::Vespo(vespo) => vespo::fill(vespo, batch, tokens, margin),
        Surrogate::Dppo(dppo) => dppo::fill(dppo, batch, tokens, margin),
        Surrogate::ClipCov(clip_cov) => covariance::clip_cov(clip_cov, batch, tokens, margin),
        Surrogate::KlCov(kl_cov) => covariance::kl_cov(kl_cov, batch, tokens, margin),
        other => panic!("the oracle has no loop for {other:?}"),
    }
}

/// The valid tokens of a batch, row after row.
fn valid(batch: &Batch) -> Vec<usize> {
    batch.rows().concat()
}

/// A surrogate that follows the ratio with this slope.
fn follow(token: &mut Token, slope: f64) {
    token.by_ratio = slope;
    token.by_row = slope;
}

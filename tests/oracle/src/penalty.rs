//! The divergence from the policy that the penalty is against.

use policy_loss_kernels::objective::{KlBase, KlEstimator, KlGradient, Objective};

use crate::ratio::is_shared;
use crate::{Batch, LIMIT, Margin, Token};

pub fn fill(objective: &Objective, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    let Some(penalty) = objective.kl_penalty else {
        return;
    };
    let reference = match penalty.against {
        KlBase::Reference => batch.reference.as_ref(),
        KlBase::Rollout => batch.rollout.as_ref(),
    };
    let reference = reference.expect("the penalty reads it");
    for i in batch.valid_tokens() {
        let token = &mut tokens[i];
        if token.dropped_missing && penalty.against == KlBase::Rollout {
            continue;
        }
        let q = batch.log_probs[i] - reference[i];
        let constant = batch.constant_log_probs[i] - reference[i];
        let (value, slope) = estimate(penalty.estimator, q, margin);
        let factor = match penalty.gradient {
            KlGradient::Estimator | KlGradient::StraightThrough => 1.0,
            KlGradient::ImportanceCorrected => token.size.ratio,
        };
        token.size.kl = value.abs() * factor;
        // That of k3 is a difference of its terms, and one that follows the ratio has two.
        token.size.kl_slope = (slope.abs() + q.abs() + value.abs()) * factor;
        (token.kl, token.kl_slope) = match penalty.gradient {
            KlGradient::Estimator => (value, slope),
            KlGradient::StraightThrough => {
                let (value, _) = estimate(penalty.estimator, constant, margin);
                (value + (q * q - constant * constant) / 2.0, q)
            }
            KlGradient::ImportanceCorrected => {
                let by_own_ratio = value * token.ratio_slope;
                if is_shared(objective.ratio) {
                    token.kl_by_row = value;
                }
                (value * token.ratio, slope * token.ratio + by_own_ratio)
            }
        };
    }
}

/// The estimate, and its slope in `q`.
fn estimate(estimator: KlEstimator, q: f64, margin: &Margin) -> (f64, f64) {
    match estimator {
        KlEstimator::K1 => (q, 1.0),
        KlEstimator::K2 => (q * q / 2.0, q),
        KlEstimator::K3 => {
            margin.meet(q.abs(), LIMIT);
            let x = (-q).clamp(-LIMIT, LIMIT);
            let slope = if q.abs() > LIMIT { 0.0 } else { -x.exp_m1() };
            (x.exp_m1() - x, slope)
        }
        KlEstimator::Abs => {
            margin.meet(q, 0.0);
            let slope = if q == 0.0 { 0.0 } else { q.signum() };
            (q.abs(), slope)
        }
    }
}

//! The divergence from the policy that the penalty is against.

use policy_loss_kernels::objective::{KlBase, KlEstimator, KlGradient, Objective};

use crate::ratio::is_shared;
use crate::{Batch, LIMIT, Margin, Token, k3};

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
        let within = |x: f64, most: Option<f64>| match most {
            Some(most) => {
                margin.meet(x.abs(), most);
                (x.clamp(-most, most), x.abs() > most)
            }
            None => (x, false),
        };
        let (q, beyond) = within(batch.log_probs[i] - reference[i], penalty.max_log_ratio);
        let (constant, _) = within(
            batch.constant_log_probs[i] - reference[i],
            penalty.max_log_ratio,
        );
        let (value, slope) = estimate(penalty.estimator, q, margin);
        let (at_constant, _) = estimate(penalty.estimator, constant, margin);
        let far = penalty.estimator == KlEstimator::K3 && q.abs() > LIMIT;
        let (value, mut slope) = match penalty.gradient {
            KlGradient::Estimator | KlGradient::ImportanceCorrected => (value, slope),
            // What follows the constant has no slope in this sum.
            KlGradient::StraightThrough => (at_constant + (q * q - constant * constant) / 2.0, q),
            KlGradient::ScoreFunction if far => (value, 0.0),
            KlGradient::ScoreFunction => {
                (value + at_constant * (q - constant), slope + at_constant)
            }
        };
        let (value, out) = within(value, penalty.max_divergence);
        if beyond || out {
            slope = 0.0;
        }
        let factor = match penalty.gradient {
            KlGradient::Estimator | KlGradient::StraightThrough | KlGradient::ScoreFunction => 1.0,
            KlGradient::ImportanceCorrected => token.size.ratio,
        };
        token.size.kl = value.abs() * factor;
        // That of k3 is a difference of its terms, and one that follows the ratio has two.
        token.size.kl_slope = (slope.abs() + q.abs() + value.abs()) * factor;
        (token.kl, token.kl_slope) = match penalty.gradient {
            KlGradient::Estimator | KlGradient::StraightThrough | KlGradient::ScoreFunction => {
                (value, slope)
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
            (k3(x), slope)
        }
        KlEstimator::Abs => {
            margin.meet(q, 0.0);
            let slope = if q == 0.0 { 0.0 } else { q.signum() };
            (q.abs(), slope)
        }
    }
}

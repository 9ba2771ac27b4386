//! The divergence from the reference policy.

use policy_loss::{KlEstimator, KlGradient, KlPenalty};

use super::{Batch, LIMIT, Margin, Token};

pub(super) fn fill(
    penalty: Option<KlPenalty>,
    batch: &Batch,
    tokens: &mut [Token],
    margin: &Margin,
) {
    let Some(penalty) = penalty else { return };
    let reference = batch.reference.as_ref().expect("the penalty reads it");
    for i in (0..tokens.len()).filter(|i| batch.valid[*i]) {
        let q = batch.log_probs[i] - reference[i];
        let constant = batch.constant_log_probs[i] - reference[i];
        let (value, slope) = estimate(penalty.estimator, q, margin);
        (tokens[i].kl, tokens[i].kl_slope) = match penalty.gradient {
            KlGradient::Estimator | KlGradient::ImportanceCorrected => (value, slope),
            KlGradient::StraightThrough => {
                let (value, _) = estimate(penalty.estimator, constant, margin);
                (value + (q * q - constant * constant) / 2.0, q)
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

//! The weight of each token by what becomes of those behind it.

use policy_loss_kernels::objective::{Bounds, Objective};

use crate::{Batch, LIMIT, Margin, Token};

pub fn fill(objective: &Objective, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for token in tokens.iter_mut() {
        token.future = 1.0;
        token.size.future = 1.0;
    }
    let Some(config) = objective.future_weight else {
        return;
    };
    for row in batch.rows() {
        for (nth, &i) in row.iter().enumerate() {
            let (mut future, mut size) = (0.0, 0.0);
            for &k in &row[nth..] {
                let d = tokens[k].constant_log_ratio;
                if let Some(max_ratio) = config.max_ratio
                    && margin.exceeds(d, max_ratio.ln())
                {
                    continue;
                }
                let factor = config.discount.powi((k - i) as i32);
                // Nothing that is left counts; long rows would take turns in the square of their length.
                if factor > 0.0 && factor < 1e-30 {
                    break;
                }
                future += factor * d;
                size += factor * d.abs();
            }
            let mut weight = future.clamp(-LIMIT, LIMIT).exp();
            if let Some(bounds) = config.bounds {
                weight = clamped(bounds, weight);
            }
            if let Some(guard) = config.guard
                && batch.advantages[i] < 0.0
                && margin.exceeds(tokens[i].constant_ratio.ln(), guard.ratio.ln())
            {
                weight = clamped(guard.bounds, weight);
            }
            tokens[i].future = weight;
            tokens[i].size.future = weight * (1.0 + size);
        }
    }
}

fn clamped(bounds: Bounds, x: f64) -> f64 {
    let low = bounds.low.unwrap_or(0.0);
    x.clamp(low, bounds.high.unwrap_or(f64::INFINITY))
}

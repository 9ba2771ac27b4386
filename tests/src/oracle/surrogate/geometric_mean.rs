//! The geometric mean of clipped ratios.

use policy_loss::GeometricMean;

use super::{Batch, LIMIT, Margin, Token};

pub(super) fn fill(gmpo: &GeometricMean, batch: &Batch, tokens: &mut [Token], margin: &Margin) {
    for row in batch.rows() {
        let n = row.len() as f64;
        let (mut sum, mut advantages) = (0.0, 0.0);
        for &i in &row {
            let advantage = batch.advantages[i];
            let token = &mut tokens[i];
            let d = token.log_ratio;
            margin.meet(d, gmpo.high);
            margin.meet(d, -gmpo.low);
            margin.meet(d.abs(), LIMIT);
            token.clipped =
                (advantage > 0.0 && d > gmpo.high) || (advantage < 0.0 && d < -gmpo.low);
            let moves = !token.clipped && advantage != 0.0 && d.abs() <= LIMIT;
            sum += match (advantage == 0.0, token.clipped) {
                (true, _) => 0.0,
                (false, true) if d > 0.0 => gmpo.high,
                (false, true) => -gmpo.low,
                (false, false) => d.clamp(-LIMIT, LIMIT),
            };
            advantages += advantage;
            // The row shares the logarithm of its geometric mean.
            token.row_slope = if moves { 1.0 / n } else { 0.0 };
        }
        for &i in &row {
            tokens[i].surrogate = advantages / n * (sum / n).exp();
            tokens[i].by_row = tokens[i].surrogate;
        }
    }
}

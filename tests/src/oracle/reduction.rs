//! What each token's loss is multiplied by in the reduced loss.

use policy_loss::Reduction;

use super::{Batch, Scale, Token};

pub(super) fn fill(
    reduction: Reduction,
    batch: &Batch,
    scale: Option<Scale>,
    tokens: &mut [Token],
) {
    let rows = batch.rows();
    let sequences = rows.len() as f64;
    let all: usize = rows.iter().map(Vec::len).sum();
    for row in &rows {
        for &i in row {
            let (share, count) = match reduction {
                Reduction::TokenMean => (1.0, all as f64),
                Reduction::SequenceMean => (1.0 / row.len() as f64, sequences),
                Reduction::SequenceSumMean => (1.0, sequences),
                Reduction::FixedLength { length } => (1.0 / length as f64, sequences),
                Reduction::TokenSum => (1.0, 1.0),
            };
            tokens[i].share = match scale {
                None => share / count,
                Some(Scale { total, world_size }) => share / total * world_size,
            };
        }
    }
}

//! From logits, or from hidden states without the logits, to log-probs and entropies.

mod backends;
mod checks;
mod chunked;
mod columns;
mod composed;
mod config;
mod distillation;
mod divergence;
mod eager;
mod head;
mod kept;
mod linear;
mod logits;
#[doc(hidden)]
pub mod ops;
mod plan;
mod policy_loss;
mod prepared;
mod seam;
mod shard;
mod softmax;
mod tokens;

use std::ops::Range;

use burn::tensor::Tensor;

pub use config::{Entropy, HalfProducts, LogProbsConfig, TokenLogProbs};
pub use distillation::{
    Distillation, DistillationConfig, Tail, TeacherDivergence, TokenDistributions, TopK,
};
pub use head::LinearHead;
pub use kept::KeptTokens;
pub use shard::{ShardPartials, VocabularyShard};
pub use tokens::LogProbsTokens;

/// Log-probs of tokens, and the entropies of the distributions that they were drawn from; f64
/// where the logits or hidden states are, else f32.
#[derive(Debug, Clone)]
pub struct LogProbs<const D: usize> {
    /// Log-probs, tracked; 0 where a mask is false.
    pub log_probs: Tensor<D>,
    /// Entropies, where the configuration asks for them; tracked where it says so; 0 where a mask
    /// is false.
    pub entropies: Option<Tensor<D>>,
    /// Sums of the squared probabilities, where the configuration asks for them, tracked; 0 where a
    /// mask is false.
    pub sums_of_squares: Option<Tensor<D>>,
}

/// Tiles of matrix units fit it, and slices that begin at a multiple of it are views.
const TILE: usize = 256;

/// Chunks of nearly the same length, in whole tiles where there is room, none of them longer than
/// `longest`.
fn chunks(tokens: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = tokens.div_ceil(longest.max(1)).max(1);
    let length = tokens.div_ceil(count).max(1);
    let length = match length.next_multiple_of(TILE) {
        tiles if length > TILE && tiles <= longest => tiles,
        _ => length,
    };
    (0..tokens)
        .step_by(length)
        .map(move |start| start..tokens.min(start + length))
}

#[cfg(test)]
mod tests {
    use super::{TILE, chunks};

    #[test]
    fn long_chunks_are_whole_tiles() {
        for (tokens, longest) in [(49_152, 20_000), (5000, 1280), (128_256, 10_000)] {
            for chunk in chunks(tokens, longest) {
                assert!(chunk.start.is_multiple_of(TILE) && chunk.len() <= longest);
            }
        }
    }

    #[test]
    fn chunks_cover_all_tokens_once() {
        for tokens in 0..40 {
            for longest in 1..42 {
                let chunks: Vec<_> = chunks(tokens, longest).collect();
                let all: Vec<_> = chunks.iter().cloned().flatten().collect();
                assert_eq!(all, (0..tokens).collect::<Vec<_>>());
                assert!(chunks.iter().all(|chunk| chunk.len() <= longest));
                assert_eq!(chunks.len(), tokens.div_ceil(longest));
            }
        }
    }
}

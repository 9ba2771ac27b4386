//! From logits, or from hidden states without the logits, to log-probs and entropies.

#[cfg(feature = "fused")]
mod backends;
mod checks;
mod composed;
mod config;
#[cfg(feature = "fused")]
mod default;
#[cfg(feature = "fused")]
mod eager;
mod head;
mod linear;
mod logits;
#[cfg(feature = "fused")]
#[doc(hidden)]
pub mod ops;
mod policy_loss;
mod seam;

#[cfg(feature = "fused")]
use std::ops::Range;

use burn::tensor::Tensor;

pub use config::{Entropy, LogProbsConfig, TokenLogProbs};
pub use head::LinearHead;

/// Log-probs of tokens, and the entropies of the distributions that they were drawn from; f64
/// where the logits or hidden states are, else f32.
#[derive(Debug, Clone)]
pub struct LogProbs<const D: usize> {
    /// Log-probs, tracked; 0 where a mask is false.
    pub log_probs: Tensor<D>,
    /// Entropies, where the configuration asks for them; tracked where it says so; 0 where a mask
    /// is false.
    pub entropies: Option<Tensor<D>>,
}

/// Chunks of nearly the same length, none of them longer than `longest`.
#[cfg(feature = "fused")]
fn chunks(tokens: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = tokens.div_ceil(longest.max(1)).max(1);
    let length = tokens.div_ceil(count).max(1);
    (0..tokens)
        .step_by(length)
        .map(move |start| start..tokens.min(start + length))
}

#[cfg(all(test, feature = "fused"))]
mod tests {
    use super::chunks;

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

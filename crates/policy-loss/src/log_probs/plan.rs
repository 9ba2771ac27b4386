//! How the plane of tokens times words is cut, and what is computed of it.

use std::ops::Range;

use burn::tensor::{DType, Device};

use super::config::LogProbsConfig;
use super::{TILE, VocabularyShard, seam};
use crate::composed::arithmetic;

/// How log-probs are computed, resolved for one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Where logits are bounded, before they are divided by a temperature.
    pub softcap: Option<f64>,
    /// Whether the entropies are computed.
    pub entropy: bool,
    /// Whether a gradient can reach the entropies.
    pub entropy_gradient: bool,
    /// Whether the sums of squared probabilities are computed.
    pub squares: bool,
    /// Of how many other words the log-probs are computed, too; only where nothing else is.
    pub candidates: usize,
    /// How many words there are.
    pub words: usize,
    /// Which they are, where they are not the whole vocabulary.
    pub shard: Option<VocabularyShard>,
    /// Tokens whose logits are held at once.
    pub chunk_tokens: usize,
    /// Words whose logits are held at once in the backward pass.
    pub chunk_words: usize,
    /// Tokens whose logits are held at once in the forward pass of hidden states, for all words.
    pub forward_tokens: usize,
    /// Whether there are hidden states and a weight; if not, logits stand in the place of hidden states.
    pub has_weight: bool,
    /// Whether the weight is `[V, H]`.
    pub transposed: bool,
    /// Whether the bias is one, and not a stand-in.
    pub has_bias: bool,
}

impl Settings {
    /// The words that there are.
    pub fn range(self) -> Range<usize> {
        let first = self.shard.map_or(0, |shard| shard.first);
        first..first + self.words
    }
}

/// What has to be computed.
#[derive(Debug, Clone, Copy)]
pub struct Plane {
    pub tokens: usize,
    /// The length of a hidden state; 0 where logits are given.
    pub width: usize,
    pub vocabulary: usize,
    /// What is multiplied.
    pub dtype: DType,
    /// Whether a gradient will be asked for.
    pub is_tracked: bool,
    /// Whether that of the weight will be.
    pub is_weight_tracked: bool,
}

/// Tokens and words whose logits are held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Tokens in the backward pass.
    pub tokens: usize,
    /// Words in the backward pass.
    pub words: usize,
    /// Tokens in the forward pass, which has all words.
    pub forward_tokens: usize,
}

/// Below as many tokens in a chunk, products of a chunk leave matrix units idle, and adding each
/// chunk's gradient of the weight to the sum takes longer than multiplying the logits a second time.
const FEW_TOKENS: usize = 1024;

impl Cut {
    /// The cut that a configuration means on a device.
    pub fn of(plane: Plane, config: &LogProbsConfig, device: &Device) -> Self {
        let budget = config
            .memory_budget
            .unwrap_or_else(|| seam::default_memory_budget(device));
        let is_gpu = seam::is_gpu(device);
        let cut = Self::within(budget, plane, is_gpu);
        // The kernels of a GPU count in 32 bits.
        let most = |words: usize| match is_gpu {
            true => (i32::MAX as usize / words.max(1)).max(1),
            false => usize::MAX,
        };
        let tokens = config.chunk_tokens.unwrap_or(cut.tokens);
        let forward_tokens = config.chunk_tokens.unwrap_or(cut.forward_tokens);
        let words = match (config.chunk_words, config.chunk_tokens) {
            (Some(words), _) => words.min(plane.vocabulary),
            (None, Some(_)) => plane.vocabulary,
            (None, None) => cut.words,
        };
        Self {
            tokens: tokens.min(most(words)),
            words,
            forward_tokens: forward_tokens.min(most(plane.vocabulary)),
        }
    }

    fn within(budget: usize, plane: Plane, blocks_pay: bool) -> Self {
        let wide = arithmetic(plane.dtype).size();
        // The gradient of the logits takes their place, or stands beside them in a half type.
        let gradient = match plane.dtype.size() == wide {
            true => 0,
            false => plane.dtype.size(),
        };
        let logit = wide + if plane.is_tracked { gradient } else { 0 };
        let tokens = fitting(budget, plane.vocabulary, logit);
        let by_tokens = Self {
            tokens,
            words: plane.vocabulary,
            forward_tokens: tokens,
        };
        // A product of one chunk, and a sum where the gradient itself is of a half type.
        let parts = plane.width * plane.vocabulary * wide * if gradient == 0 { 1 } else { 2 };
        let is_cheap = by_tokens.tokens >= FEW_TOKENS && parts <= budget;
        if !blocks_pay || !plane.is_weight_tracked || by_tokens.tokens >= plane.tokens || is_cheap {
            return by_tokens;
        }
        // All tokens at once, as long as blocks are not slim.
        let words = fitting(budget, plane.tokens, logit)
            .max(4 * TILE)
            .min(plane.vocabulary);
        Self {
            tokens: fitting(budget, words, logit),
            words,
            forward_tokens: fitting(budget, plane.vocabulary, wide),
        }
    }
}

/// How many rows of `length` numbers of `bytes` fit, in whole tiles where there is one.
fn fitting(budget: usize, length: usize, bytes: usize) -> usize {
    let rows = (budget / length.saturating_mul(bytes).max(1)).max(1);
    match rows > TILE {
        true => rows - rows % TILE,
        false => rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Plane = Plane {
        tokens: 2048,
        width: 576,
        vocabulary: 49_152,
        dtype: DType::F32,
        is_tracked: true,
        is_weight_tracked: true,
    };
    const LARGE: Plane = Plane {
        tokens: 4096,
        width: 4096,
        vocabulary: 128_256,
        dtype: DType::BF16,
        is_tracked: true,
        is_weight_tracked: true,
    };

    #[test]
    fn what_fits_is_not_cut() {
        for (plane, budget) in [(SMALL, 512 << 20), (LARGE, 4 << 30)] {
            let cut = Cut::within(budget, plane, true);
            assert!(cut.tokens >= plane.tokens, "{cut:?}");
            assert_eq!(cut.words, plane.vocabulary);
        }
    }

    #[test]
    fn a_large_weight_gradient_is_written_block_by_block() {
        let cut = Cut::within(384 << 20, LARGE, true);
        assert!(cut.tokens >= LARGE.tokens, "{cut:?}");
        assert!(
            cut.words < LARGE.vocabulary && cut.words.is_multiple_of(TILE),
            "{cut:?}"
        );
        // A small one is summed over chunks, which multiplies less.
        let cut = Cut::within(256 << 20, SMALL, true);
        assert_eq!(
            cut,
            Cut {
                tokens: 1280,
                words: SMALL.vocabulary,
                forward_tokens: 1280,
            }
        );
    }

    #[test]
    fn nothing_but_a_weight_gradient_needs_blocks() {
        let frozen = Plane {
            is_weight_tracked: false,
            ..LARGE
        };
        assert_eq!(Cut::within(256 << 20, frozen, true).words, LARGE.vocabulary);
        assert_eq!(Cut::within(256 << 20, LARGE, false).words, LARGE.vocabulary);
    }

    #[test]
    fn the_budget_is_kept() {
        for tokens in [1, 100, 5000, 100_000] {
            for budget in [32 << 20, 128 << 20, 1 << 30] {
                let plane = Plane { tokens, ..LARGE };
                let cut = Cut::within(budget, plane, true);
                let held = cut.tokens.min(tokens) * cut.words * 6;
                assert!(held <= budget, "{plane:?}, {budget}: {cut:?}");
                let held = cut.forward_tokens.min(tokens) * plane.vocabulary * 4;
                assert!(held <= budget, "{plane:?}, {budget}: {cut:?}");
            }
        }
    }
}

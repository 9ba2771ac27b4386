//! Inputs that were checked, one token after another, and where results belong.

use burn::tensor::kind::Basic;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

use super::config::{Entropy, TokenLogProbs};
use super::linear::{emptied, scattered};
use super::plan::Settings;
use super::seam::{self, Head, Tokens};
use super::{LogProbs, LogProbsTokens, VocabularyShard, checks, composed};
use crate::BatchError;
use crate::alike::Alike;

/// What is computed.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub head: Head,
    pub tokens: Tokens,
    pub settings: Settings,
    pub is_fused: bool,
}

impl Work {
    /// Values, as in `RowStatistics`.
    pub fn values(self) -> Tensor<2> {
        match self.is_fused {
            true => seam::log_probs(self),
            false => composed::log_probs(self),
        }
    }
}

/// Where results belong.
#[derive(Debug, Clone)]
pub(super) struct Place<const E: usize> {
    /// The shape of results.
    pub outer: [usize; E],
    /// Tokens that are computed, and whose results are 0.
    pub masked: Option<Tensor<1, Bool>>,
    pub chosen: Chosen,
    pub device: Device,
    /// The type of the arithmetic.
    pub dtype: DType,
}

/// Which tokens are computed.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// Their places; absent where all are.
    pub places: Option<Tensor<1, Int>>,
    /// Whether no token is valid, and one stands in.
    pub is_empty: bool,
}

impl Chosen {
    /// All tokens.
    pub const ALL: Self = Self {
        places: None,
        is_empty: false,
    };

    /// The valid tokens, or all.
    pub fn new(valid: &mut Option<Vec<usize>>, plain: &Device) -> Self {
        let is_empty = valid.as_ref().is_some_and(Vec::is_empty);
        if is_empty {
            // One token keeps all shapes, and the graph, as they are. It changes nothing: no
            // gradient reaches it, and its values are not used.
            *valid = Some(vec![0]);
        }
        let places = valid.as_ref().map(|valid| {
            let places: Vec<i64> = valid.iter().map(|index| *index as i64).collect();
            let shape = [places.len()];
            Tensor::from_data(TensorData::new(places, shape), plain)
        });
        Self { places, is_empty }
    }

    /// What is given of them.
    pub fn select<const D: usize, K: Basic>(&self, all: Tensor<D, K>) -> Tensor<D, K> {
        match &self.places {
            Some(places) => all.select(0, places.clone()),
            None => all,
        }
    }

    /// Their logits or hidden states; exactly 0 of one that stands in.
    pub fn rows(&self, all: Tensor<2>) -> Tensor<2> {
        match self.is_empty {
            true => emptied(self.select(all)),
            false => self.select(all),
        }
    }
}

impl<const E: usize> Place<E> {
    /// All tokens, whose arithmetic is of a type.
    pub fn of_all(alike: Alike<E>, dtype: DType) -> Self {
        Self {
            outer: alike.shape,
            masked: None,
            chosen: Chosen::ALL,
            device: alike.device,
            dtype,
        }
    }

    /// Numbers of the tokens that are computed, at their places; 0 elsewhere.
    pub fn put(&self, row: Tensor<1>) -> Tensor<E> {
        let row = match self.chosen.is_empty {
            true => emptied(row),
            false => row,
        };
        let row = match &self.masked {
            Some(masked) => row.mask_fill(masked.clone(), 0.0),
            None => row,
        };
        let row = match &self.chosen.places {
            Some(places) => {
                let count = self.outer.iter().product();
                scattered(row, places.clone(), count, self.dtype)
            }
            None => row,
        };
        row.reshape(self.outer)
    }

    /// Zeros, for a batch without a token.
    pub fn none<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::zeros(shape, (&self.device, self.dtype))
    }
}

impl TokenLogProbs {
    /// Checks what goes with logits of `words` words: the size of the vocabulary, and whether the
    /// device's backend computes a chunk at a time.
    pub(super) fn check<const E: usize>(
        &self,
        tokens: &LogProbsTokens<E>,
        alike: &Alike<E>,
        words: usize,
        shard: Option<VocabularyShard>,
    ) -> Result<(usize, bool), BatchError> {
        let vocabulary = checks::vocabulary(shard, words)?;
        tokens.check(alike, vocabulary, &self.config)?;
        Ok((vocabulary, self.is_fused(words, &alike.device)?))
    }

    /// What was prepared, computed.
    pub(super) fn finished<const E: usize>(
        &self,
        work: Option<Work>,
        place: &Place<E>,
    ) -> LogProbs<E> {
        match work {
            Some(work) => self.split(work.values(), place),
            None => self.of_no_tokens(place),
        }
    }

    /// Log-probs, and what goes with them, out of the rows of one tensor.
    pub(super) fn split<const E: usize>(&self, values: Tensor<2>, place: &Place<E>) -> LogProbs<E> {
        let row = |index: usize| {
            let row = values.clone().narrow(0, index, 1);
            place.put(row.squeeze_dim::<1>(0))
        };
        LogProbs {
            log_probs: row(0),
            entropies: match self.config.entropy {
                Entropy::None => None,
                Entropy::Metric => Some(row(1).without_autodiff()),
                Entropy::Tracked => Some(row(1)),
            },
            sums_of_squares: self
                .config
                .sum_of_squares
                .then(|| row(values.dims()[0] - 1)),
        }
    }

    /// The results of a batch without a token.
    pub(super) fn of_no_tokens<const E: usize>(&self, place: &Place<E>) -> LogProbs<E> {
        let zeros = place.none(place.outer);
        LogProbs {
            log_probs: zeros.clone(),
            entropies: (self.config.entropy != Entropy::None).then(|| zeros.clone()),
            sums_of_squares: self.config.sum_of_squares.then_some(zeros),
        }
    }
}

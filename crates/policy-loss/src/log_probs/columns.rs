//! The columns of a chunk's logits that the sampler kept: a softmax over a set of words is that
//! over a few columns. The target's is the first, so that it is there whether it was kept or not.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{DType, IndexingUpdateOp, Shape};

use super::VocabularyShard;
use super::kept::KeptTokens;
use super::softmax::{known, places};

/// Columns of logits of some words.
pub struct Columns<B: Backend> {
    /// `[N, K]`, no place twice in a row; 0 where there is none.
    places: IntTensor<B>,
    /// `[N, K]`: where there is none.
    absent: BoolTensor<B>,
    /// `[N]`: the column of the target; -1 where the target is not in the vocabulary.
    targets: IntTensor<B>,
}

impl<B: Backend> Columns<B> {
    /// The columns of `words`, of a vocabulary of `vocabulary`, for lists that are sorted.
    pub fn new(
        kept: &KeptTokens,
        targets: IntTensor<B>,
        words: Range<usize>,
        vocabulary: usize,
    ) -> Self {
        let device = targets.device();
        let settings = get_device_settings::<B>(&device);
        let (ints, bools) = (settings.int_dtype, settings.bool_dtype);
        let [tokens] = targets.shape().dims();
        let targets = B::int_cast(targets, ints);
        let (_, unknown) = known::<B>(targets.clone(), 0..vocabulary);
        let columns = B::int_zeros(Shape::from([tokens]), &device, ints);

        let target = places::<B>(targets, words.clone());
        let target = B::int_reshape(target, Shape::from([tokens, 1]));
        let others = B::int_from_data(kept.places(&words).convert_dtype(ints.into()), &device);
        let is_target = B::int_equal(
            others.clone(),
            B::int_expand(target.clone(), others.shape()),
            bools,
        );
        let others = B::int_mask_fill(others, is_target, (-1).into());
        let places = B::int_cat(vec![target, others], 1);
        let absent = B::int_lower_elem(places.clone(), 0.into(), bools);
        Self {
            places: B::int_mask_fill(places, absent.clone(), 0.into()),
            absent,
            targets: B::int_mask_fill(columns, unknown, (-1).into()),
        }
    }

    /// The words of a row of [`gathered`](Self::gathered) logits.
    pub fn words(&self) -> VocabularyShard {
        VocabularyShard::all(self.places.shape()[1])
    }

    /// The column of each target.
    pub fn targets(&self) -> IntTensor<B> {
        self.targets.clone()
    }

    /// The logits of the columns, `[N, K]`; where there is none, some other word's.
    pub fn gathered(&self, logits: FloatTensor<B>) -> FloatTensor<B> {
        B::float_gather(1, logits, self.places.clone())
    }

    /// The logits of the columns, and -inf where there is none.
    pub fn without_absent(&self, columns: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mask_fill(columns, self.absent.clone(), f64::NEG_INFINITY.into())
    }

    /// The gradient of the logits of `words` words, from that of the columns: 0 everywhere else.
    pub fn scattered(&self, gradient: FloatTensor<B>, words: usize) -> FloatTensor<B> {
        let [tokens, _] = gradient.shape().dims();
        let dtype: DType = gradient.dtype();
        // A softcap has an infinite slope at -inf, and 0 times it is NaN.
        let gradient = B::float_mask_fill(gradient, self.absent.clone(), 0.0.into());
        let zeros = B::float_zeros(
            Shape::from([tokens, words]),
            &gradient.device(),
            dtype.into(),
        );
        B::float_scatter(
            1,
            zeros,
            self.places.clone(),
            gradient,
            IndexingUpdateOp::Add,
        )
    }
}

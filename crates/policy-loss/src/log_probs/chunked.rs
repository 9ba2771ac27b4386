//! The loops over chunks of tokens and blocks of words, for every backend.
//!
//! What has to be computed is a plane of tokens times words, of which a part is held at once. Chunks
//! of tokens have all words: what is known of a row, and its gradient, come from one look at them;
//! but each chunk adds to the whole gradient of the weight. Blocks of words have all tokens: each
//! writes its part of that gradient once, from what the forward pass has learned of each row.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, IndexingUpdateOp, Shape, Slice};

use super::columns::Columns;
use super::ops::{
    HeadGradients, HeadLogits, HeadTensors, LogProbsOps, RowStatistics, Settings, TokenTensors,
    Wanted,
};
use super::softmax::{Rows, column, idle, known, places, scaled, widened};
use super::{VocabularyShard, chunks};
use crate::composed::arithmetic;

/// What the forward pass leaves behind, and what the backward pass brings.
pub struct Known<B: Backend> {
    pub tokens: TokenTensors<B>,
    pub statistics: RowStatistics<B>,
    pub upstream: FloatTensor<B>,
}

pub fn head_logits<B: LogProbsOps>(
    head: HeadTensors<B>,
    tokens: TokenTensors<B>,
    settings: Settings,
) -> HeadLogits<B> {
    let choices = Choices::new(tokens, 0..settings.words, settings.shard());
    let logits = choices.logits(logits::<B>(head, settings), settings);
    HeadLogits {
        statistics: choices.statistics(logits.clone(), settings),
        logits,
    }
}

/// `hidden * weight + bias`, in the type of the arithmetic; what stands in the place of hidden states
/// where there is no weight.
pub fn logits<B: LogProbsOps>(head: HeadTensors<B>, settings: Settings) -> FloatTensor<B> {
    if !settings.has_weight {
        return head.hidden;
    }
    let into = arithmetic(head.hidden.dtype());
    let logits = B::product(head.hidden, as_columns::<B>(head.weight, settings), into);
    match settings.has_bias {
        true => {
            let words = head.bias.shape().num_elements();
            B::float_add(logits, B::float_reshape(head.bias, Shape::from([1, words])))
        }
        false => logits,
    }
}

/// What tokens choose from: the words that their logits are of, or a few columns of them.
struct Choices<B: Backend> {
    words: VocabularyShard,
    tokens: TokenTensors<B>,
    /// Absent where all words are left.
    columns: Option<Columns<B>>,
}

impl<B: LogProbsOps> Choices<B> {
    /// Of logits of some of `words`, counted from the first of them.
    fn new(tokens: TokenTensors<B>, some: Range<usize>, words: VocabularyShard) -> Self {
        let VocabularyShard { first, vocabulary } = words;
        let words = first + some.start..first + some.end;
        match tokens.kept {
            Some(kept) => {
                let columns = Columns::new(&kept, tokens.targets, words, vocabulary);
                Self {
                    words: columns.words(),
                    tokens: TokenTensors {
                        targets: columns.targets(),
                        scales: tokens.scales,
                        candidates: tokens.candidates,
                        kept: None,
                    },
                    columns: Some(columns),
                }
            }
            None => Self {
                words: VocabularyShard::new(words.start, vocabulary),
                tokens,
                columns: None,
            },
        }
    }

    /// What is left of `logits`, bounded where they are to be.
    fn logits(&self, logits: FloatTensor<B>, settings: Settings) -> FloatTensor<B> {
        match &self.columns {
            Some(columns) => {
                let logits = columns.gathered(logits);
                columns.without_absent(bounded::<B>(logits, settings))
            }
            None => bounded::<B>(logits, settings),
        }
    }

    /// What is known of each row of what is left. A target that is not there has a log-prob that
    /// means nothing.
    fn statistics(&self, logits: FloatTensor<B>, settings: Settings) -> RowStatistics<B> {
        let [_, here] = logits.shape().dims();
        let VocabularyShard { first, vocabulary } = self.words;
        let mut tokens = self.tokens.clone();
        if here < vocabulary {
            tokens.targets = places::<B>(tokens.targets, first..first + here);
        }
        if settings.candidates == 0 {
            return B::softmax_statistics(logits, tokens, settings);
        }
        let candidates = tokens.candidates.clone();
        let scales = tokens.scales.clone();
        let alone = settings.without_candidates();
        let RowStatistics { values, moments } =
            B::softmax_statistics(logits.clone(), tokens, alone);
        let (candidates, unknown) = known::<B>(candidates, 0..here);
        let chosen = scaled::<B>(B::float_gather(1, logits, candidates), &scales);
        let distance = B::float_sub(chosen, column::<B>(&moments, 0));
        let log_probs = B::float_sub(distance, column::<B>(&moments, 1));
        let log_probs = B::float_mask_fill(log_probs, unknown, f64::NAN.into());
        RowStatistics {
            values: B::float_cat(vec![values, B::float_transpose(log_probs)], 0),
            moments,
        }
    }

    /// The gradient of all `here` logits of a row, as numbers of type `into`, from those that are
    /// left.
    fn gradient(
        self,
        logits: FloatTensor<B>,
        here: usize,
        statistics: RowStatistics<B>,
        upstream: FloatTensor<B>,
        settings: Settings,
        into: DType,
    ) -> FloatTensor<B> {
        let rows = Rows {
            logits,
            words: self.words,
            tokens: self.tokens,
            statistics,
            upstream,
        };
        let gradient = gradient_of_logits::<B>(rows, settings, into);
        match self.columns {
            Some(columns) => columns.scattered(gradient, here),
            None => gradient,
        }
    }
}

/// `cap * tanh(logits / cap)`, in the type of the arithmetic.
pub fn bounded<B: Backend>(logits: FloatTensor<B>, settings: Settings) -> FloatTensor<B> {
    let Some(cap) = settings.softcap else {
        return logits;
    };
    let share = B::float_div_scalar(widened::<B>(logits), cap.into());
    B::float_mul_scalar(B::float_tanh(share), cap.into())
}

/// The gradient of logits before they were bounded, as numbers of type `into`.
fn gradient_of_logits<B: LogProbsOps>(
    rows: Rows<B>,
    settings: Settings,
    into: DType,
) -> FloatTensor<B> {
    if settings.softcap.is_none() {
        return gradient_of_bounded(rows, settings, into);
    }
    let idle = idle::<B>(&rows.upstream);
    let logits = rows.logits.clone();
    let wide = logits.dtype();
    let gradient = gradient_of_bounded(rows, settings, wide);
    cast::<B>(before_bound::<B>(gradient, logits, idle, settings), into)
}

/// The gradient of logits before they were bounded, from that of the bounded `logits`.
pub fn before_bound<B: Backend>(
    gradient: FloatTensor<B>,
    logits: FloatTensor<B>,
    idle: BoolTensor<B>,
    settings: Settings,
) -> FloatTensor<B> {
    let Some(cap) = settings.softcap else {
        return gradient;
    };
    let idle = B::bool_expand(idle, logits.shape());
    let share = B::float_div_scalar(logits, cap.into());
    let square = B::float_mul(share.clone(), share);
    let slope = B::float_neg(B::float_sub_scalar(square, 1.0.into()));
    // A row that no gradient reaches may hold anything, and 0 * NaN is NaN.
    B::float_mask_fill(B::float_mul(gradient, slope), idle, 0.0.into())
}

/// The gradient of logits that are bounded where they are to be, as numbers of type `into`.
fn gradient_of_bounded<B: LogProbsOps>(
    rows: Rows<B>,
    settings: Settings,
    into: DType,
) -> FloatTensor<B> {
    let Rows {
        logits,
        words,
        tokens,
        statistics,
        upstream,
    } = rows;
    if settings.candidates == 0 {
        return B::softmax_gradient(logits, words, tokens, statistics, upstream, settings, into);
    }
    // Each log-prob takes its gradient from all words, as a target's does, and adds it at its own. The
    // target itself, word 0, has none: words that are counted from 1 leave it out.
    let [count, here] = logits.shape().dims();
    let rows = 1..1 + settings.candidates;
    let of_candidates = B::float_slice(upstream, &[slice(&rows)]);
    let sum = B::float_sum_dim(of_candidates.clone(), 0);
    let statistics = RowStatistics {
        values: B::float_slice(statistics.values, &[slice(&(0..1))]),
        ..statistics
    };
    let scales = B::float_reshape(tokens.scales.clone(), Shape::from([count, 1]));
    let own = B::float_mul(B::float_transpose(of_candidates), scales);
    let candidates = tokens.candidates.clone();
    let (places, elsewhere) = known::<B>(candidates, words.first..words.first + here);
    let places = B::int_sub_scalar(places, words.first.into());
    let own = B::float_mask_fill(own, elsewhere, 0.0.into());
    let alone = settings.without_candidates();
    let wide = arithmetic(logits.dtype());
    let from_one = VocabularyShard::new(words.first + 1, words.vocabulary + 1);
    let gradient = B::softmax_gradient(logits, from_one, tokens, statistics, sum, alone, wide);
    let gradient = B::float_scatter(1, gradient, places, own, IndexingUpdateOp::Add);
    cast::<B>(gradient, into)
}

pub fn head_gradients<B: LogProbsOps>(
    logits: HeadLogits<B>,
    head: HeadTensors<B>,
    tokens: TokenTensors<B>,
    upstream: FloatTensor<B>,
    gradients: HeadGradients<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    let HeadLogits { logits, statistics } = logits;
    let words = settings.words;
    let narrow = head.hidden.dtype();
    let idle = idle::<B>(&upstream);
    let (upstream, factor) = within_range::<B>(upstream, narrow);
    let choices = Choices::new(tokens, 0..words, settings.shard());
    let logits = choices.gradient(logits, words, statistics, upstream, settings, narrow);
    let of_logits = LogitsGradient {
        logits,
        idle,
        factor,
    };
    products(of_logits, head, gradients, settings, wanted)
}

/// The gradients of a head, chunk by chunk. They are handed on, so that the memory of a sum has one
/// owner, which adds in place.
pub struct Sums<B: Backend> {
    wanted: Wanted,
    hidden: Vec<FloatTensor<B>>,
    gradients: HeadGradients<B>,
}

impl<B: Backend> Sums<B> {
    /// What is wanted of a head, of all its tokens.
    pub fn new(head: &HeadTensors<B>, settings: Settings, wanted: Wanted) -> Self {
        Self {
            wanted: Wanted {
                in_parts: head.hidden.shape()[0] > settings.chunk_tokens,
                ..wanted
            },
            hidden: Vec::new(),
            gradients: stand_ins(head),
        }
    }

    /// With those of a chunk, as from `LogProbsOps::head_gradients`.
    pub fn add(mut self, chunk: impl FnOnce(HeadGradients<B>, Wanted) -> HeadGradients<B>) -> Self {
        self.gradients = chunk(self.gradients, self.wanted);
        if self.wanted.hidden {
            self.hidden.push(self.gradients.hidden.clone());
        }
        self
    }

    /// Those of all chunks.
    pub fn finish(self, weight: DType) -> HeadGradients<B> {
        let mut gradients = self.gradients;
        if self.wanted.hidden {
            gradients.hidden = B::float_cat(self.hidden, 0);
        }
        if self.wanted.weight {
            gradients.weight = cast::<B>(gradients.weight, weight);
        }
        gradients
    }
}

/// The gradient of a chunk's logits, as numbers of the type of the hidden states.
pub struct LogitsGradient<B: Backend> {
    pub logits: FloatTensor<B>,
    /// The rows that no gradient reaches.
    pub idle: BoolTensor<B>,
    /// What belongs to the results, as from [`within_range`].
    pub factor: Option<FloatTensor<B>>,
}

/// The gradients of a chunk, as `LogProbsOps::head_gradients`.
pub fn products<B: LogProbsOps>(
    of_logits: LogitsGradient<B>,
    head: HeadTensors<B>,
    gradients: HeadGradients<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    let LogitsGradient {
        logits,
        idle,
        factor,
    } = of_logits;
    if !settings.has_weight {
        return HeadGradients {
            hidden: logits,
            ..gradients
        };
    }
    let narrow = head.hidden.dtype();
    let wide = arithmetic(narrow);
    // Hidden states that no gradient reaches may hold anything, and 0 * NaN is NaN.
    let idle = B::bool_expand(idle, head.hidden.shape());
    let hidden = B::float_mask_fill(head.hidden, idle.clone(), 0.0.into());
    let kept = |gradient: FloatTensor<B>, sum: FloatTensor<B>, into: DType| {
        let gradient = multiplied::<B>(gradient, &factor);
        let gradient = match is_stand_in::<B>(&sum) {
            true => gradient,
            false => B::float_add(sum, gradient),
        };
        cast::<B>(gradient, if wanted.in_parts { wide } else { into })
    };
    // Rounded by the product itself, where nothing is added or multiplied after it.
    let rounded = |is_last: bool| match is_last && factor.is_none() {
        true => narrow,
        false => wide,
    };
    HeadGradients {
        hidden: match wanted.hidden {
            true => {
                let weight = as_rows::<B>(head.weight, settings);
                // 0 times an infinite weight, or an infinite factor, is NaN, too.
                let gradient = B::product(logits.clone(), weight, rounded(true));
                let gradient = multiplied::<B>(gradient, &factor);
                cast::<B>(B::float_mask_fill(gradient, idle, 0.0.into()), narrow)
            }
            false => gradients.hidden,
        },
        weight: match wanted.weight {
            true => {
                let gradient =
                    of_weight::<B>(hidden, logits.clone(), settings, rounded(!wanted.in_parts));
                kept(gradient, gradients.weight, narrow)
            }
            false => gradients.weight,
        },
        bias: match wanted.bias {
            true => kept(of_bias::<B>(logits), gradients.bias, wide),
            false => gradients.bias,
        },
    }
}

pub fn log_probs<B: LogProbsOps>(
    head: HeadTensors<B>,
    tokens: TokenTensors<B>,
    settings: Settings,
) -> RowStatistics<B> {
    let [count, _] = head.hidden.shape().dims();
    let rows = chunks(count, settings.forward_tokens).map(|range| {
        B::head_logits(rows_of(&head, &range), tokens.of(&range), settings).statistics
    });
    joined::<B>(rows.collect())
}

pub fn log_probs_backward<B: LogProbsOps>(
    head: HeadTensors<B>,
    known: Known<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    if !settings.has_weight {
        return of_logits(head, known, settings);
    }
    // A chunk of tokens learns of its rows again, a block of words does not: of a shard it could not.
    let is_part = settings.chunk_words < settings.words;
    match is_part || settings.shard.is_some() {
        true => by_words(head, known, settings, wanted),
        false => by_tokens(head, known, settings, wanted),
    }
}

/// The gradient of logits, which takes no product, and so no other look at them.
fn of_logits<B: LogProbsOps>(
    head: HeadTensors<B>,
    known: Known<B>,
    settings: Settings,
) -> HeadGradients<B> {
    let [tokens, words] = head.hidden.shape().dims();
    let into = head.hidden.dtype();
    let gradients = chunks(tokens, settings.forward_tokens).map(|range| {
        let Known {
            tokens,
            statistics,
            upstream,
        } = known.of(&range);
        let logits = rows_of(&head, &range).hidden;
        let choices = Choices::new(tokens, 0..words, settings.shard());
        let logits = choices.logits(logits, settings);
        choices.gradient(logits, words, statistics, upstream, settings, into)
    });
    HeadGradients {
        hidden: B::float_cat(gradients.collect(), 0),
        ..stand_ins(&head)
    }
}

fn by_tokens<B: LogProbsOps>(
    head: HeadTensors<B>,
    known: Known<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    let [tokens, _] = head.hidden.shape().dims();
    let weight_type = head.weight.dtype();
    let mut sums = Sums::new(&head, settings, wanted);
    for range in chunks(tokens, settings.chunk_tokens) {
        let head = rows_of(&head, &range);
        let Known {
            tokens, upstream, ..
        } = known.of(&range);
        let logits = B::head_logits(head.clone(), tokens.clone(), settings);
        sums = sums.add(|sums, wanted| {
            B::head_gradients(logits, head, tokens, upstream, sums, settings, wanted)
        });
    }
    sums.finish(weight_type)
}

fn by_words<B: LogProbsOps>(
    mut head: HeadTensors<B>,
    known: Known<B>,
    settings: Settings,
    wanted: Wanted,
) -> HeadGradients<B> {
    let [tokens, width] = head.hidden.shape().dims();
    let narrow = head.hidden.dtype();
    let wide = arithmetic(narrow);
    let device = head.hidden.device();
    let idle = B::bool_expand(idle::<B>(&known.upstream), head.hidden.shape());
    // Hidden states that no gradient reaches may hold anything, and 0 * NaN is NaN.
    head.hidden = B::float_mask_fill(head.hidden, idle.clone(), 0.0.into());
    let (upstream, factor) = within_range::<B>(known.upstream, narrow);
    let known = Known { upstream, ..known };
    let mut gradients = stand_ins(&head);
    if wanted.weight {
        gradients.weight = B::float_zeros(head.weight.shape(), &device, narrow.into());
    }
    let mut of_hidden: Vec<Option<FloatTensor<B>>> =
        vec![None; chunks(tokens, settings.chunk_tokens).count()];
    let mut of_biases = Vec::new();
    let in_parts = of_hidden.len() > 1;
    for words in chunks(settings.words, settings.chunk_words) {
        let block = words_of(&head, &words, settings);
        let mut sum: Option<FloatTensor<B>> = None;
        let mut sum_of_bias: Option<FloatTensor<B>> = None;
        for (range, of_hidden) in chunks(tokens, settings.chunk_tokens).zip(&mut of_hidden) {
            let part = rows_of(&block, &range);
            let Known {
                tokens,
                statistics,
                upstream,
            } = known.of(&range);
            let choices = Choices::new(tokens, words.clone(), settings.shard());
            let left = choices.logits(logits::<B>(part.clone(), settings), settings);
            let here = words.len();
            let logits = choices.gradient(left, here, statistics, upstream, settings, narrow);
            if wanted.hidden {
                let weight = as_rows::<B>(part.weight, settings);
                let gradient = B::product(logits.clone(), weight, wide);
                *of_hidden = Some(added::<B>(of_hidden.take(), gradient));
            }
            if wanted.bias {
                sum_of_bias = Some(added::<B>(sum_of_bias, of_bias::<B>(logits.clone())));
            }
            if wanted.weight {
                let into = match in_parts || factor.is_some() {
                    true => wide,
                    false => narrow,
                };
                let gradient = of_weight::<B>(part.hidden, logits, settings, into);
                sum = Some(added::<B>(sum, gradient));
            }
        }
        if let Some(sum) = sum {
            let block = cast::<B>(multiplied::<B>(sum, &factor), narrow);
            let slices = across(&words, width, settings);
            gradients.weight = B::float_slice_assign(gradients.weight, &slices, block);
        }
        of_biases.extend(sum_of_bias);
    }
    if wanted.hidden {
        let gradient = B::float_cat(of_hidden.into_iter().flatten().collect(), 0);
        let gradient = multiplied::<B>(gradient, &factor);
        // 0 times an infinite weight, or an infinite factor, is NaN, too.
        let gradient = B::float_mask_fill(gradient, idle, 0.0.into());
        gradients.hidden = cast::<B>(gradient, narrow);
    }
    if wanted.bias {
        gradients.bias = multiplied::<B>(B::float_cat(of_biases, 0), &factor);
    }
    gradients
}

/// `left * right` of numbers of one type, in a type that may be wider.
pub fn product<B: Backend>(
    left: FloatTensor<B>,
    right: FloatTensor<B>,
    into: DType,
) -> FloatTensor<B> {
    B::float_matmul(cast::<B>(left, into), cast::<B>(right, into))
}

pub fn scaled_gradient<B: Backend>(
    gradient: FloatTensor<B>,
    factor: FloatTensor<B>,
) -> FloatTensor<B> {
    let dtype = gradient.dtype();
    cast::<B>(
        multiplied::<B>(widened::<B>(gradient), &Some(factor)),
        dtype,
    )
}

impl Settings {
    /// The same for the targets alone.
    fn without_candidates(self) -> Self {
        Self {
            candidates: 0,
            ..self
        }
    }

    /// The words that there are.
    fn shard(self) -> VocabularyShard {
        self.shard.unwrap_or(VocabularyShard::all(self.words))
    }
}

impl<B: Backend> TokenTensors<B> {
    /// What is given of some of the tokens.
    pub fn of(&self, tokens: &Range<usize>) -> Self {
        Self {
            targets: B::int_slice(self.targets.clone(), &[slice(tokens)]),
            scales: B::float_slice(self.scales.clone(), &[slice(tokens)]),
            candidates: B::int_slice(self.candidates.clone(), &[slice(tokens)]),
            kept: self.kept.as_ref().map(|kept| kept.slice(tokens)),
        }
    }
}

impl<B: Backend> Known<B> {
    /// The part of some tokens.
    fn of(&self, tokens: &Range<usize>) -> Self {
        let columns = |rows: &FloatTensor<B>| {
            let all = 0..rows.shape()[0];
            B::float_slice(rows.clone(), &[slice(&all), slice(tokens)])
        };
        Self {
            tokens: self.tokens.of(tokens),
            statistics: RowStatistics {
                values: columns(&self.statistics.values),
                moments: columns(&self.statistics.moments),
            },
            upstream: columns(&self.upstream),
        }
    }
}

/// f16 has no small numbers, and the mean over many tokens makes small gradients: for it they are
/// divided by the largest of them, which is the factor that belongs to the results.
pub fn within_range<B: Backend>(
    upstream: FloatTensor<B>,
    narrow: DType,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    if narrow != DType::F16 {
        return (upstream, None);
    }
    let largest = B::float_max(B::float_abs(upstream.clone()));
    let largest = B::float_clamp_min(largest, f64::from(f32::MIN_POSITIVE).into());
    let divisor = B::float_reshape(largest.clone(), Shape::from([1, 1]));
    (B::float_div(upstream, divisor), Some(largest))
}

/// `tensor * factor`; `factor` holds one number.
fn multiplied<B: Backend>(
    tensor: FloatTensor<B>,
    factor: &Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    match factor {
        Some(factor) => {
            let ones = vec![1; tensor.shape().num_dims()];
            B::float_mul(tensor, B::float_reshape(factor.clone(), Shape::from(ones)))
        }
        None => tensor,
    }
}

/// The gradient of the weight, in its layout.
fn of_weight<B: LogProbsOps>(
    hidden: FloatTensor<B>,
    logits: FloatTensor<B>,
    settings: Settings,
    into: DType,
) -> FloatTensor<B> {
    let (left, right) = match settings.transposed {
        true => (logits, hidden),
        false => (hidden, logits),
    };
    B::product(B::float_transpose(left), right, into)
}

/// The gradient of the bias, in the type of the arithmetic.
fn of_bias<B: Backend>(logits: FloatTensor<B>) -> FloatTensor<B> {
    let [_, words] = logits.shape().dims();
    B::float_reshape(
        B::float_sum_dim(widened::<B>(logits), 0),
        Shape::from([words]),
    )
}

/// The weight as `[H, V]`.
fn as_columns<B: Backend>(weight: FloatTensor<B>, settings: Settings) -> FloatTensor<B> {
    match settings.transposed {
        true => B::float_transpose(weight),
        false => weight,
    }
}

/// The weight as `[V, H]`.
fn as_rows<B: Backend>(weight: FloatTensor<B>, settings: Settings) -> FloatTensor<B> {
    match settings.transposed {
        true => weight,
        false => B::float_transpose(weight),
    }
}

fn added<B: Backend>(sum: Option<FloatTensor<B>>, more: FloatTensor<B>) -> FloatTensor<B> {
    match sum {
        Some(sum) => B::float_add(sum, more),
        None => more,
    }
}

pub fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => B::float_cast(tensor, dtype.into()),
    }
}

/// One number in place of each gradient.
fn stand_ins<B: Backend>(head: &HeadTensors<B>) -> HeadGradients<B> {
    let stand_in = |like: &FloatTensor<B>| {
        B::float_zeros(Shape::from([1]), &like.device(), like.dtype().into())
    };
    HeadGradients {
        hidden: stand_in(&head.hidden),
        weight: stand_in(&head.weight),
        bias: stand_in(&head.bias),
    }
}

/// A sum that can be added to in place: zeros where one number stands for it.
#[cfg(feature = "host")]
pub fn begun<B: Backend>(
    sum: FloatTensor<B>,
    like: &FloatTensor<B>,
    is_wanted: bool,
) -> FloatTensor<B> {
    match is_wanted && is_stand_in::<B>(&sum) {
        true => B::float_zeros(like.shape(), &like.device(), like.dtype().into()),
        false => sum,
    }
}

/// Whether nothing was added to a gradient of a weight or bias yet: a vocabulary has more than one
/// word.
fn is_stand_in<B: Backend>(gradient: &FloatTensor<B>) -> bool {
    gradient.shape().num_elements() == 1
}

fn joined<B: Backend>(rows: Vec<RowStatistics<B>>) -> RowStatistics<B> {
    let (values, moments) = rows
        .into_iter()
        .map(|row| (row.values, row.moments))
        .unzip();
    RowStatistics {
        values: B::float_cat(values, 1),
        moments: B::float_cat(moments, 1),
    }
}

pub fn rows_of<B: Backend>(head: &HeadTensors<B>, tokens: &Range<usize>) -> HeadTensors<B> {
    HeadTensors {
        hidden: B::float_slice(head.hidden.clone(), &[slice(tokens)]),
        ..head.clone()
    }
}

fn words_of<B: Backend>(
    head: &HeadTensors<B>,
    words: &Range<usize>,
    settings: Settings,
) -> HeadTensors<B> {
    let [_, width] = head.hidden.shape().dims();
    HeadTensors {
        weight: B::float_slice(head.weight.clone(), &across(words, width, settings)),
        bias: match settings.has_bias {
            true => B::float_slice(head.bias.clone(), &[slice(words)]),
            false => head.bias.clone(),
        },
        ..head.clone()
    }
}

/// Some words of a weight, in its layout.
fn across(words: &Range<usize>, width: usize, settings: Settings) -> [Slice; 2] {
    let width = slice(&(0..width));
    match settings.transposed {
        true => [slice(words), width],
        false => [width, slice(words)],
    }
}

pub fn slice(range: &Range<usize>) -> Slice {
    Slice::from(range.clone())
}

//! The seam between log-probs and each backend: what it computes, with a default in Burn's own
//! operations.

// Burn marks NdArray as deprecated, and the macro below names it; of no backend it reads nothing.
#![allow(deprecated)]
#![cfg_attr(not(any(feature = "host", feature = "cube")), allow(unused_variables))]

#[cfg(all(feature = "fusion", feature = "cube"))]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};
use burn::tensor::DType;
#[cfg(all(feature = "fusion", feature = "cube"))]
use burn::tensor::Shape;

pub use super::plan::Settings;
use super::{KeptTokens, TeacherDivergence, VocabularyShard, chunked, divergence, softmax};

impl Settings {
    /// How many values there are of each token.
    pub fn values(self) -> usize {
        1 + usize::from(self.entropy) + usize::from(self.squares) + self.candidates
    }

    /// The row of the sums of squared probabilities among the values, if they are computed: the
    /// last one.
    pub fn squares_row(self) -> Option<usize> {
        self.squares.then(|| self.values() - 1)
    }
}

/// Hidden states and a head; or logits in the place of hidden states, and no weight.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct HeadTensors<B: Backend> {
    /// `[N, H]`; of a half type only where the backend multiplies it as it is. Logits `[N, V]`, of any
    /// float type.
    pub hidden: FloatTensor<B>,
    /// `[H, V]` or `[V, H]`, of the same type; one number where there is none.
    pub weight: FloatTensor<B>,
    /// `[V]`, in f64 where the hidden states are, else in f32; `[1]` where there is none.
    pub bias: FloatTensor<B>,
}

/// What is given of each token.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct TokenTensors<B: Backend> {
    /// `[N]`.
    pub targets: IntTensor<B>,
    /// `[N]`, `1 / temperature`, which logits are multiplied by; in f64 where they are, else in f32.
    pub scales: FloatTensor<B>,
    /// `[N, K]`, other words whose log-probs are asked for; one a token stands for none.
    pub candidates: IntTensor<B>,
    /// What was kept of the vocabulary, in sorted lists; absent where all of it was, and where logits
    /// are of nothing else.
    pub kept: Option<KeptTokens>,
}

/// What is known of each row of logits; in f64 where the logits are, else in f32.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct RowStatistics<B: Backend> {
    /// `[1, N]`: log-probs; with a row more each where entropies, and then where sums of squared
    /// probabilities are computed, or for each candidate.
    pub values: FloatTensor<B>,
    /// `[2, N]`: the largest scaled logit, and `log(sum(exp(z - largest)))`. Kept apart, because
    /// their sum would lose digits where the logits are large.
    pub moments: FloatTensor<B>,
}

/// A chunk's logits with their statistics.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct HeadLogits<B: Backend> {
    /// `[N, V]`, bounded where they are to be, not scaled; of kept tokens `[N, K]`, their columns.
    pub logits: FloatTensor<B>,
    #[extension_type]
    pub statistics: RowStatistics<B>,
}

/// Gradients of a head, each of the type of what it is the gradient of; one number stands for a
/// gradient that is not wanted, or to which nothing was added yet.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct HeadGradients<B: Backend> {
    /// `[N, H]`.
    pub hidden: FloatTensor<B>,
    /// In the layout of the weight.
    pub weight: FloatTensor<B>,
    /// `[V]`.
    pub bias: FloatTensor<B>,
}

/// How a divergence is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    pub divergence: TeacherDivergence,
    pub student: Settings,
    pub teacher: Settings,
}

/// Which gradients are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub hidden: bool,
    pub weight: bool,
    pub bias: bool,
    /// Whether those of weight and bias are sums over several chunks, which are kept in f64 where
    /// the hidden states are, else in f32.
    pub in_parts: bool,
}

/// Log-probs of a backend.
///
/// In each method a row without an upstream gradient is left out: whatever it holds, its own
/// gradient is exactly 0, and it adds nothing to the others.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(all(feature = "fusion", feature = "cube")),
    Autodiff,
)]
pub trait LogProbsOps: Backend {
    /// What is known of each row of logits, `[N, V]` of any float type, which are bounded already.
    #[fusion(meta = |logits: &TensorSpec, _: &_, settings: &Settings| {
        statistics_of(logits, settings)
    })]
    fn softmax_statistics(
        logits: FloatTensor<Self>,
        #[extension_type] tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let _ = (logits, tokens, settings);
        unreachable!("every backend that is connected has a kernel")
    }

    /// The gradient of the logits of some words, as numbers of type `into`, for a gradient
    /// `upstream` of the values.
    #[fusion(dtype = *into, shape = logits)]
    fn softmax_gradient(
        logits: FloatTensor<Self>,
        words: VocabularyShard,
        #[extension_type] tokens: TokenTensors<Self>,
        #[extension_type] statistics: RowStatistics<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
        into: DType,
    ) -> FloatTensor<Self> {
        let rows = softmax::Rows {
            logits,
            words,
            tokens,
            statistics,
            upstream,
        };
        softmax::softmax_gradient::<Self>(rows, settings, into)
    }

    /// The product of two matrices of one type, summed and written as numbers of type `into`, which
    /// is theirs or a wider one.
    #[fusion(dtype = *into, shape = product_shape(left, right))]
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        into: DType,
    ) -> FloatTensor<Self> {
        chunked::product::<Self>(left, right, into)
    }

    /// The logits of a chunk, with their statistics.
    #[fusion(default)]
    fn head_logits(
        #[extension_type] head: HeadTensors<Self>,
        #[extension_type] tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> HeadLogits<Self> {
        chunked::head_logits::<Self>(head, tokens, settings)
    }

    /// The gradients of a chunk, from its logits: that of the hidden states, and `gradients` with
    /// those of weight and bias added. In place where nobody else holds the logits.
    #[fusion(default)]
    fn head_gradients(
        #[extension_type] logits: HeadLogits<Self>,
        #[extension_type] head: HeadTensors<Self>,
        #[extension_type] tokens: TokenTensors<Self>,
        upstream: FloatTensor<Self>,
        #[extension_type] gradients: HeadGradients<Self>,
        settings: Settings,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        chunked::head_gradients::<Self>(logits, head, tokens, upstream, gradients, settings, wanted)
    }

    /// Log-probs, a chunk at a time.
    #[fusion(meta = |head: &HeadTensorsMetadata, _: &_, settings: &Settings| {
        statistics_of(&head.hidden, settings)
    })]
    fn log_probs(
        #[extension_type] head: HeadTensors<Self>,
        #[extension_type] tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        chunked::log_probs::<Self>(head, tokens, settings)
    }

    /// The gradients of hidden states and head for a gradient `upstream` of the values, computing each
    /// chunk's logits again.
    #[fusion(meta = |head: &HeadTensorsMetadata, _: &_, _: &_, _: &_, _: &_, wanted: &Wanted| {
        gradients_of(head, wanted)
    })]
    fn log_probs_backward(
        #[extension_type] head: HeadTensors<Self>,
        #[extension_type] tokens: TokenTensors<Self>,
        #[extension_type] statistics: RowStatistics<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        let known = chunked::Known {
            tokens,
            statistics,
            upstream,
        };
        chunked::log_probs_backward::<Self>(head, known, settings, wanted)
    }

    /// The values of `statistics`, whose gradients are those of
    /// [`log_probs_backward`](Self::log_probs_backward).
    #[fusion(default)]
    fn log_probs_with(
        #[extension_type] head: HeadTensors<Self>,
        #[extension_type] tokens: TokenTensors<Self>,
        #[extension_type] statistics: RowStatistics<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        // Outside of autodiff a result has no gradients.
        let _ = (head, tokens, settings);
        statistics.values
    }

    /// The divergence of two distributions at each token, `[1, N]`, a chunk at a time.
    #[fusion(meta = |student: &HeadTensorsMetadata, _: &_, _: &_, _: &_, _: &_| {
        rows_of(&student.hidden, 1)
    })]
    fn divergence(
        #[extension_type] student: HeadTensors<Self>,
        #[extension_type] teacher: HeadTensors<Self>,
        #[extension_type] of_student: TokenTensors<Self>,
        #[extension_type] of_teacher: TokenTensors<Self>,
        pair: Pair,
    ) -> FloatTensor<Self> {
        let (student, teacher) = ((student, of_student), (teacher, of_teacher));
        divergence::divergence::<Self>(student, teacher, pair)
    }

    /// The gradients of the student of a divergence, computing each chunk's logits again.
    #[fusion(meta = |student: &HeadTensorsMetadata, _: &_, _: &_, _: &_, _: &_, _: &_, wanted: &Wanted| {
        gradients_of(student, wanted)
    })]
    fn divergence_backward(
        #[extension_type] student: HeadTensors<Self>,
        #[extension_type] teacher: HeadTensors<Self>,
        #[extension_type] of_student: TokenTensors<Self>,
        #[extension_type] of_teacher: TokenTensors<Self>,
        upstream: FloatTensor<Self>,
        pair: Pair,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        let (student, teacher) = ((student, of_student), (teacher, of_teacher));
        divergence::gradients::<Self>(student, teacher, upstream, pair, wanted)
    }

    /// A result whose gradients with respect to hidden states and head are known already.
    #[fusion(default)]
    fn with_gradients(
        result: FloatTensor<Self>,
        #[extension_type] head: HeadTensors<Self>,
        #[extension_type] gradients: HeadGradients<Self>,
    ) -> FloatTensor<Self> {
        // Outside of autodiff a result has no gradients.
        let _ = (head, gradients);
        result
    }

    /// `gradient * factor`; `factor` holds one number.
    #[fusion(default)]
    fn scaled_gradient(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        chunked::scaled_gradient::<Self>(gradient, factor)
    }
}

/// So many numbers for each row.
#[cfg(all(feature = "fusion", feature = "cube"))]
fn rows_of(rows: &TensorSpec, count: usize) -> TensorSpec {
    let arithmetic = crate::composed::arithmetic(rows.dtype);
    TensorSpec::new([count, rows.shape[0]].into(), arithmetic)
}

#[cfg(all(feature = "fusion", feature = "cube"))]
fn statistics_of(rows: &TensorSpec, settings: &Settings) -> RowStatisticsMetadata {
    RowStatisticsMetadata {
        values: rows_of(rows, settings.values()),
        moments: rows_of(rows, 2),
    }
}

#[cfg(all(feature = "fusion", feature = "cube"))]
fn gradients_of(head: &HeadTensorsMetadata, wanted: &Wanted) -> HeadGradientsMetadata {
    let of = |tensor: &TensorSpec, is_wanted: bool| match is_wanted {
        true => tensor.clone(),
        false => TensorSpec::new([1].into(), tensor.dtype),
    };
    HeadGradientsMetadata {
        hidden: of(&head.hidden, wanted.hidden),
        weight: of(&head.weight, wanted.weight),
        bias: of(&head.bias, wanted.bias),
    }
}

#[cfg(all(feature = "fusion", feature = "cube"))]
fn product_shape(left: &Shape, right: &Shape) -> Shape {
    Shape::from([left[0], right[1]])
}

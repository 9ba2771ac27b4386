//! The seam between log-probs and each backend: what it computes, with a default in Burn's own
//! operations.

// Burn marks NdArray as deprecated, and the macro below names it.
#![allow(deprecated)]

#[cfg(all(feature = "fusion", feature = "cube"))]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};

use super::default;

/// How log-probs are computed. Resolved: nothing here is optional.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What logits are multiplied by, `1 / temperature`.
    pub scale: f64,
    /// Whether the entropies are computed.
    pub entropy: bool,
    /// Whether a gradient can reach the entropies.
    pub entropy_gradient: bool,
    /// Tokens whose logits are held at once.
    pub chunk_tokens: usize,
    /// Whether the weight is `[V, H]`.
    pub transposed: bool,
    /// Whether the bias is one, and not a stand-in.
    pub has_bias: bool,
}

/// Hidden states and a head, all of one float type.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct HeadTensors<B: Backend> {
    /// `[N, H]`.
    pub hidden: FloatTensor<B>,
    /// `[H, V]` or `[V, H]`.
    pub weight: FloatTensor<B>,
    /// `[V]`; `[1]` where there is none.
    pub bias: FloatTensor<B>,
}

/// What is known of each row of logits; in f64 where the logits are, else in f32.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct RowStatistics<B: Backend> {
    /// `[1, N]`: log-probs; `[2, N]`: log-probs and entropies.
    pub values: FloatTensor<B>,
    /// `[2, N]`: the largest scaled logit, and `log(sum(exp(z - largest)))`. Kept apart, because
    /// their sum would lose digits where the logits are large.
    pub moments: FloatTensor<B>,
}

/// A chunk's logits with their statistics.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct HeadLogits<B: Backend> {
    /// `[N, V]`, not scaled.
    pub logits: FloatTensor<B>,
    /// As [`RowStatistics::values`].
    pub values: FloatTensor<B>,
    /// As [`RowStatistics::moments`].
    pub moments: FloatTensor<B>,
}

/// Gradients of a head; `[1]` each where it is not wanted.
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

/// Which gradients are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub hidden: bool,
    pub weight: bool,
    pub bias: bool,
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
    /// Log-probs of `logits`, `[N, V]` of any float type.
    #[fusion(default)]
    fn token_log_probs(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        default::token_log_probs::<Self>(logits, targets, settings)
    }

    /// The gradient of `logits`, in their type, for a gradient `upstream` of the values.
    #[fusion(default)]
    fn token_log_probs_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        #[extension_type] statistics: RowStatistics<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        default::token_log_probs_backward::<Self>(logits, targets, statistics, upstream, settings)
    }

    /// What is known of each row of logits, `[N, V]` of any float type.
    #[fusion(meta = statistics_metadata)]
    fn softmax_statistics(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        default::softmax_statistics::<Self>(logits, targets, settings)
    }

    /// The gradient of logits, in their type, for a gradient `upstream` of the values.
    #[fusion(dtype = logits, shape = logits)]
    fn softmax_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        #[extension_type] statistics: RowStatistics<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        default::softmax_gradient::<Self>(logits, targets, statistics, upstream, settings)
    }

    /// The logits of a chunk, with their statistics.
    #[fusion(default)]
    fn head_logits(
        #[extension_type] head: HeadTensors<Self>,
        targets: IntTensor<Self>,
        settings: Settings,
    ) -> HeadLogits<Self> {
        default::head_logits::<Self>(head, targets, settings)
    }

    /// The gradients of a chunk, from its logits: that of the hidden states, and `gradients` with
    /// those of weight and bias added.
    #[fusion(default)]
    fn head_gradients(
        #[extension_type] logits: HeadLogits<Self>,
        #[extension_type] head: HeadTensors<Self>,
        targets: IntTensor<Self>,
        upstream: FloatTensor<Self>,
        #[extension_type] gradients: HeadGradients<Self>,
        settings: Settings,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        let chunk = default::Chunk {
            logits,
            head,
            targets,
            upstream,
        };
        default::head_gradients::<Self>(chunk, gradients, settings, wanted)
    }

    /// Log-probs of hidden states, a chunk at a time.
    #[fusion(default)]
    fn linear_log_probs(
        #[extension_type] head: HeadTensors<Self>,
        targets: IntTensor<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        default::linear_log_probs::<Self>(head, targets, settings)
    }

    /// The gradients of hidden states and head, computing each chunk's logits again.
    #[fusion(default)]
    fn linear_log_probs_backward(
        #[extension_type] head: HeadTensors<Self>,
        targets: IntTensor<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
        wanted: Wanted,
    ) -> HeadGradients<Self> {
        default::linear_log_probs_backward::<Self>(head, targets, upstream, settings, wanted)
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
        default::scaled_gradient::<Self>(gradient, factor)
    }
}

#[cfg(all(feature = "fusion", feature = "cube"))]
fn statistics_metadata(
    logits: &TensorSpec,
    _targets: &TensorSpec,
    settings: &Settings,
) -> RowStatisticsMetadata {
    let rows = logits.shape[0];
    let arithmetic = crate::composed::arithmetic(logits.dtype);
    let of = |count: usize| TensorSpec::new([count, rows].into(), arithmetic);
    RowStatisticsMetadata {
        values: of(1 + usize::from(settings.entropy)),
        moments: of(2),
    }
}

//! The head of a language model: what turns hidden states into logits.

use burn::tensor::Tensor;

/// The head of a language model, `logits = hidden * weight + bias`. Making one copies
/// nothing: a clone of a Burn tensor is a handle.
#[derive(Debug, Clone)]
pub struct LinearHead {
    pub(super) weight: Tensor<2>,
    pub(super) bias: Option<Tensor<1>>,
    pub(super) transposed: bool,
}

impl LinearHead {
    /// A head as Burn's `Linear` holds it:
    /// `LinearHead::new(linear.weight.val()).with_bias(linear.bias.as_ref().map(|bias| bias.val()))`.
    ///
    /// # Shapes
    ///
    /// - `weight`: `[H, V]`
    pub fn new(weight: Tensor<2>) -> Self {
        Self {
            weight,
            bias: None,
            transposed: false,
        }
    }

    /// A head that is tied to the embedding, in the embedding's layout:
    /// `LinearHead::tied(embedding.weight.val())`. Nothing is copied.
    ///
    /// # Shapes
    ///
    /// - `weight`: `[V, H]`
    pub fn tied(weight: Tensor<2>) -> Self {
        Self {
            weight,
            bias: None,
            transposed: true,
        }
    }

    /// Sets the bias, if there is one.
    ///
    /// # Shapes
    ///
    /// - `bias`: `[V]`
    pub fn with_bias(mut self, bias: impl Into<Option<Tensor<1>>>) -> Self {
        self.bias = bias.into();
        self
    }

    /// The length of a hidden state, and the size of the vocabulary.
    pub(super) fn dims(&self) -> [usize; 2] {
        let [rows, columns] = self.weight.dims();
        match self.transposed {
            true => [columns, rows],
            false => [rows, columns],
        }
    }
}

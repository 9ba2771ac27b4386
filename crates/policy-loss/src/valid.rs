//! The valid tokens of a batch, and means over them.

use burn::tensor::{Bool, DType, Tensor};

use crate::sum;

/// The action mask with its counts. Everything here is outside autodiff.
pub(crate) struct Valid {
    /// `[B, T]`, true where the policy generated the token.
    pub tokens: Tensor<2, Bool>,
    /// `[B, T]`, the opposite.
    pub padding: Tensor<2, Bool>,
    /// `[B, 1]`, the number of valid tokens of each sequence.
    pub per_sequence: Tensor<2>,
    /// `[1]`, the number of valid tokens.
    pub total: Tensor<1>,
    /// `[1]`, the number of sequences that hold a valid token.
    pub sequences: Tensor<1>,
}

impl Valid {
    pub fn new(action_mask: Tensor<2, Bool>, dtype: DType) -> Self {
        let tokens = action_mask.without_autodiff();
        let per_sequence = sum::per_row(count(&tokens, dtype));
        let present = per_sequence.clone().greater_elem(0);
        Self {
            padding: tokens.clone().bool_not(),
            total: sum::total(per_sequence.clone()),
            sequences: sum::total(count(&present, dtype)),
            per_sequence,
            tokens,
        }
    }

    /// 0 at padding, whatever stood there; `x` may be `[B, T]` or `[B, 1]`.
    ///
    /// Values are selected before anything is computed from them. A product with a 0 / 1 mask
    /// afterwards would keep a NaN in the value, and a select afterwards would keep it in the
    /// gradient: `0 * NaN` is NaN.
    pub fn select(&self, x: Tensor<2>) -> Tensor<2> {
        let padding = match x.dims() == self.padding.dims() {
            true => self.padding.clone(),
            false => self.per_sequence.clone().equal_elem(0),
        };
        x.mask_fill(padding, 0)
    }

    /// The mean over the valid tokens of each sequence, `[B, 1]`; 0 where there is none.
    pub fn mean_per_sequence(&self, selected: Tensor<2>) -> Tensor<2> {
        sum::per_row(selected) / self.per_sequence.clone().clamp_min(1)
    }

    /// The sum over the valid tokens of each sequence, `[B, 1]`.
    pub fn sum_per_sequence(&self, selected: Tensor<2>) -> Tensor<2> {
        sum::per_row(selected)
    }

    /// The largest value among the valid tokens of each sequence, `[B, 1]`; 0 where there is none.
    pub fn max_per_sequence(&self, x: Tensor<2>) -> Tensor<2> {
        let largest = sum::largest_per_row(x.mask_fill(self.padding.clone(), f32::MIN));
        largest.mask_fill(self.per_sequence.clone().equal_elem(0), 0)
    }

    /// Whether `condition` (`[B, T]`) holds at a valid token of each sequence, `[B, 1]`.
    pub fn per_sequence_any(&self, condition: Tensor<2, Bool>) -> Tensor<2, Bool> {
        let met = count(&condition.bool_and(self.tokens.clone()), self.total.dtype());
        sum::per_row(met).greater_elem(0)
    }

    /// The mean over all valid tokens, `[1]`; 0 where there is none.
    pub fn mean(&self, selected: Tensor<2>) -> Tensor<1> {
        sum::total(selected) / self.total.clone().clamp_min(1)
    }

    /// The fraction of valid tokens at which `condition` (`[B, T]` or `[B, 1]`) holds, `[1]`.
    pub fn fraction(&self, condition: Tensor<2, Bool>) -> Tensor<1> {
        self.count(condition) / self.total.clone().clamp_min(1)
    }

    /// The number of valid tokens at which `condition` (`[B, T]` or `[B, 1]`) holds, `[1]`.
    pub fn count(&self, condition: Tensor<2, Bool>) -> Tensor<1> {
        let dtype = self.total.dtype();
        match condition.dims() == self.tokens.dims() {
            true => sum::total(count(&condition.bool_and(self.tokens.clone()), dtype)),
            false => sum::total(count(&condition, dtype) * self.per_sequence.clone()),
        }
    }
}

fn count(condition: &Tensor<2, Bool>, dtype: DType) -> Tensor<2> {
    condition.clone().float().cast(dtype)
}

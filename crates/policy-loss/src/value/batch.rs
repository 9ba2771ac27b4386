//! What the value loss is given, and every check of it.

use burn::tensor::{Bool, Tensor};

use super::ValueLossConfig;
use crate::alike::{Alike, needed};
use crate::{BatchError, GlobalTotals};

/// One batch of `B` sequences of `T` tokens.
///
/// | tensor | shape | meaning |
/// |---|---|---|
/// | `values` | `[B, T]` | of the critic being trained; the only one that receives a gradient |
/// | `returns` | `[B, T]` | what it should have said |
/// | `old_values` | `[B, T]` | of the critic that the update started from; a clip needs them |
/// | `action_mask` | `[B, T]` bool | true where the policy generated the token; absent: all |
///
/// Inputs may be f64, f32, f16 or bf16, also mixed. Everything but `values` is a constant. A value
/// at a masked position, whatever it is, changes nothing.
#[derive(Debug, Clone)]
pub struct ValueBatch {
    values: Tensor<2>,
    returns: Tensor<2>,
    old_values: Option<Tensor<2>>,
    action_mask: Option<Tensor<2, Bool>>,
    totals: Option<GlobalTotals>,
}

impl ValueBatch {
    /// A batch in which every token is valid; see [`ValueBatch`] for the shapes.
    pub fn new(values: Tensor<2>, returns: Tensor<2>) -> Self {
        Self {
            values,
            returns,
            old_values: None,
            action_mask: None,
            totals: None,
        }
    }

    setters! {
        /// Adds the values of the critic that the update started from.
        with_old_values(old_values: Tensor<2>);
        /// Sets which tokens the policy generated.
        with_action_mask(action_mask: Tensor<2, Bool>);
        /// Sets the totals of the global batch, of which this one is a part.
        with_totals(totals: GlobalTotals);
    }

    /// Every check, none of which touches the device's queue.
    pub(super) fn check(self, config: &ValueLossConfig) -> Result<CheckedBatch, BatchError> {
        let alike = Alike::of("values", &self.values)?;
        alike.tokens("returns", &self.returns)?;
        if let Some(old_values) = &self.old_values {
            alike.tokens("old_values", old_values)?;
        }
        let old_values = match config.clip {
            Some(_) => {
                let add = "ValueBatch::with_old_values";
                Some(needed(self.old_values, "old_values", "`clip`", add)?)
            }
            None => None,
        };
        let scale = self.totals.map(|totals| totals.scale(config.reduction));
        let scale = scale.transpose()?;
        Ok(CheckedBatch {
            values: self.values,
            returns: self.returns,
            old_values,
            action_mask: alike.mask(self.action_mask)?,
            scale,
        })
    }
}

/// A batch that has passed every check, holding what the loss reads and nothing else.
pub(super) struct CheckedBatch {
    pub values: Tensor<2>,
    pub returns: Tensor<2>,
    pub old_values: Option<Tensor<2>>,
    pub action_mask: Tensor<2, Bool>,
    /// Replaces the division by a local count where global totals are given.
    pub scale: Option<f64>,
}

impl CheckedBatch {
    /// Whether there is no token at all: `B` or `T` is 0.
    pub fn is_empty(&self) -> bool {
        self.values.dims().contains(&0)
    }
}

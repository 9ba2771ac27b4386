//! What goes in, and every check of it.

use burn::tensor::{Bool, DType, Device, Tensor};

use crate::device::{computes, describe, dtypes, names};
use crate::{BatchError, Behavior, PolicyLossConfig, Reduction};

/// One batch of `B` sequences of `T` tokens.
///
/// | tensor | shape | meaning |
/// |---|---|---|
/// | `log_probs` | `[B, T]` | log π_θ(a_t \| s_t) of the policy being trained; the only one that receives a gradient |
/// | `old_log_probs` | `[B, T]` | of the policy that the update started from |
/// | `advantages` | `[B, T]`, `[B, 1]` or `[B]` | advantage estimates, per token or per sequence |
/// | `action_mask` | `[B, T]` bool | true where the policy generated the token; absent: all |
/// | `rollout_log_probs` | `[B, T]` | as the inference engine reported them when it sampled |
/// | `ref_log_probs` | `[B, T]` | of a frozen reference policy; no objective of this version reads it |
///
/// Inputs may be f64, f32, f16 or bf16, also mixed. Everything but `log_probs` is a constant:
/// gradients stop there. A value at a masked position, whatever it is, changes nothing.
#[derive(Debug, Clone)]
pub struct PolicyBatch {
    pub(crate) log_probs: Tensor<2>,
    pub(crate) old_log_probs: Tensor<2>,
    pub(crate) advantages: Advantages,
    pub(crate) action_mask: Option<Tensor<2, Bool>>,
    pub(crate) rollout_log_probs: Option<Tensor<2>>,
    pub(crate) ref_log_probs: Option<Tensor<2>>,
    pub(crate) totals: Option<GlobalTotals>,
}

/// Advantage estimates, per token or per sequence.
#[derive(Debug, Clone)]
pub enum Advantages {
    /// `[B, T]`; `[B, 1]` is read as one per sequence.
    Token(Tensor<2>),
    /// `[B]`, the same for every token of a sequence.
    Sequence(Tensor<1>),
}

impl From<Tensor<2>> for Advantages {
    fn from(advantages: Tensor<2>) -> Self {
        Self::Token(advantages)
    }
}

impl From<Tensor<1>> for Advantages {
    fn from(advantages: Tensor<1>) -> Self {
        Self::Sequence(advantages)
    }
}

/// The size of the *global* batch, of which this one is a shard or a micro-batch.
///
/// A local mean of local means is wrong when shards hold different numbers of tokens:
///
/// ```text
/// token mean     sum(token_loss) / tokens * world_size
/// sequence mean  sum_b(sum_t(token_loss) / n_b) / sequences * world_size
/// ```
///
/// `world_size` undoes the averaging of gradients across ranks; leave it out (1) for gradient
/// accumulation. For any split of a batch, the shards' gradients then sum up to the gradient of
/// the undivided batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GlobalTotals {
    /// Valid tokens of the global batch; the token mean needs it.
    pub tokens: Option<usize>,
    /// Sequences of the global batch that hold a valid token; the sequence mean needs it.
    pub sequences: Option<usize>,
    /// Ranks whose gradients are averaged; 1 when left out.
    pub world_size: Option<usize>,
}

impl GlobalTotals {
    /// No totals yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of valid tokens of the global batch.
    pub fn with_tokens(mut self, tokens: usize) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Sets the number of sequences of the global batch that hold a valid token.
    pub fn with_sequences(mut self, sequences: usize) -> Self {
        self.sequences = Some(sequences);
        self
    }

    /// Sets the number of ranks whose gradients are averaged.
    pub fn with_world_size(mut self, world_size: usize) -> Self {
        self.world_size = Some(world_size);
        self
    }

    /// What the sum is multiplied by instead of being divided by a local count.
    fn scale(&self, reduction: Reduction) -> Result<f64, BatchError> {
        let accepted = "an integer above 0";
        for (field, value) in [
            ("totals.tokens", self.tokens),
            ("totals.sequences", self.sequences),
            ("totals.world_size", self.world_size),
        ] {
            if value == Some(0) {
                return Err(BatchError::Totals {
                    field,
                    value: "0".into(),
                    accepted,
                });
            }
        }
        let (field, total) = match reduction {
            Reduction::TokenMean => ("totals.tokens", self.tokens),
            Reduction::SequenceMean => ("totals.sequences", self.sequences),
        };
        match total {
            Some(total) => Ok(self.world_size.unwrap_or(1) as f64 / total as f64),
            None => Err(BatchError::Totals {
                field,
                value: "missing, while other totals are given".into(),
                accepted,
            }),
        }
    }
}

impl PolicyBatch {
    /// A batch in which every token is valid; see [`PolicyBatch`] for the shapes.
    pub fn new(
        log_probs: Tensor<2>,
        old_log_probs: Tensor<2>,
        advantages: impl Into<Advantages>,
    ) -> Self {
        Self {
            log_probs,
            old_log_probs,
            advantages: advantages.into(),
            action_mask: None,
            rollout_log_probs: None,
            ref_log_probs: None,
            totals: None,
        }
    }

    /// A batch whose log-probs are computed together with the loss, by
    /// [`PolicyLoss::forward_linear`](crate::PolicyLoss::forward_linear). Until then they are NaN.
    pub fn without_log_probs(old_log_probs: Tensor<2>, advantages: impl Into<Advantages>) -> Self {
        // Nothing else is certain to show itself where the batch goes to the wrong method.
        let log_probs = old_log_probs
            .zeros_like()
            .without_autodiff()
            .add_scalar(f64::NAN);
        Self::new(log_probs, old_log_probs, advantages)
    }

    /// Sets which tokens the policy generated. Trainers that hold a float or integer mask turn it
    /// into this one with [`action_mask`](crate::action_mask).
    pub fn with_action_mask(mut self, action_mask: Tensor<2, Bool>) -> Self {
        self.action_mask = Some(action_mask);
        self
    }

    /// Adds the log-probs that the inference engine reported when it sampled.
    #[doc(alias = "vllm_log_probs")]
    pub fn with_rollout_log_probs(mut self, rollout_log_probs: Tensor<2>) -> Self {
        self.rollout_log_probs = Some(rollout_log_probs);
        self
    }

    /// Adds the log-probs of a frozen reference policy. They are checked like every input; no
    /// objective of this version reads them.
    pub fn with_ref_log_probs(mut self, ref_log_probs: Tensor<2>) -> Self {
        self.ref_log_probs = Some(ref_log_probs);
        self
    }

    /// Sets the totals of the global batch, of which this one is a part.
    pub fn with_totals(mut self, totals: GlobalTotals) -> Self {
        self.totals = Some(totals);
        self
    }

    /// Every check, none of which touches the device's queue.
    pub(crate) fn check(self, config: &PolicyLossConfig) -> Result<CheckedBatch, BatchError> {
        let shape = self.log_probs.dims();
        let device = self.log_probs.device();
        let floats = [
            ("log_probs", Some(&self.log_probs)),
            ("old_log_probs", Some(&self.old_log_probs)),
            ("rollout_log_probs", self.rollout_log_probs.as_ref()),
            ("ref_log_probs", self.ref_log_probs.as_ref()),
        ];
        for (name, tensor) in floats {
            if let Some(tensor) = tensor {
                check_shape(name, tensor.dims(), shape)?;
                check_place(name, tensor.device(), tensor.dtype(), &device)?;
            }
        }
        if let Some(mask) = &self.action_mask {
            check_shape("action_mask", mask.dims(), shape)?;
            check_device("action_mask", &mask.device(), &device)?;
        }
        let advantages = check_advantages(self.advantages, shape, &device)?;
        let rollout_log_probs = match needs_rollout(config) {
            Some(needed_by) => Some(self.rollout_log_probs.ok_or(BatchError::Missing {
                tensor: "rollout_log_probs",
                needed_by,
                add_with: "PolicyBatch::with_rollout_log_probs",
            })?),
            None => None,
        };
        let scale = match self.totals {
            Some(totals) => Some(totals.scale(config.reduction)?),
            None => None,
        };
        Ok(CheckedBatch {
            log_probs: self.log_probs,
            old_log_probs: self.old_log_probs,
            advantages,
            action_mask: self.action_mask,
            rollout_log_probs,
            scale,
        })
    }
}

/// A batch that has passed every check, holding what the objective reads and nothing else.
pub(crate) struct CheckedBatch {
    pub log_probs: Tensor<2>,
    pub old_log_probs: Tensor<2>,
    /// `[B, T]` or `[B, 1]`.
    pub advantages: Tensor<2>,
    pub action_mask: Option<Tensor<2, Bool>>,
    pub rollout_log_probs: Option<Tensor<2>>,
    /// Replaces the division by a local count where global totals are given.
    pub scale: Option<f64>,
}

impl CheckedBatch {
    /// Whether there is no token at all: `B` or `T` is 0.
    pub fn is_empty(&self) -> bool {
        self.log_probs.dims().contains(&0)
    }
}

fn needs_rollout(config: &PolicyLossConfig) -> Option<&'static str> {
    if config.rollout_correction.is_some() {
        return Some("`rollout_correction`");
    }
    match config.ratio.against {
        Behavior::Rollout => Some("`ratio.against = rollout`"),
        Behavior::Old => None,
    }
}

fn check_advantages(
    advantages: Advantages,
    [batch, tokens]: [usize; 2],
    device: &Device,
) -> Result<Tensor<2>, BatchError> {
    let (place, dtype, got, fits) = match &advantages {
        Advantages::Token(a) => {
            let dims = a.dims();
            let fits = dims == [batch, tokens] || dims == [batch, 1];
            (a.device(), a.dtype(), dims.to_vec(), fits)
        }
        Advantages::Sequence(a) => {
            let dims = a.dims();
            (a.device(), a.dtype(), dims.to_vec(), dims == [batch])
        }
    };
    if !fits {
        return Err(BatchError::Shape {
            tensor: "advantages",
            expected: format!("[{batch}, {tokens}], [{batch}, 1] or [{batch}]"),
            got,
        });
    }
    check_place("advantages", place, dtype, device)?;
    Ok(match advantages {
        Advantages::Token(a) => a,
        Advantages::Sequence(a) => a.reshape([batch, 1]),
    })
}

fn check_shape(
    tensor: &'static str,
    got: [usize; 2],
    expected: [usize; 2],
) -> Result<(), BatchError> {
    if got == expected {
        return Ok(());
    }
    Err(BatchError::Shape {
        tensor,
        expected: format!("{expected:?}, the shape of `log_probs`"),
        got: got.to_vec(),
    })
}

fn check_place(
    tensor: &'static str,
    got: Device,
    dtype: DType,
    expected: &Device,
) -> Result<(), BatchError> {
    check_device(tensor, &got, expected)?;
    if computes(expected, dtype) {
        return Ok(());
    }
    Err(BatchError::Dtype {
        tensor,
        got: dtype,
        device: describe(expected),
        accepted: names(&dtypes(expected)),
    })
}

fn check_device(tensor: &'static str, got: &Device, expected: &Device) -> Result<(), BatchError> {
    if got == expected {
        return Ok(());
    }
    Err(BatchError::Device {
        tensor,
        expected: describe(expected),
        got: describe(got),
    })
}

//! Every check of a batch.

use burn::tensor::{Bool, Int, Tensor};

use crate::alike::{Alike, needed};
use crate::packed::Packing;
use crate::prompts::Prompts;
use crate::{
    Advantages, BatchError, Behavior, GlobalTotals, KlBase, KlPenalty, Objective, PolicyBatch,
};

impl PolicyBatch {
    /// Every check, none of which touches the device's queue.
    pub(crate) fn check(self, objective: &Objective) -> Result<CheckedBatch, BatchError> {
        self.check_as("log_probs", objective)
    }

    /// The same, where what stands as `log_probs` was given by another name.
    pub(crate) fn check_as(
        self,
        name: &'static str,
        objective: &Objective,
    ) -> Result<CheckedBatch, BatchError> {
        let log_probs = needed(
            self.log_probs,
            "log_probs",
            "every method but `PolicyLoss::forward_linear`, which computes them,",
            "PolicyBatch::new` or `PolicyBatch::on_policy",
        )?;
        let alike = Alike::of(name, &log_probs)?;
        let shape = alike.shape;
        let floats = [
            ("old_log_probs", self.old_log_probs.as_ref()),
            ("rollout_log_probs", self.rollout_log_probs.as_ref()),
            ("ref_log_probs", self.ref_log_probs.as_ref()),
            ("entropies", self.entropies.as_ref()),
        ];
        for (name, tensor) in floats {
            if let Some(tensor) = tensor {
                alike.tokens(name, tensor)?;
            }
        }
        if let Some(mask) = &self.action_mask {
            alike.shaped("action_mask", mask)?;
        }
        if let Some(ids) = &self.segment_ids {
            alike.shaped("segment_ids", ids)?;
        }
        let packing = self.sequence_ids.as_deref();
        let packing = packing
            .map(|ids| Packing::new(name, ids, shape))
            .transpose()?;
        let sequences = packing.as_ref().map_or(shape[0], Packing::sequences);
        let advantages = check_advantages(self.advantages, &alike, packing.as_ref())?;
        // What nothing reads is left out.
        let rollout_log_probs = needs_rollout(objective).map(|by| {
            let add = "PolicyBatch::with_rollout_log_probs";
            needed(self.rollout_log_probs, "rollout_log_probs", by, add)
        });
        let ref_log_probs = reads_reference(objective).then(|| {
            let add = "PolicyBatch::with_ref_log_probs";
            needed(self.ref_log_probs, "ref_log_probs", "`kl_penalty`", add)
        });
        let entropies = needs_entropies(objective).map(|by| {
            let add = "PolicyBatch::with_entropies";
            needed(self.entropies, "entropies", by, add)
        });
        let rollout_log_probs = rollout_log_probs.transpose()?;
        let ref_log_probs = ref_log_probs.transpose()?;
        let entropies = entropies.transpose()?;
        let scale = self.totals.map(|totals| totals.scale(objective.reduction));
        let scale = scale.transpose()?;
        let entropy_threshold =
            check_entropy_threshold(objective, self.entropy_threshold, self.totals)?;
        let second_moment_limit =
            check_second_moment_limit(objective, self.second_moment_limit, self.totals)?;
        let prompts = Prompts::check(
            objective.reduction,
            sequences,
            self.prompt_ids,
            self.prompt_tokens,
            self.totals,
        )?;
        // On policy: a constant of the same values.
        let old_log_probs = self
            .old_log_probs
            .unwrap_or_else(|| log_probs.clone().without_autodiff());
        Ok(CheckedBatch {
            log_probs,
            old_log_probs,
            advantages,
            action_mask: self.action_mask,
            rollout_log_probs,
            ref_log_probs,
            entropies,
            segment_ids: self.segment_ids.filter(|_| objective.reads_segments()),
            packing,
            scale,
            prompts,
            entropy_threshold,
            second_moment_limit,
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
    pub ref_log_probs: Option<Tensor<2>>,
    pub entropies: Option<Tensor<2>>,
    pub segment_ids: Option<Tensor<2, Int>>,
    /// How the tokens lie, or lay before they were [padded](Self::padded), in a packed row.
    pub packing: Option<Packing>,
    /// Replaces the division by a local count where global totals are given.
    pub scale: Option<f64>,
    /// Where the reduction is a mean over prompts.
    pub prompts: Option<Prompts>,
    /// Where an entropy mask takes it of a global batch.
    pub entropy_threshold: Option<f64>,
    /// Where a surrogate of second moments takes it of a global batch.
    pub second_moment_limit: Option<f64>,
}

impl CheckedBatch {
    /// Whether there is no token at all: `B` or `T` is 0.
    pub fn is_empty(&self) -> bool {
        self.log_probs.dims().contains(&0)
    }

    /// The number of tokens, padding included.
    pub fn tokens(&self) -> usize {
        let packing = self.packing.as_ref();
        packing.map_or(
            self.log_probs.shape().num_elements(),
            Packing::padded_tokens,
        )
    }

    /// The batch with a row for each sequence, if all of them lie in one row.
    pub fn padded(mut self) -> Self {
        match self.packing.take() {
            Some(packing) if !self.is_empty() => packing.pad(self),
            packing => Self { packing, ..self },
        }
    }
}

fn needs_rollout(objective: &Objective) -> Option<&'static str> {
    if objective.rollout_correction.is_some() {
        return Some("`rollout_correction`");
    }
    match objective.ratio.against {
        Behavior::Rollout => Some("`ratio.against = rollout`"),
        Behavior::Old => objective
            .reads_rollout()
            .then_some("`kl_penalty.against = rollout`"),
    }
}

fn needs_entropies(objective: &Objective) -> Option<&'static str> {
    let bonus = objective.entropy_bonus.map(|_| "`entropy_bonus`");
    bonus.or(objective.entropy_mask.map(|_| "`entropy_mask`"))
}

fn check_entropy_threshold(
    objective: &Objective,
    threshold: Option<f64>,
    totals: Option<GlobalTotals>,
) -> Result<Option<f64>, BatchError> {
    match threshold {
        Some(threshold) if !threshold.is_finite() => Err(BatchError::OutOfRange {
            field: "entropy_threshold",
            value: threshold.to_string(),
            accepted: "a finite number".into(),
        }),
        None if objective.entropy_mask.is_some() && totals.is_some() => Err(BatchError::Missing {
            tensor: "entropy_threshold",
            needed_by: "`entropy_mask` of a part of a batch, whose `totals` are given,",
            add_with: "PolicyBatch::with_entropy_threshold",
        }),
        threshold => Ok(threshold.filter(|_| objective.entropy_mask.is_some())),
    }
}

fn check_second_moment_limit(
    objective: &Objective,
    limit: Option<f64>,
    totals: Option<GlobalTotals>,
) -> Result<Option<f64>, BatchError> {
    match limit {
        Some(limit) if limit.is_nan() || limit < 0.0 => Err(BatchError::OutOfRange {
            field: "second_moment_limit",
            value: limit.to_string(),
            accepted: "a number, 0 or above, or infinity".into(),
        }),
        None if objective.surrogate.reads_second_moment() && totals.is_some() => {
            Err(BatchError::Missing {
                tensor: "second_moment_limit",
                needed_by: "`surrogate` of second moments in a part of a batch, whose `totals` are given,",
                add_with: "PolicyBatch::with_second_moment_limit",
            })
        }
        limit => Ok(limit.filter(|_| objective.surrogate.reads_second_moment())),
    }
}

fn reads_reference(objective: &Objective) -> bool {
    let against_reference = |penalty: KlPenalty| penalty.against == KlBase::Reference;
    objective.kl_penalty.is_some_and(against_reference)
}

fn check_advantages(
    advantages: Advantages,
    alike: &Alike<2>,
    packing: Option<&Packing>,
) -> Result<Tensor<2>, BatchError> {
    let [batch, tokens] = alike.shape;
    let sequences = packing.map_or(batch, Packing::sequences);
    let (device, dtype, got, fits) = match &advantages {
        Advantages::Token(a) => {
            let dims = a.dims();
            let fits = dims == [batch, tokens] || dims == [sequences, 1];
            (a.device(), a.dtype(), dims.to_vec(), fits)
        }
        Advantages::Sequence(a) => {
            let dims = a.dims();
            (a.device(), a.dtype(), dims.to_vec(), dims == [sequences])
        }
    };
    if !fits {
        return Err(BatchError::Shape {
            tensor: "advantages",
            expected: format!("[{batch}, {tokens}], [{sequences}, 1] or [{sequences}]"),
            got,
        });
    }
    alike.place("advantages", &device, dtype)?;
    Ok(match advantages {
        Advantages::Token(a) => a,
        Advantages::Sequence(a) => a.reshape([sequences, 1]),
    })
}

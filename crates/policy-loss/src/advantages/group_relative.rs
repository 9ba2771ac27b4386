//! How much better an answer is than the other answers to the same prompt.

use burn::tensor::Tensor;
use policy_loss_kernels::objective::check::positive;
use serde::{Deserialize, Serialize};

use super::lowest;
use super::members::{Members, number};
use super::whitening::Whitening;
use crate::ConfigError;
use crate::valid::Valid;

/// The score of a sequence relative to its group, the same for each of its tokens.
///
/// With the score `s_i`, the sum of a sequence's rewards over its valid tokens:
///
/// ```text
/// advantage_i = s_i - baseline                         (GroupBaseline)
///   deviation:    / (std of the group's scores + epsilon), unbiased
///   active_share: * sequences of the batch / those with s != 0
/// ```
///
/// then whitened over the valid tokens of the batch, if asked for.
///
/// A sequence without a valid token belongs to no group: it is counted nowhere. **A group of one**
/// has nothing to be compared with: its baseline is 0 and its deviation 1, so that its advantage is
/// the score itself. The library that these estimators were compared with (verl) does the same, except
/// that it refuses such a group under [`GroupBaseline::BestOther`].
///
/// [`AdvantagePreset`](super::AdvantagePreset) names the papers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupRelative {
    /// What a score is compared with.
    pub baseline: GroupBaseline,
    /// Divides by the deviation of the group's scores, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<Deviation>,
    /// Whether to make up for sequences with a score of 0, which say nothing (GPG).
    pub active_share: bool,
    /// One scale for the advantages of the batch, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitening: Option<Whitening>,
}

/// What the score of a sequence is compared with. `n` is the size of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBaseline {
    /// The mean of the group, itself included.
    #[default]
    Mean,
    /// The mean of the others: `s_i - mean = (s_i - group mean) * n / (n - 1)`.
    LeaveOneOut,
    /// The mean weighted by the number of valid tokens, `sum(n_j s_j) / sum(n_j)`.
    LengthWeighted,
    /// The best of the others, and never a negative result: `max(s_i - max_{j != i} s_j, 0)`. Only the
    /// best answer of a group is rewarded, by what the group would lose without it; with a tie for
    /// the best nobody is.
    BestOther,
}

/// Division by the standard deviation of a group's scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deviation {
    /// Added to the deviation, so that equal scores give 0 and not NaN. Finite and above 0.
    pub epsilon: f64,
}

impl Default for Deviation {
    fn default() -> Self {
        Self { epsilon: 1e-6 }
    }
}

impl GroupRelative {
    /// The distance to this baseline, neither scaled nor whitened.
    pub const fn new(baseline: GroupBaseline) -> Self {
        Self {
            baseline,
            deviation: None,
            active_share: false,
            whitening: None,
        }
    }

    /// Sets the division by the deviation of the group's scores.
    pub fn with_deviation(mut self, deviation: impl Into<Option<Deviation>>) -> Self {
        self.deviation = deviation.into();
        self
    }

    /// Sets whether to make up for sequences with a score of 0.
    pub const fn with_active_share(mut self, active_share: bool) -> Self {
        self.active_share = active_share;
        self
    }

    /// Sets the whitening.
    pub fn with_whitening(mut self, whitening: impl Into<Option<Whitening>>) -> Self {
        self.whitening = whitening.into();
        self
    }

    /// `scores` are `[B, 1]`, 0 for sequences without a valid token; gives `[B, T]`.
    pub(crate) fn of(&self, scores: Tensor<2>, group_ids: &[i64], valid: &Valid) -> Tensor<2> {
        let members = Members::new(group_ids, valid);
        let mut advantages = members.scatter(self.compared(&scores, &members));
        if self.active_share {
            let active = scores.equal_elem(0).bool_not().float();
            let active = active.cast(advantages.dtype()).sum().clamp_min(1);
            let share = valid.sequences.clone() / active;
            advantages = advantages.clone() * share.reshape([1, 1]).expand(advantages.dims());
        }
        let advantages = valid.select(advantages.expand(valid.tokens.dims()));
        match self.whitening {
            Some(whitening) => whitening.of(advantages, valid),
            None => advantages,
        }
    }

    /// Each score against its group, `[G, S]`.
    fn compared(&self, scores: &Tensor<2>, members: &Members) -> Tensor<2> {
        let scores = members.present(members.gather(scores.clone()));
        // Distances to the group's best, so that equal scores are exactly as good as their mean.
        let lowest = lowest(scores.dtype());
        let best = scores.clone().mask_fill(members.absent.clone(), lowest);
        let behind = members.present(scores.clone() - members.spread(best.max_dim(1)));
        let centered = |mean: Tensor<2>| members.present(behind.clone() - members.spread(mean));
        let mean = || centered(members.mean(behind.clone()));
        let alone = members.alone();

        let others = members.count.clone().sub_scalar(1).clamp_min(1);
        let compared = match self.baseline {
            GroupBaseline::Mean => mean(),
            GroupBaseline::LeaveOneOut => {
                mean() * members.spread(members.count.clone() / others.clone())
            }
            GroupBaseline::LengthWeighted => {
                let total = members.lengths.clone().sum_dim(1).clamp_min(1);
                centered((behind.clone() * members.lengths.clone()).sum_dim(1) / total)
            }
            GroupBaseline::BestOther => lead(behind.clone(), members, lowest),
        };
        let compared = compared.mask_where(alone.clone(), scores);
        let Some(Deviation { epsilon }) = self.deviation else {
            return compared;
        };
        let deviation = (mean().square().sum_dim(1) / others).sqrt();
        compared / (members.spread(deviation).mask_fill(alone, 1) + epsilon)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self.deviation {
            Some(deviation) => positive("group_relative.deviation.epsilon", deviation.epsilon),
            None => Ok(()),
        }
    }
}

/// How far the best is ahead of the second best, 0 for everyone else. `behind` is the distance to
/// the best, `[G, S]`.
fn lead(behind: Tensor<2>, members: &Members, lowest: f64) -> Tensor<2> {
    let best = behind
        .clone()
        .equal_elem(0)
        .bool_and(members.absent.clone().bool_not());
    let tied = members
        .spread(number(best.clone(), behind.dtype()))
        .greater_elem(1);
    let second = behind
        .mask_fill(best.clone().bool_or(members.absent.clone()), lowest)
        .max_dim(1);
    members
        .spread(second.neg())
        .mask_fill(best.bool_not().bool_or(tied), 0)
}

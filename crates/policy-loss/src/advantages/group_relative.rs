//! How much better an answer is than the other answers to the same prompt.

use burn::tensor::{Int, Tensor};
use policy_loss_kernels::objective::check::{if_given, not_negative, positive};
use serde::{Deserialize, Serialize};

use super::lowest;
use super::members::{Members, number};
use super::weighted_sum;
use super::whitening::Whitening;
use crate::ConfigError;
use crate::valid::{Valid, largest, total};

/// The score of a sequence relative to its group, the same for each of its tokens.
///
/// With the score `s_i`, the sum of a sequence's rewards over its valid tokens:
///
/// ```text
/// advantage_i = s_i - baseline                         (GroupBaseline)
///   deviation:    / (std of the scores + epsilon), unbiased             (Among)
///   mean_scale:   / (mean of the group's scores + epsilon)
///   active_share: * sequences of the batch / those with s != 0
/// ```
///
/// then whitened over the batch, if asked for. With several kinds of rewards it is
/// `sum_k weight_k advantage_k` of each kind's own advantages, before the last of these lines and the
/// whitening.
///
/// A sequence without a valid token belongs to no group: it is counted nowhere. **A group of one**
/// has nothing to be compared with, and [`SingleScore`] says what it gets: by default its baseline
/// is 0 and its deviation 1, so that its advantage is the score itself.
///
/// [`AdvantagePreset`](super::AdvantagePreset) names the papers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupRelative {
    /// What a score is compared with.
    pub baseline: GroupBaseline,
    /// Divides by a deviation of the scores, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<Deviation>,
    /// Divides by the mean of the group's scores, if given. Not together with `deviation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_scale: Option<MeanScale>,
    /// What a group of one gets.
    pub single: SingleScore,
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

/// Division by the standard deviation of scores, unbiased.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deviation {
    /// Whose scores.
    pub among: Among,
    /// Added to the deviation, so that equal scores give 0 and not NaN. Finite and above 0.
    pub epsilon: f64,
}

impl Default for Deviation {
    fn default() -> Self {
        Self::of(Among::Group)
    }
}

impl Deviation {
    /// That of these scores, with an epsilon of 1e-6.
    pub const fn of(among: Among) -> Self {
        let epsilon = 1e-6;
        Self { among, epsilon }
    }
}

/// Whose scores a [`Deviation`] is that of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Among {
    /// The group's.
    #[default]
    Group,
    /// Those of the other sequences of the group. Where they are all equal, or there is only one of
    /// them, nothing is divided. Takes memory for `S` numbers a sequence, `S` being the size of the
    /// largest group.
    Others,
    /// The batch's, whatever the group: one scale for all prompts. It is the batch that is passed;
    /// under data parallelism, estimate advantages before the batch is split.
    Batch,
}

/// Division by the mean of a group's scores, which should not be negative: a success weighs the
/// more, the fewer there are. A group whose mean is not above 0 gets 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeanScale {
    /// Added to the mean. Finite, 0 or above.
    pub epsilon: f64,
}

impl Default for MeanScale {
    fn default() -> Self {
        Self { epsilon: 1e-6 }
    }
}

/// The advantage of a sequence that has no other one to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SingleScore {
    /// The score itself: its baseline is 0 and its deviation or mean 1.
    #[default]
    Score,
    /// 0: it says nothing.
    Zero,
}

impl GroupRelative {
    /// The distance to this baseline, neither scaled nor whitened.
    pub const fn new(baseline: GroupBaseline) -> Self {
        Self {
            baseline,
            deviation: None,
            mean_scale: None,
            single: SingleScore::Score,
            active_share: false,
            whitening: None,
        }
    }

    setters! {
        /// Sets the division by a deviation of the scores.
        with_deviation(deviation: impl Into<Option<Deviation>>);
        /// Sets the division by the mean of the group's scores.
        with_mean_scale(mean_scale: impl Into<Option<MeanScale>>);
    }

    /// Sets what a group of one gets.
    pub const fn with_single(mut self, single: SingleScore) -> Self {
        self.single = single;
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

    /// Of scores of each kind with their weight, `[B, 1]`, 0 for sequences without a valid token;
    /// gives `[B, T]`.
    pub(crate) fn of(
        &self,
        kinds: Vec<(f64, Tensor<2>)>,
        group_ids: &[i64],
        valid: &Valid,
    ) -> Tensor<2> {
        let members = Members::new(group_ids, &valid.per_sequence);
        let compared = kinds.iter().map(|(weight, scores)| {
            let compared = members.scatter(self.compared(scores, &members));
            (*weight, compared)
        });
        let mut advantages = weighted_sum(compared);
        let scores = weighted_sum(kinds.into_iter());
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
        let compared = match self.single {
            SingleScore::Score => compared.mask_where(alone.clone(), scores.clone()),
            SingleScore::Zero => compared.mask_fill(alone.clone(), 0),
        };
        if let Some(MeanScale { epsilon }) = self.mean_scale {
            let mean = members.spread(members.mean(scores));
            let without = mean.clone().lower_equal_elem(0);
            let scaled = compared.clone() / (mean + epsilon);
            return scaled.mask_fill(without, 0).mask_where(alone, compared);
        }
        let Some(Deviation { among, epsilon }) = self.deviation else {
            return compared;
        };
        let deviation = match among {
            Among::Group => members.spread((mean().square().sum_dim(1) / others).sqrt()),
            Among::Others => deviation_of_others(behind, members, lowest),
            Among::Batch => deviation_of_batch(scores, members, lowest),
        };
        let deviation = deviation.mask_fill(alone, 1);
        let divisor = deviation.clone() + epsilon;
        compared
            / match among {
                Among::Others => divisor.mask_fill(deviation.equal_elem(0), 1),
                Among::Group | Among::Batch => divisor,
            }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(MeanScale { epsilon }) = self.mean_scale {
            not_negative("group_relative.mean_scale.epsilon", epsilon)?;
            if self.deviation.is_some() {
                return Err(ConfigError::Combination {
                    first: "group_relative.deviation",
                    second: "group_relative.mean_scale",
                    reason: "each sets the scale of the advantages; leave one of them out",
                });
            }
        }
        if_given(self.deviation, |it| {
            positive("group_relative.deviation.epsilon", it.epsilon)
        })
    }
}

/// The deviation of the other scores of the group, `[G, S]`: exactly 0 where they are equal. Two
/// passes over the others of each sequence: the group's sums less what is its own would leave
/// nothing of the digits where one score lies far from the others.
fn deviation_of_others(scores: Tensor<2>, members: &Members, lowest: f64) -> Tensor<2> {
    let [groups, size] = scores.dims();
    let shape = [groups, size, size];
    let number = Tensor::<1, Int>::arange(0..size as i64, &scores.device());
    let itself = number
        .clone()
        .reshape([1, size, 1])
        .expand(shape)
        .equal(number.reshape([1, 1, size]).expand(shape));
    let absent = members.absent.clone().reshape([groups, 1, size]);
    let left_out = itself.bool_or(absent.expand(shape));
    let scores = scores.reshape([groups, 1, size]).expand(shape);
    let best = scores
        .clone()
        .mask_fill(left_out.clone(), lowest)
        .max_dim(2);
    let below = (scores - best.expand(shape)).mask_fill(left_out.clone(), 0);
    let others = members.count.clone().sub_scalar(1).reshape([groups, 1, 1]);
    let mean = below.clone().sum_dim(2) / others.clone().clamp_min(1).expand([groups, size, 1]);
    let centered = (below - mean.expand(shape)).mask_fill(left_out, 0);
    let degrees = others.sub_scalar(1).clamp_min(1).expand([groups, size, 1]);
    let variance = centered.square().sum_dim(2) / degrees;
    variance.sqrt().reshape([groups, size])
}

/// The deviation of all scores of the batch, at every place, `[G, S]`. `scores` are 0 where a
/// sequence is absent.
fn deviation_of_batch(scores: Tensor<2>, members: &Members, lowest: f64) -> Tensor<2> {
    let shape = scores.dims();
    let spread = |x: Tensor<1>| x.reshape([1, 1]).expand(shape);
    let best = largest(scores.clone().mask_fill(members.absent.clone(), lowest));
    let below = members.present(scores - spread(best));
    let count = total(members.count.clone());
    let mean = total(below.clone()) / count.clone().clamp_min(1);
    let centered = members.present(below - spread(mean));
    let variance = total(centered.square()) / count.sub_scalar(1).clamp_min(1);
    spread(variance.sqrt())
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
    let not_a_number = behind.clone().is_nan();
    let not_a_number = not_a_number.bool_and(members.absent.clone().bool_not());
    let second = behind
        .clone()
        .mask_fill(best.clone().bool_or(members.absent.clone()), lowest)
        .max_dim(1);
    members
        .spread(second.neg())
        .mask_fill(best.bool_not().bool_or(tied), 0)
        // A score that is not finite is not hidden.
        .mask_where(not_a_number, behind)
}

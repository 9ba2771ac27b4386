//! What is known to go wrong, told by what is on the host already.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use policy_loss_kernels::objective::Denominator;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::{
    BatchError, Behavior, GlobalTotals, MetricValues, Objective, RolloutDiagnosticValues, Surrogate,
};

/// What a [`Warning`] is about. Its [`name`](Self::name) does not change between versions.
///
/// | name | measured | warns | why there |
/// |---|---|---|---|
/// | `non_finite` | valid tokens with a NaN or an infinite input | above 0 | one of them makes the loss, and then every weight, NaN |
/// | `mostly_clipped` | `clip_ratio` | above 0.3 | twice the 0.15 that the paper of GSPO reports, the objective that clips most ([arXiv 2507.18071](https://arxiv.org/abs/2507.18071)); with a ratio of tokens it is a few percent |
/// | `policy_unchanged` | steps in a row with `kl_k2` up to 1e-12, as rounding in f32 makes it | from 3 on | the first step on a rollout always is one; the ratio does nothing if they all are |
/// | `mismatch_uncorrected` | `kl_k3` of sampler and trainer, while the objective reads no rollout log-probs | above 0.01 | what filters by this estimate usually keep |
/// | `totals_too_small` | the total that the reduction divides by | below the count of the batch itself | a part cannot be larger than the whole |
/// | `groups_without_spread` | fraction of groups whose rewards are all the same | above 0.5 | more than half of what was sampled has advantage 0 |
/// | `weights_truncated` | `weight_truncated` | above 0.05 | bounds are for outliers; what is moved often is a bias |
/// | `tokens_rejected` | `weight_zeroed` | above 0.05 | the batch is smaller than it looks, while the reduction still counts it |
/// | `tokens_off_policy` | `off_policy_dropped` | above 0.05 | the same |
/// | `rollout_log_probs_missing` | `missing_rollout_log_probs` by `valid_tokens` | above 0.05 | so many tokens are dropped, or not corrected |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WarningKind {
    /// An input is NaN or infinite at a valid token.
    NonFinite,
    /// Most of the batch has no gradient, because its ratio is out of bounds.
    MostlyClipped,
    /// The old log-probs are the current ones, step after step.
    PolicyUnchanged,
    /// Sampler and trainer are apart, and nothing corrects for it.
    MismatchUncorrected,
    /// A total of the global batch is smaller than this part of it.
    TotalsTooSmall,
    /// The rewards of a group are all the same, in most groups.
    GroupsWithoutSpread,
    /// Many rollout weights were moved to a bound.
    WeightsTruncated,
    /// The rollout correction drops many tokens.
    TokensRejected,
    /// The off-policy mask drops many tokens.
    TokensOffPolicy,
    /// The sampler gave no log-prob for many tokens.
    RolloutLogProbsMissing,
}

/// The fraction of clipped tokens from which on a batch counts as mostly clipped.
const MOSTLY_CLIPPED: f64 = 0.3;
/// The steps in a row that do not move the policy.
const UNCHANGED_STEPS: usize = 3;
/// Half of the mean squared log-ratio that rounding in f32 makes.
const ROUNDING: f64 = 1e-12;
/// The divergence of sampler and trainer, by estimate k3.
const MISMATCH: f64 = 0.01;
/// The fraction of groups without spread.
const WITHOUT_SPREAD: f64 = 0.5;
/// The fraction of tokens that a correction may truncate or drop.
const FEW: f64 = 0.05;

impl WarningKind {
    /// The name that programs read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NonFinite => "non_finite",
            Self::MostlyClipped => "mostly_clipped",
            Self::PolicyUnchanged => "policy_unchanged",
            Self::MismatchUncorrected => "mismatch_uncorrected",
            Self::TotalsTooSmall => "totals_too_small",
            Self::GroupsWithoutSpread => "groups_without_spread",
            Self::WeightsTruncated => "weights_truncated",
            Self::TokensRejected => "tokens_rejected",
            Self::TokensOffPolicy => "tokens_off_policy",
            Self::RolloutLogProbsMissing => "rollout_log_probs_missing",
        }
    }
}

/// A setting that is known to go wrong. [`Display`] says in a sentence what is likely wrong and what
/// to do; serialized it is an object of `name`, `value`, `threshold` and that sentence, `message`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// What was measured.
    pub value: f64,
    /// What it was compared with.
    pub threshold: f64,
}

impl Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            value,
            threshold,
        } = *self;
        let percent = 100.0 * value;
        match kind {
            WarningKind::NonFinite => write!(
                f,
                "{value} valid tokens hold a NaN or an infinite value; find the tensor that they \
                 come from before this step reaches the weights"
            ),
            WarningKind::MostlyClipped => write!(
                f,
                "{percent:.0} % of the tokens are clipped and teach nothing; the bounds are too \
                 narrow for this ratio (a few 1e-4 are meant for the ratio of a sequence), or the \
                 policy has moved too far: widen the bounds, lower the learning rate, or take fewer \
                 steps on a rollout"
            ),
            WarningKind::PolicyUnchanged => write!(
                f,
                "old_log_probs are log_probs in {value} steps in a row; if a rollout is used for more \
                 than one step, the old log-probs are computed anew in each, or the optimiser does \
                 nothing; with one step a rollout all is well, and the clip has no effect"
            ),
            WarningKind::MismatchUncorrected => write!(
                f,
                "sampler and trainer are apart by {value:.4} (kl_k3 of the rollout, above \
                 {threshold}), and the objective does not correct for it; add a rollout correction \
                 such as truncated importance sampling, or find out why the two differ"
            ),
            WarningKind::TotalsTooSmall => write!(
                f,
                "the total of the global batch is {value}, and this part of it alone counts \
                 {threshold}: loss and gradient are too large; give the sum over all shards and \
                 micro-batches"
            ),
            WarningKind::GroupsWithoutSpread => write!(
                f,
                "in {percent:.0} % of the groups all rewards are the same, so that their advantages \
                 are 0; choose prompts that are neither too easy nor too hard, sample more answers \
                 to each, or leave such groups out"
            ),
            WarningKind::WeightsTruncated => write!(
                f,
                "{percent:.0} % of the rollout weights were moved to a bound; sampler and trainer are \
                 further apart than the bounds expect: make the two alike, sample more often, or \
                 widen the bounds"
            ),
            WarningKind::TokensRejected => write!(
                f,
                "the rollout correction drops {percent:.0} % of the tokens; sampler and trainer are \
                 further apart than it expects: make the two alike, sample more often, or widen its \
                 bounds"
            ),
            WarningKind::TokensOffPolicy => write!(
                f,
                "the off-policy mask drops {percent:.0} % of the tokens; the policy has moved away \
                 from what it sampled: sample more often, take smaller steps, or raise its delta"
            ),
            WarningKind::RolloutLogProbsMissing => write!(
                f,
                "rollout_log_probs are NaN at {percent:.0} % of the tokens; they are dropped, or their \
                 mismatch is not corrected, as `missing_rollout_log_probs` says: let the sampler return \
                 the log-prob of every token, or mask what it did not sample"
            ),
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Warning", 4)?;
        object.serialize_field("name", self.kind.name())?;
        object.serialize_field("value", &self.value)?;
        object.serialize_field("threshold", &self.threshold)?;
        object.serialize_field("message", &self.to_string())?;
        object.end()
    }
}

/// What is known of one step, all of it numbers on the host: the metrics, and what else there is.
/// Without a number there is no warning that needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    metrics: MetricValues,
    totals: Option<GlobalTotals>,
    rollout: Option<RolloutDiagnosticValues>,
    without_spread: Option<f64>,
}

impl Observation {
    /// The metrics of a batch, or of all micro-batches of a step together.
    #[must_use]
    pub fn new(metrics: MetricValues) -> Self {
        Self {
            metrics,
            totals: None,
            rollout: None,
            without_spread: None,
        }
    }

    setters! {
        /// Adds the totals that the loss was given.
        with_totals(totals: GlobalTotals);
        /// Adds how far sampler and trainer are apart.
        with_rollout_diagnostics(rollout: RolloutDiagnosticValues);
    }

    /// Adds the reward of each sequence, with the number of its group.
    ///
    /// # Errors
    ///
    /// There are not as many group ids as rewards.
    pub fn with_rewards(mut self, rewards: &[f64], group_ids: &[i64]) -> Result<Self, BatchError> {
        if rewards.len() != group_ids.len() {
            return Err(BatchError::Shape {
                tensor: "group_ids",
                expected: format!("[{}], one for each reward", rewards.len()),
                got: vec![group_ids.len()],
            });
        }
        let mut first = BTreeMap::new();
        let mut with_spread = BTreeSet::new();
        for (group, reward) in group_ids.iter().zip(rewards) {
            if first.entry(group).or_insert(reward) != &reward {
                with_spread.insert(group);
            }
        }
        if !first.is_empty() {
            let without = first.len() - with_spread.len();
            self.without_spread = Some(without as f64 / first.len() as f64);
        }
        Ok(self)
    }
}

/// Watches the steps of a training run for what is known to go wrong, and says each thing once.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// # use burn::tensor::{Device, Tensor};
/// use policy_loss::{Clip, Observation, PolicyBatch, PolicyLossConfig, WarningKind, Warnings};
///
/// # let device = Device::flex();
/// # let log_probs = Tensor::<2>::from_floats([[-0.5, -0.9, -0.1]], &device);
/// # let old_log_probs = Tensor::<2>::from_floats([[-0.6, -1.0, -0.2]], &device);
/// # let advantages = Tensor::<1>::from_floats([1.0], &device);
/// // Bounds that are meant for the ratio of a sequence.
/// let config = PolicyLossConfig::new().with_surrogate(Clip::new(3e-4, 4e-4));
/// let loss = config.init()?;
/// let mut warnings = Warnings::new(&config.objective);
/// for _step in 0..2 {
/// #   let batch = PolicyBatch::new(log_probs.clone(), old_log_probs.clone(), advantages.clone());
///     let metrics = loss.forward(batch)?.metrics.read()?;
///     for warning in warnings.observe(&Observation::new(metrics)) {
///         eprintln!("warning: {warning}"); // in the first step, and not again
/// #       assert_eq!((_step, warning.kind), (0, WarningKind::MostlyClipped));
///     }
/// }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Warnings {
    objective: Objective,
    unchanged_steps: usize,
    said: BTreeSet<WarningKind>,
}

impl Warnings {
    /// For steps of this objective.
    #[must_use]
    pub fn new(objective: &Objective) -> Self {
        Self {
            objective: *objective,
            unchanged_steps: 0,
            said: BTreeSet::new(),
        }
    }

    /// Takes note of one more step. Returns what there is to say and was not said before, in the
    /// order of [`WarningKind`].
    pub fn observe(&mut self, observation: &Observation) -> Vec<Warning> {
        let Observation {
            metrics,
            totals,
            rollout,
            without_spread,
        } = *observation;
        let mut found = Vec::new();
        let mut warn = |condition: bool, kind, value, threshold| {
            if condition && self.said.insert(kind) {
                found.push(Warning {
                    kind,
                    value,
                    threshold,
                });
            }
        };
        let mut above = |kind, value: Option<f64>, threshold| {
            if let Some(value) = value {
                warn(value > threshold, kind, value, threshold);
            }
        };
        above(WarningKind::NonFinite, Some(metrics.non_finite), 0.0);
        let clip_ratio = Some(metrics.clip_ratio);
        above(WarningKind::MostlyClipped, clip_ratio, MOSTLY_CLIPPED);
        let mismatch = rollout.filter(|_| !self.objective.corrects_mismatch());
        let mismatch = mismatch.map(|rollout| rollout.kl_k3);
        above(WarningKind::MismatchUncorrected, mismatch, MISMATCH);
        above(
            WarningKind::GroupsWithoutSpread,
            without_spread,
            WITHOUT_SPREAD,
        );
        above(WarningKind::WeightsTruncated, metrics.weight_truncated, FEW);
        above(WarningKind::TokensRejected, metrics.weight_zeroed, FEW);
        above(
            WarningKind::TokensOffPolicy,
            metrics.off_policy_dropped,
            FEW,
        );
        let missing = metrics.missing_rollout_log_probs / metrics.valid_tokens.max(1.0);
        above(WarningKind::RolloutLogProbsMissing, Some(missing), FEW);

        let unchanged = metrics.valid_tokens > 0.0 && metrics.kl_k2 <= ROUNDING;
        self.unchanged_steps = match unchanged && needs_old(&self.objective) {
            true => self.unchanged_steps + 1,
            false => 0,
        };
        warn(
            self.unchanged_steps >= UNCHANGED_STEPS,
            WarningKind::PolicyUnchanged,
            self.unchanged_steps as f64,
            UNCHANGED_STEPS as f64,
        );
        if let Some((total, count)) =
            totals.and_then(|totals| divided_by(&self.objective, totals, &metrics))
        {
            // A count of f32 is rounded beyond 2^24.
            let rounded = count * (1.0 - f64::from(f32::EPSILON));
            warn(total < rounded, WarningKind::TotalsTooSmall, total, count);
        }
        found.sort_by_key(|warning| warning.kind);
        found
    }
}

/// Whether the ratio to the old policy has a part in the loss.
fn needs_old(objective: &Objective) -> bool {
    let weighs = match objective.surrogate {
        Surrogate::PolicyGradient(surrogate) => surrogate.weight.bounds().is_some(),
        _ => true,
    };
    weighs && objective.ratio.against == Behavior::Old
}

/// The total that the reduction divides by, and what the batch itself counts of it.
fn divided_by(
    objective: &Objective,
    totals: GlobalTotals,
    metrics: &MetricValues,
) -> Option<(f64, f64)> {
    let (total, count) = match objective.reduction.denominator() {
        Denominator::Tokens => (totals.tokens, metrics.valid_tokens),
        Denominator::Sequences => (totals.sequences, metrics.valid_sequences),
        // No metric counts prompts.
        Denominator::Prompts | Denominator::One => (None, 0.0),
    };
    total.map(|total| (total as f64, count))
}

#[cfg(test)]
mod tests {
    use policy_loss_kernels::Sums;

    use super::*;
    use crate::{Clip, OffPolicyMask, PolicyLossConfig, presets};

    /// 100 tokens in 10 sequences, of a policy that has moved.
    fn sums() -> Sums {
        let mut sums = Sums::default();
        sums.valid_tokens = 100.0;
        sums.valid_sequences = 10.0;
        sums.squared_log_ratio = 1.0;
        sums
    }

    fn corrected() -> Objective {
        PolicyLossConfig::new()
            .with_rollout_correction(presets::tis(0.5, 2.0))
            .with_off_policy_mask(OffPolicyMask::default())
            .objective
    }

    fn rollout(kl_k3: f64) -> RolloutDiagnosticValues {
        RolloutDiagnosticValues {
            perplexity: 1.0,
            rollout_perplexity: 1.0,
            log_perplexity_gap: 0.0,
            perplexity_ratio: 1.0,
            kl_k1: 0.0,
            kl_k3,
            jensen_shannon: 0.0,
            chi_square: 0.0,
            sequence_chi_square: 0.0,
            effective_sample_size: 1.0,
            missing: 0.0,
        }
    }

    fn kinds(objective: &Objective, observation: Observation) -> Vec<WarningKind> {
        let warnings = Warnings::new(objective).observe(&observation);
        for warning in &warnings {
            let json = serde_json::to_value(warning).expect("plain data");
            assert_eq!(json["name"], warning.kind.name());
            assert_eq!(json["name"], serde_json::to_value(warning.kind).unwrap());
            assert_eq!(json["value"], warning.value);
            assert_eq!(json["threshold"], warning.threshold);
            assert_eq!(json["message"], warning.to_string());
        }
        warnings.iter().map(|warning| warning.kind).collect()
    }

    fn of_sums(objective: &Objective, change: impl FnOnce(&mut Sums)) -> Observation {
        let mut sums = sums();
        change(&mut sums);
        Observation::new(MetricValues::of(&sums, objective))
    }

    #[test]
    fn each_share_warns_beyond_its_threshold_and_not_at_it() {
        let objective = corrected();
        type Field = fn(&mut Sums) -> &mut f64;
        let cases: [(WarningKind, Field, f64); 7] = [
            (WarningKind::NonFinite, |sums| &mut sums.non_finite, 0.0),
            (
                WarningKind::MostlyClipped,
                |sums| &mut sums.clipped_above,
                30.0,
            ),
            (
                WarningKind::MostlyClipped,
                |sums| &mut sums.clipped_below,
                30.0,
            ),
            (
                WarningKind::WeightsTruncated,
                |sums| &mut sums.truncated_weights,
                5.0,
            ),
            (
                WarningKind::TokensRejected,
                |sums| &mut sums.rejected_weights,
                5.0,
            ),
            (
                WarningKind::TokensOffPolicy,
                |sums| &mut sums.off_policy_dropped,
                5.0,
            ),
            (
                WarningKind::RolloutLogProbsMissing,
                |sums| &mut sums.missing_rollout_log_probs,
                5.0,
            ),
        ];
        for (kind, field, most) in cases {
            let at = of_sums(&objective, |sums| *field(sums) = most);
            assert_eq!(kinds(&objective, at), []);
            let beyond = of_sums(&objective, |sums| *field(sums) = most + 1.0);
            assert_eq!(kinds(&objective, beyond), [kind]);
        }
    }

    #[test]
    fn a_mismatch_warns_without_a_correction() {
        let plain = PolicyLossConfig::new().objective;
        for (objective, kl_k3, expected) in [
            (plain, 0.01, vec![]),
            (plain, 0.0101, vec![WarningKind::MismatchUncorrected]),
            (corrected(), 0.0101, vec![]),
        ] {
            let observation = of_sums(&objective, |_| ());
            let observation = observation.with_rollout_diagnostics(rollout(kl_k3));
            assert_eq!(kinds(&objective, observation), expected);
        }
    }

    #[test]
    fn a_total_below_the_count_of_the_batch_warns() {
        let tokens = PolicyLossConfig::new().objective;
        let sequences = PolicyLossConfig::gspo().objective;
        let given = |tokens, sequences| {
            GlobalTotals::new()
                .with_tokens(tokens)
                .with_sequences(sequences)
        };
        for (objective, totals, warns) in [
            (tokens, given(100, 1), false),
            (tokens, given(99, 10), true),
            (sequences, given(1, 10), false),
            (sequences, given(100, 9), true),
        ] {
            let observation = of_sums(&objective, |_| ()).with_totals(totals);
            let expected = vec![WarningKind::TotalsTooSmall; usize::from(warns)];
            assert_eq!(kinds(&objective, observation), expected, "{totals:?}");
        }
    }

    #[test]
    fn groups_without_spread_warn_when_they_are_most() {
        let objective = PolicyLossConfig::grpo().objective;
        let of = |rewards: &[f64], groups: &[i64]| {
            let observation = of_sums(&objective, |_| ()).with_rewards(rewards, groups);
            kinds(&objective, observation.expect("as many as rewards"))
        };
        let half = [7, 7, -1, -1];
        assert_eq!(of(&[1.0, 1.0, 0.0, 1.0], &half), []);
        let all = [WarningKind::GroupsWithoutSpread];
        assert_eq!(of(&[1.0, 1.0, 0.0, 0.0], &half), all);
        assert_eq!(of(&[1.0, 2.0, 3.0], &[1, 2, 3]), all);
        assert_eq!(of(&[], &[]), []);
        let refused = of_sums(&objective, |_| ()).with_rewards(&[1.0], &[]);
        let message = refused.expect_err("too few").to_string();
        assert!(message.contains("group_ids"), "{message}");
    }

    #[test]
    fn a_policy_that_does_not_move_warns_at_the_third_step_in_a_row() {
        let objective = PolicyLossConfig::new().objective;
        let moved = of_sums(&objective, |_| ());
        let still = of_sums(&objective, |sums| sums.squared_log_ratio = 0.0);
        let mut warnings = Warnings::new(&objective);
        let mut says = |observation: &Observation| {
            let warnings = warnings.observe(observation).into_iter();
            warnings.map(|warning| warning.kind).collect::<Vec<_>>()
        };
        for step in [&still, &still, &moved, &still, &still] {
            assert_eq!(says(step), []);
        }
        assert_eq!(says(&still), [WarningKind::PolicyUnchanged]);
        assert_eq!(says(&still), []);
        // What has no ratio is meant for it.
        let reinforce = PolicyLossConfig::reinforce().objective;
        let mut warnings = Warnings::new(&reinforce);
        for _ in 0..4 {
            assert_eq!(warnings.observe(&still), []);
        }
    }

    #[test]
    fn each_is_said_once() {
        let objective = PolicyLossConfig::new()
            .with_surrogate(Clip::new(3e-4, 4e-4))
            .objective;
        let clipped = of_sums(&objective, |sums| sums.clipped_above = 60.0);
        let mut warnings = Warnings::new(&objective);
        assert_eq!(warnings.observe(&clipped).len(), 1);
        assert_eq!(warnings.observe(&clipped), []);
        let broken = of_sums(&objective, |sums| {
            sums.clipped_above = 60.0;
            sums.non_finite = 1.0;
        });
        let kinds = warnings.observe(&broken).into_iter().map(|it| it.kind);
        assert_eq!(kinds.collect::<Vec<_>>(), [WarningKind::NonFinite]);
    }
}

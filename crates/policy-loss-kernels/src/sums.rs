//! The row of sums, every number that a batch is summed up in, and the metrics, formulas over it.
//!
//! All implementations return this row, in this order. Rows add up: the row of a batch is the
//! [merged](Sums::merge) rows of its parts, whatever the parts are.

use serde::Serialize;

use crate::accumulators::accumulators;
use crate::objective::Objective;

accumulators! {
    /// The row of sums of a batch. `n` counts valid tokens, and sums run over them, with
    /// `d = log_probs - old_log_probs`, the ratio `r` of the objective, the gap
    /// `g = old_log_probs - rollout_log_probs` and the weight `w` of a rollout correction. What an
    /// objective does not have stays at its neutral value.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Sums, Sum, SumTotals {
        /// Token losses, each times `1 / n_b` where the reduction is a mean of sequence means, and
        /// times `1 / n_p` where it is one of prompts: what the reduction divides by its count, before
        /// it does.
        loss: Sum,
        /// Valid tokens, `n`.
        valid_tokens: Count if |it| it.masked,
        /// Sequences with a valid token.
        valid_sequences: Count if |it| it.masked,
        /// Prompts that a valid token answers, where the reduction is a mean over them: the sum of
        /// `1 / n_p`, of a part of a batch its part of the prompts.
        valid_prompts: Sum if |it| it.has_sequence_weights(),
        /// Valid tokens at which an input of the objective is NaN or infinite.
        non_finite: Count,
        /// Valid tokens whose `rollout_log_probs` is NaN, where the objective reads them.
        missing_rollout_log_probs: Count if |it| it.reads_rollout(),
        /// Tokens at which the bound of the surrogate was met, and `A > 0`.
        clipped_above: Count,
        /// Tokens at which the bound of the surrogate was met, and `A < 0`.
        clipped_below: Count,
        /// Tokens at which the bound for negative advantages was met.
        dual_clipped: Count if |it| it.choices.dual_clip,
        /// `d`, not clamped.
        log_ratio: Sum,
        /// `d^2`, not clamped.
        squared_log_ratio: Sum,
        /// `expm1(d) - d`, with `d` clamped to ±20.
        k3: Sum,
        /// `r`.
        ratio: Sum,
        /// `r^2`.
        squared_ratio: Sum,
        /// The smallest `r`; NaN is left out.
        least_ratio: Least,
        /// The largest `r`; NaN is left out.
        largest_ratio: Largest,
        /// `g`, where there is a rollout correction.
        rollout_gap: Sum if |it| it.corrected,
        /// The smallest `g`; NaN is left out.
        least_rollout_gap: Least if |it| it.corrected,
        /// The largest `g`; NaN is left out.
        largest_rollout_gap: Largest if |it| it.corrected,
        /// `w`.
        weight: Sum if |it| it.corrected,
        /// `w^2`.
        squared_weight: Sum if |it| it.corrected,
        /// Tokens whose weight was moved to a bound.
        truncated_weights: Count if |it| it.truncates,
        /// Tokens whose weight was set to 0.
        rejected_weights: Count if |it| it.masks || it.filter_bits != 0 || it.vetoes,
        /// Tokens that the off-policy mask dropped.
        off_policy_dropped: Count if |it| it.off_policy,
        /// Tokens that the entropy mask dropped.
        low_entropy_dropped: Count if |it| it.masks_entropy,
        /// The divergence that the KL penalty multiplies by its coefficient.
        kl: Sum if |it| it.penalized,
        /// Entropies, where there is an entropy bonus.
        entropy: Sum if |it| it.entropy,
    }
}

/// Where tokens are added to the row, each stage of a token what it has found out.
pub(crate) mod observed {
    use crate::formula::formulas;

    formulas! {
        use [parts, row, rollout, penalty, sums];

        /// The log-ratio against the old policy, and the ratio of the objective.
        #[cube]
        pub fn add_ratio<E: Elements>(
            inputs: &TokenInputs<E>,
            log_ratio: Values<E>,
            against_old: &BoundedRatio<E>,
            own: &TokenRatio<E>,
            sums: &mut Sums<E>,
            #[comptime] blueprint: Blueprint,
        ) {
            let valid = inputs.valid;
            sums.log_ratio += total::<E>(log_ratio);
            sums.squared_log_ratio =
                plus_product::<E>(sums.squared_log_ratio, log_ratio, log_ratio);
            sums.k3 += total::<E>(against_old.k3);
            // Ratios of sequences are added up where they are made: n_b equal addends would only add
            // rounding errors.
            if comptime!(!blueprint.sequence_ratio()) {
                let kept = keep::<E>(valid, own.ratio);
                sums.ratio += total::<E>(kept);
                sums.squared_ratio = plus_product::<E>(sums.squared_ratio, kept, kept);
                sums.least_ratio = least::<E>(sums.least_ratio, valid, own.ratio);
                sums.largest_ratio = largest::<E>(sums.largest_ratio, valid, own.ratio);
            }
        }

        /// The weight of a rollout correction, and with it 0 at masked tokens.
        #[cube]
        pub fn add_weight<E: Elements>(
            inputs: &TokenInputs<E>,
            weight: &TokenWeight<E>,
            kept: Values<E>,
            sums: &mut Sums<E>,
        ) {
            let valid = inputs.valid;
            sums.rollout_gap += total::<E>(weight.gap);
            sums.least_rollout_gap = least::<E>(sums.least_rollout_gap, valid, weight.gap);
            sums.largest_rollout_gap = largest::<E>(sums.largest_rollout_gap, valid, weight.gap);
            sums.weight += total::<E>(kept);
            sums.squared_weight = plus_product::<E>(sums.squared_weight, kept, kept);
            sums.truncated_weights += count::<E>(both::<E>(valid, weight.truncated));
            sums.rejected_weights += count::<E>(both::<E>(valid, weight.rejected));
        }

        /// What masks of the objective drop.
        #[cube]
        pub fn add_dropped<E: Elements>(
            row: &Row<E>,
            inputs: &TokenInputs<E>,
            sums: &mut Sums<E>,
            #[comptime] blueprint: Blueprint,
        ) {
            if comptime!(blueprint.off_policy) {
                let advantage = keep::<E>(inputs.valid, inputs.advantage);
                sums.off_policy_dropped += count::<E>(off_policy_tokens::<E>(row, advantage));
            }
            if comptime!(blueprint.masks_entropy) {
                sums.low_entropy_dropped += count::<E>(low_entropy_tokens::<E>(row, inputs));
            }
        }

        /// The KL penalty.
        #[cube]
        pub fn add_penalty<E: Elements>(penalty: &PenaltyOutput<E>, sums: &mut Sums<E>) {
            sums.kl += total::<E>(penalty.value);
        }

        /// The entropies of an entropy bonus, 0 at masked tokens.
        #[cube]
        pub fn add_entropy<E: Elements>(entropy: Values<E>, sums: &mut Sums<E>) {
            sums.entropy += total::<E>(entropy);
        }

        /// What is counted of each token, and its loss, the negative of its objective.
        #[cube]
        pub fn add_token<E: Elements>(
            row: &Row<E>,
            inputs: &TokenInputs<E>,
            objective: Values<E>,
            probe: Values<E>,
            sums: &mut Sums<E>,
            #[comptime] blueprint: Blueprint,
        ) {
            if comptime!(blueprint.reads_rollout()) {
                sums.missing_rollout_log_probs += count::<E>(inputs.missing);
            }
            if comptime!(blueprint.masked) {
                sums.valid_tokens += count::<E>(inputs.valid);
            }
            sums.non_finite += count_non_finite::<E>(probe);
            sums.loss = plus_product::<E>(sums.loss, negative::<E>(objective), row.factor);
        }
    }
}

/// Declares the metrics once: name, sentence and formula.
macro_rules! metrics {
    (
        |$sums:ident, $n:ident|
        $($(#[doc = $doc:literal])* $(#[alias = $alias:literal])? $name:ident = $formula:expr;)*
        $([$part:ident] {
            $($(#[doc = $part_doc:literal])* $(#[alias = $part_alias:literal])? $part_name:ident = $part_formula:expr;)*
        })*
    ) => {
        /// The metrics of a batch. With `n` valid tokens, `d = log_probs - old_log_probs`, the ratio
        /// `r` of the objective and the weight `w` of its rollout correction. A batch without a
        /// valid token has metrics 0. A metric of a part that the objective does not have is absent.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        #[non_exhaustive]
        pub struct MetricValues {
            $($(#[doc = $doc])* $(#[doc(alias = $alias)])? pub $name: f64,)*
            $($($(#[doc = $part_doc])* $(#[doc(alias = $part_alias)])? pub $part_name: Option<f64>,)*)*
        }

        impl MetricValues {
            /// The name of every metric with its sentence, in the order of
            /// [`named`](Self::named).
            pub const SENTENCES: &'static [(&'static str, &'static str)] = &[
                $((stringify!($name), concat!($($doc,)*)),)*
                $($((stringify!($part_name), concat!($($part_doc,)*)),)*)*
            ];

            /// The metrics of a row of sums.
            #[must_use]
            pub fn of(sums: &Sums, objective: &Objective) -> Self {
                let $sums = sums;
                let $n = sums.valid_tokens.max(1.0);
                Self {
                    $($name: $formula,)*
                    $($($part_name: objective.$part.is_some().then(|| $part_formula),)*)*
                }
            }

            /// The name and the value of every metric, in the order of the documentation; `None`
            /// where the objective does not have the part that it belongs to.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, Option<f64>)> {
                vec![
                    $((stringify!($name), Some(self.$name)),)*
                    $($((stringify!($part_name), self.$part_name),)*)*
                ]
            }
        }
    };
}

metrics! {
    |sums, n|
    /// Fraction of tokens at which the bound of the surrogate was met; with the clip, whose clipped
    /// branch was taken, `sum([s2 < s1]) / n`.
    clip_ratio = (sums.clipped_above + sums.clipped_below) / n;
    /// `sum(old_log_probs - log_probs) / n`, not clamped.
    ppo_kl = minus(sums.log_ratio / n);
    /// Fraction of tokens clipped while `A > 0`; with the clip, at the upper bound.
    clipped_above = sums.clipped_above / n;
    /// Fraction of tokens clipped while `A < 0`; with the clip, at the lower bound.
    clipped_below = sums.clipped_below / n;
    /// Fraction of tokens at which the dual clip, or the `delta`, was taken.
    dual_clipped = sums.dual_clipped / n;
    /// Mean of `r`.
    ratio_mean = sums.ratio / n;
    /// Smallest `r`.
    ratio_min = extreme([sums.least_ratio, sums.largest_ratio], 0, sums.ratio);
    /// Largest `r`.
    ratio_max = extreme([sums.least_ratio, sums.largest_ratio], 1, sums.ratio);
    /// Effective sample size of the ratios as a fraction of `n`: `sum(r)^2 / (n * sum(r^2))`.
    ratio_effective_sample_size = effective_sample_size(sums.ratio, sums.squared_ratio, n);
    /// Estimate k1 of KL(old, new): the mean of `-d`, not clamped; the same as `ppo_kl`.
    kl_k1 = minus(sums.log_ratio / n);
    /// Estimate k2 of KL(old, new): the mean of `d^2 / 2`, not clamped.
    kl_k2 = sums.squared_log_ratio / n / 2.0;
    /// Estimate k3 of KL(old, new): the mean of `expm1(d) - d`, with `d` clamped to ±20
    /// ([Schulman 2020](http://joschu.net/blog/kl-approx.html)).
    kl_k3 = sums.k3 / n;
    /// Number of valid tokens, `n`.
    valid_tokens = sums.valid_tokens;
    /// Number of sequences that hold a valid token.
    valid_sequences = sums.valid_sequences;
    /// Number of valid tokens at which an input of the objective is NaN or infinite.
    non_finite = sums.non_finite;
    /// Number of valid tokens whose `rollout_log_probs` is NaN, where the objective reads them.
    missing_rollout_log_probs = sums.missing_rollout_log_probs;
    [rollout_correction] {
        /// `sum(rollout_log_probs - old_log_probs) / n`. Absent without a rollout correction, as are
        /// all weight metrics.
        #[alias = "vllm_kl"]
        rollout_kl = minus(sums.rollout_gap / n);
        /// Smallest `old_log_probs - rollout_log_probs`: where the sampler is the surer one.
        rollout_gap_min = extreme(
            [sums.least_rollout_gap, sums.largest_rollout_gap],
            0,
            sums.rollout_gap,
        );
        /// Largest `old_log_probs - rollout_log_probs`: where the trainer is the surer one.
        rollout_gap_max = extreme(
            [sums.least_rollout_gap, sums.largest_rollout_gap],
            1,
            sums.rollout_gap,
        );
        /// Mean of the weights `w`.
        weight_mean = sums.weight / n;
        /// Effective sample size of the weights as a fraction of `n`: `sum(w)^2 / (n * sum(w^2))`.
        weight_effective_sample_size = effective_sample_size(sums.weight, sums.squared_weight, n);
        /// Fraction of tokens whose weight was moved to a bound.
        weight_truncated = sums.truncated_weights / n;
        /// Fraction of tokens whose weight was set to 0.
        weight_zeroed = sums.rejected_weights / n;
    }
    [off_policy_mask] {
        /// Fraction of tokens that the off-policy mask dropped. Absent without one.
        off_policy_dropped = sums.off_policy_dropped / n;
    }
    [entropy_mask] {
        /// Fraction of tokens that the entropy mask dropped. Absent without one.
        low_entropy_dropped = sums.low_entropy_dropped / n;
    }
    [kl_penalty] {
        /// Mean of the divergence that the KL penalty multiplies, times `r` where its gradient is
        /// `importance_corrected`. Absent without a penalty.
        kl = sums.kl / n;
    }
    [entropy_bonus] {
        /// Mean of the entropies. Absent without an entropy bonus.
        entropy = sums.entropy / n;
    }
}

impl Sums {
    /// The loss of the batch by its own counts: what [`Reduction`](crate::objective::Reduction) makes
    /// of the sum of token losses.
    #[must_use]
    pub fn mean_loss(&self, objective: &Objective) -> f64 {
        let count =
            objective
                .reduction
                .count(self.valid_tokens, self.valid_sequences, self.valid_prompts);
        self.loss / count
    }
}

/// Subtracted from 0, not negated: no mean becomes -0.
fn minus(x: f64) -> f64 {
    0.0 - x
}

/// The smallest or the largest value. Without a value that is a number the smallest exceeds the
/// largest: then there is no valid token, or all values are NaN, as is their sum.
fn extreme(ends: [f64; 2], side: usize, sum: f64) -> f64 {
    match ends[0] > ends[1] {
        true => sum,
        false => ends[side],
    }
}

fn effective_sample_size(sum: f64, squares: f64, n: f64) -> f64 {
    match squares {
        0.0 => 0.0,
        squares => sum * sum / (n * squares),
    }
}

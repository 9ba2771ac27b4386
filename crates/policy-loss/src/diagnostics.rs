//! How far the policy that sampled is from the policy that the update started from.

use burn::tensor::{DType, Tensor, TensorReadError};
use serde::Serialize;

use crate::checked::CheckedBatch;
use crate::composed::kl::{expm1, k3};
use crate::composed::ratio::limited;
use crate::composed::{arithmetic, valid_tokens};
use crate::numbers::numbers;
use crate::valid::{Valid, sum_per_row};
use crate::{BatchError, PolicyBatch, PolicyLossConfig, RolloutCorrection, RolloutWeight};

numbers! {
    RolloutDiagnostics, RolloutDiagnosticValues;
    /// Perplexity of the samples under `old_log_probs`: the mean over sequences of
    /// `exp(-mean log-prob)`.
    perplexity,
    /// The same under `rollout_log_probs`.
    rollout_perplexity,
    /// Mean over sequences of the difference of the logarithms of the two, `-mean g`.
    log_perplexity_gap,
    /// Mean over sequences of `exp(-mean g)`: how many times as surprising the samples are.
    perplexity_ratio,
    /// Estimate k1 of KL(rollout, old): the mean of `-g`.
    kl_k1,
    /// Estimate k3 of it: the mean of `expm1(g) - g`.
    kl_k3,
    /// Mean Jensen-Shannon divergence, in nats, of the Bernoulli distributions that the sampled token
    /// comes up or not: with `p = exp(old)`, `q = exp(rollout)` and `m = (p + q) / 2` that of a token is
    /// `(KL(p, m) + KL(q, m)) / 2`, from 0 to ln 2 (0.693). It never exceeds that of the whole
    /// distributions.
    jensen_shannon,
    /// Chi-square divergence from the tokens: the mean of `rho^2`, minus 1.
    chi_square,
    /// Chi-square divergence from the sequences: the mean of `exp(sum g)^2`, minus 1.
    sequence_chi_square,
    /// Effective sample size of `rho` as a fraction of `n`: `sum(rho)^2 / (n sum(rho^2))`.
    effective_sample_size,
    /// Number of valid tokens whose `rollout_log_probs` is NaN.
    missing,
}

/// How far the policy that sampled is from the policy that the update started from, over the valid
/// tokens of a batch: what to look at before choosing a [`RolloutCorrection`]. Detached and still
/// on the device, each `[1]`.
///
/// With `g = old_log_probs - rollout_log_probs` and `rho = exp(g)`, where a single token's `g` is
/// clamped to ±20 before it is exponentiated; perplexities are those of the means, not clamped.
///
/// A token whose `rollout_log_probs` is NaN, for which the sampler gave none, is counted in
/// [`missing`](Self::missing) and left out of everything else, the means of its sequence and the
/// perplexity under `old_log_probs` included. A batch without a token that is left has diagnostics 0.
#[derive(Debug, Clone)]
pub struct RolloutDiagnostics {
    packed: Tensor<1>,
}

impl PolicyBatch {
    /// Computes what there is to know about the mismatch between sampler and trainer, whatever the
    /// objective; by plain tensor operations, and only when it is called.
    ///
    /// # Errors
    ///
    /// There are no `rollout_log_probs`, or the batch is refused as by
    /// [`PolicyLoss::forward`](crate::PolicyLoss::forward).
    pub fn rollout_diagnostics(&self) -> Result<RolloutDiagnostics, BatchError> {
        let batch = self.check_mismatch()?;
        let dtype = arithmetic(batch.log_probs.dtype());
        let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
        let rollout = constant(batch.rollout_log_probs.expect("it was checked to be there"));
        if batch.log_probs.dims().contains(&0) {
            let device = batch.log_probs.device().without_autodiff();
            let count = RolloutDiagnosticValues::SENTENCES.len();
            let packed = Tensor::zeros([count], (&device, dtype));
            return Ok(RolloutDiagnostics { packed });
        }
        let all = valid_tokens(&batch.log_probs, batch.action_mask, dtype);
        let missing = rollout.clone().is_nan();
        let there = all.tokens.clone().bool_and(missing.clone().bool_not());
        let valid = Valid::new(there, dtype);
        let old = valid.select(constant(batch.old_log_probs));
        let rollout = valid.select(rollout);
        let gap = old.clone() - rollout.clone();
        let rho = valid.select(limited(gap.clone()).exp());
        let square = valid.mean(rho.clone().square());
        let jensen_shannon = valid.select(jensen_shannon(old.clone(), rollout.clone()));
        // Sequences without a valid token hold 0, not exp(0).
        let mean_of_sequences =
            |x: Tensor<2>| valid.select(x).sum() / valid.sequences.clone().clamp_min(1);
        let exp_mean = |x: Tensor<2>| mean_of_sequences(valid.mean_per_sequence(x).exp());
        let sum = sum_per_row(gap.clone());
        let sequence_rho = limited(sum).exp();
        let any = valid.total.clone().clamp_max(1);
        let nothing = square.clone().equal_elem(0);
        let mean = valid.mean(rho);
        Ok(Separate {
            perplexity: exp_mean(old.neg()),
            rollout_perplexity: exp_mean(rollout.neg()),
            log_perplexity_gap: mean_of_sequences(valid.mean_per_sequence(gap.clone())).neg(),
            perplexity_ratio: exp_mean(gap.clone().neg()),
            kl_k1: valid.mean(gap.clone()).neg(),
            kl_k3: valid.mean(k3(gap)),
            jensen_shannon: valid.mean(jensen_shannon),
            chi_square: square.clone() - any.clone(),
            sequence_chi_square: mean_of_sequences(sequence_rho.square()) - any,
            effective_sample_size: mean.square() / square.mask_fill(nothing, 1),
            missing: all.count(missing),
        }
        .pack())
    }

    /// The batch with its sampler's log-probs, whatever the objective.
    pub(crate) fn check_mismatch(&self) -> Result<CheckedBatch, BatchError> {
        let reads_rollout = PolicyLossConfig::new()
            .with_rollout_correction(RolloutCorrection::weigh(RolloutWeight::raw()));
        let mut batch = self.clone();
        batch.totals = None;
        // They are not read.
        batch.log_probs = batch.log_probs.or_else(|| batch.old_log_probs.clone());
        Ok(batch.check(&reads_rollout.objective)?.padded())
    }
}

/// The Jensen-Shannon divergence of Bernoulli distributions, of the logarithms of their
/// probabilities. With `x = (p - q) / (p + q)`, which is `tanh(gap / 2)`, and `y` the same of the
/// opposite probabilities, it is `m h(x) + (1 - m) h(y)`, in which nothing cancels.
fn jensen_shannon(log_p: Tensor<2>, log_q: Tensor<2>) -> Tensor<2> {
    // What is above is so by rounding.
    let [log_p, log_q] = [log_p, log_q].map(|log_prob| log_prob.clamp_max(0));
    let [rest_of_p, rest_of_q] = [&log_p, &log_q].map(|log_prob| expm1(log_prob.clone()).neg());
    let x = (limited(log_p.clone() - log_q.clone()) * 0.5).tanh();
    let mean = (log_p.exp() + log_q.exp()) * 0.5;
    let rest = (rest_of_p + rest_of_q) * 0.5;
    let y = (mean.clone() * x.clone()).neg() / rest.clone().clamp_min(f32::MIN_POSITIVE);
    mean * distance_from_mean(x) + rest * distance_from_mean(y.clamp(-1, 1))
}

/// `h(x) = ((1 + x) ln(1 + x) + (1 - x) ln(1 - x)) / 2` for `x` from -1 to 1.
fn distance_from_mean(x: Tensor<2>) -> Tensor<2> {
    let square = x.clone().square();
    // x^2 / 2 + x^4 / 12 + x^6 / 30 + ..., by Horner's rule. What is left out is below a rounding where
    // the series is taken.
    let terms = match x.dtype() {
        DType::F64 => 24,
        _ => 10,
    };
    let mut series = square.zeros_like();
    for k in (1..=terms).rev() {
        let k = f64::from(k);
        series = (series + 1.0 / (2.0 * k * (2.0 * k - 1.0))) * square.clone();
    }
    let part = |u: Tensor<2>| u.clone() * u.clamp_min(f32::MIN_POSITIVE).log();
    let direct = (part(x.clone() + 1) + part(x.neg() + 1)) * 0.5;
    direct.mask_where(square.lower_elem(0.25), series)
}

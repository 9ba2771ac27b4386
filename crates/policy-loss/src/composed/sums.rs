//! The row of sums of a batch, from the values that its loss was computed from.

use burn::tensor::{Bool, Tensor};
use policy_loss_kernels::Sum;

use super::kl::k3;
use super::rollout::Weights;
use crate::valid::{Valid, largest, non_finite, total};

/// What a forward pass saw, all of it outside autodiff; `[B, T]`, or `[B, 1]` where a whole
/// sequence shares a value.
pub(crate) struct Observed {
    /// `log_probs - old_log_probs`, `[B, T]`, 0 at padding.
    pub old_log_ratio: Tensor<2>,
    /// `log_probs - rollout_log_probs`, `[B, T]`, 0 at padding, where the ratio is made of it.
    pub rollout_log_ratio: Option<Tensor<2>>,
    pub ratio: Tensor<2>,
    /// 0 at padding.
    pub advantages: Tensor<2>,
    pub clipped: Tensor<2, Bool>,
    pub dual_clipped: Option<Tensor<2, Bool>>,
    pub weights: Option<Weights>,
    /// Where the off-policy mask dropped a token, `[B, T]`.
    pub off_policy: Option<Tensor<2, Bool>>,
    /// Where the entropy mask dropped a token, `[B, T]`.
    pub low_entropy: Option<Tensor<2, Bool>>,
    /// Where there is no log-prob of the sampler, `[B, T]`; absent where the objective reads none.
    pub missing: Option<Tensor<2, Bool>>,
    /// The divergence of the KL penalty, 0 at padding.
    pub kl: Option<Tensor<2>>,
    /// `log_probs - ref_log_probs`, 0 at padding, where there is a penalty.
    pub kl_log_ratio: Option<Tensor<2>>,
    /// 0 at padding; absent where the objective reads none.
    pub entropy: Option<Tensor<2>>,
    /// Whether they are rewarded.
    pub entropy_bonus: bool,
}

impl Observed {
    /// Every sum in the order of [`Sum::ALL`], `[1, N]`. `loss` is the numerator of the reduction,
    /// `prompts` their number where it is a mean over them.
    pub fn row(&self, loss: Tensor<1>, prompts: Option<Tensor<1>>, valid: &Valid) -> Tensor<2> {
        let sum = |sum: &Sum| self.sum(*sum, &loss, prompts.as_ref(), valid);
        let row: Vec<Tensor<1>> = Sum::ALL.iter().map(sum).collect();
        Tensor::cat(row, 0).reshape([1, Sum::ALL.len()])
    }

    /// A sum, `[1]`; the neutral value of one that the objective does not have.
    fn sum(
        &self,
        sum: Sum,
        loss: &Tensor<1>,
        prompts: Option<&Tensor<1>>,
        valid: &Valid,
    ) -> Tensor<1> {
        let shape = self.old_log_ratio.dims();
        let neutral = sum.kind().neutral();
        let or_neutral =
            |sum: Option<Tensor<1>>| sum.unwrap_or_else(|| valid.total.zeros_like() + neutral);
        let total_of = |x: &Option<Tensor<2>>| or_neutral(x.clone().map(total));
        let count_of = |x: &Option<Tensor<2, Bool>>| {
            or_neutral(x.clone().map(|condition| valid.count(condition)))
        };
        let of_weights =
            |f: &dyn Fn(&Weights) -> Tensor<2>| or_neutral(self.weights.as_ref().map(f).map(total));
        let count_of_weights = |f: &dyn Fn(&Weights) -> Option<Tensor<2, Bool>>| {
            count_of(&self.weights.as_ref().and_then(f))
        };
        let clipped_where = |side: Tensor<2, Bool>| {
            let clipped = self.clipped.clone().expand(shape);
            valid.count(clipped.bool_and(side.expand(shape)))
        };
        let ratio = self.ratio.clone().expand(shape);
        let or_neutral_each = |x: Tensor<2>| {
            let left_out = valid.padding.clone().bool_or(x.clone().is_nan());
            x.mask_fill(left_out, neutral)
        };
        let gap = || self.weights.as_ref().map(|weights| weights.gap.clone());
        match sum {
            Sum::loss => loss.clone(),
            Sum::valid_tokens => valid.total.clone(),
            Sum::valid_sequences => valid.sequences.clone(),
            Sum::valid_prompts => or_neutral(prompts.cloned()),
            Sum::non_finite => valid.count(self.non_finite()),
            Sum::missing_rollout_log_probs => count_of(&self.missing),
            Sum::clipped_above => clipped_where(self.advantages.clone().greater_elem(0)),
            Sum::clipped_below => clipped_where(self.advantages.clone().lower_elem(0)),
            Sum::dual_clipped => count_of(&self.dual_clipped),
            Sum::log_ratio => total(self.old_log_ratio.clone()),
            Sum::squared_log_ratio => total(self.old_log_ratio.clone().square()),
            Sum::k3 => total(k3(self.old_log_ratio.clone())),
            Sum::ratio => total(valid.select(ratio)),
            Sum::squared_ratio => total(valid.select(ratio).square()),
            Sum::least_ratio => largest(or_neutral_each(ratio).neg()).neg(),
            Sum::largest_ratio => largest(or_neutral_each(ratio)),
            Sum::rollout_gap => of_weights(&|weights| weights.gap.clone()),
            Sum::least_rollout_gap => {
                or_neutral(gap().map(|gap| largest(or_neutral_each(gap).neg()).neg()))
            }
            Sum::largest_rollout_gap => or_neutral(gap().map(|gap| largest(or_neutral_each(gap)))),
            Sum::weight => of_weights(&|weights| valid.select(weights.weight.clone())),
            Sum::squared_weight => {
                of_weights(&|weights| valid.select(weights.weight.clone()).square())
            }
            Sum::truncated_weights => count_of_weights(&|weights| weights.truncated.clone()),
            Sum::rejected_weights => count_of_weights(&|weights| weights.rejected.clone()),
            Sum::off_policy_dropped => count_of(&self.off_policy),
            Sum::low_entropy_dropped => count_of(&self.low_entropy),
            Sum::kl => total_of(&self.kl),
            Sum::entropy => total_of(&self.entropy.clone().filter(|_| self.entropy_bonus)),
        }
    }

    /// Where an input of the objective is NaN or infinite, `[B, T]`.
    fn non_finite(&self) -> Tensor<2, Bool> {
        let always = [self.old_log_ratio.clone(), self.advantages.clone()];
        let others = [
            self.rollout_log_ratio.clone(),
            self.weights.as_ref().map(|weights| weights.gap.clone()),
            self.kl_log_ratio.clone(),
            self.entropy.clone(),
        ];
        non_finite(always.into_iter().chain(others.into_iter().flatten()))
    }
}

//! What a loss makes of each token.

use burn::tensor::{Bool, Tensor};

use crate::composed::sums::Observed;
use crate::packed::Packing;
use crate::valid::Valid;

/// What a loss makes of each token, by
/// [`PolicyLoss::token_details`](crate::PolicyLoss::token_details): everything that its metrics sum
/// up. Detached, on the device, every tensor `[B, T]`, and 0 or false at masked positions. What is
/// optional is absent where the objective does not have the part that it belongs to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenDetails {
    /// True where a token is valid.
    pub valid: Tensor<2, Bool>,
    /// The token loss, before it is reduced.
    pub token_loss: Tensor<2>,
    /// `log_probs - old_log_probs`.
    pub log_ratio: Tensor<2>,
    /// The ratio `r` of the objective; where a sequence shares one, every token has it.
    pub ratio: Tensor<2>,
    /// The advantage.
    pub advantages: Tensor<2>,
    /// Where the bound of the surrogate was met.
    pub clipped: Tensor<2, Bool>,
    /// Where the bound for negative advantages was met, of surrogates that have one.
    pub dual_clipped: Option<Tensor<2, Bool>>,
    /// `old_log_probs - rollout_log_probs`, where there is a rollout correction.
    pub rollout_gap: Option<Tensor<2>>,
    /// The weight `w` of the rollout correction.
    pub weight: Option<Tensor<2>>,
    /// Where the weight was moved to a bound, for corrections that do so.
    pub weight_truncated: Option<Tensor<2, Bool>>,
    /// Where the weight was set to 0, for corrections that do so.
    pub weight_zeroed: Option<Tensor<2, Bool>>,
    /// Where the off-policy mask dropped a token.
    pub off_policy_dropped: Option<Tensor<2, Bool>>,
    /// Where the entropy mask dropped a token.
    pub low_entropy_dropped: Option<Tensor<2, Bool>>,
    /// Where the sampler gave no log-prob, of objectives that read it.
    pub missing_rollout_log_probs: Option<Tensor<2, Bool>>,
}

impl TokenDetails {
    pub(crate) fn new(token_loss: Tensor<2>, valid: Valid, observed: Observed) -> Self {
        let shape = token_loss.dims();
        let number = |x: Tensor<2>| valid.select(x.expand(shape));
        let condition = |x: Tensor<2, Bool>| x.expand(shape).bool_and(valid.tokens.clone());
        let (gap, weight, truncated, rejected) = match observed.weights {
            Some(weights) => (
                Some(weights.gap),
                Some(weights.weight),
                weights.truncated,
                weights.rejected,
            ),
            None => (None, None, None, None),
        };
        Self {
            log_ratio: observed.old_log_ratio,
            ratio: number(observed.ratio),
            advantages: number(observed.advantages),
            clipped: condition(observed.clipped),
            dual_clipped: observed.dual_clipped.map(condition),
            rollout_gap: gap,
            weight: weight.map(number),
            weight_truncated: truncated.map(condition),
            weight_zeroed: rejected.map(condition),
            off_policy_dropped: observed.off_policy.map(condition),
            low_entropy_dropped: observed.low_entropy.map(condition),
            missing_rollout_log_probs: observed.missing.map(condition),
            token_loss,
            valid: valid.tokens.clone(),
        }
    }

    /// The same of a packed row, `[1, N]`.
    pub(crate) fn unpad(self, packing: &Packing) -> Self {
        let number = |x: Tensor<2>| packing.unpad(x);
        let condition = |x: Tensor<2, Bool>| packing.unpad(x.float()).greater_elem(0);
        Self {
            valid: condition(self.valid),
            token_loss: number(self.token_loss),
            log_ratio: number(self.log_ratio),
            ratio: number(self.ratio),
            advantages: number(self.advantages),
            clipped: condition(self.clipped),
            dual_clipped: self.dual_clipped.map(condition),
            rollout_gap: self.rollout_gap.map(number),
            weight: self.weight.map(number),
            weight_truncated: self.weight_truncated.map(condition),
            weight_zeroed: self.weight_zeroed.map(condition),
            off_policy_dropped: self.off_policy_dropped.map(condition),
            low_entropy_dropped: self.low_entropy_dropped.map(condition),
            missing_rollout_log_probs: self.missing_rollout_log_probs.map(condition),
        }
    }
}

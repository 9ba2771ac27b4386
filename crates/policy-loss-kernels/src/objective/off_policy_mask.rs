//! Sequences that the policy has moved too far away from.

use super::check::part;

part! {
    /// The off-policy sequence mask (OPSM): tokens with a negative advantage are dropped where their
    /// sequence has become unlikely,
    ///
    /// ```text
    /// dropped where A < 0 and mean of (base - log_probs) over the sequence > delta
    /// ```
    ///
    /// with the `base` of the [`Ratio`](super::Ratio). Pushing down what the policy would hardly
    /// sample any more teaches nothing and destabilises. A dropped token has policy term 0 and no
    /// gradient from it; the denominators of the reduction keep counting it.
    /// Source: [arXiv 2512.02556](https://arxiv.org/abs/2512.02556).
    OffPolicyMask at "off_policy_mask" {
        /// The largest mean of `base - log_probs` that is kept. Finite and above 0.
        delta: f64 = 1e-4, positive;
    }
    /// Drops beyond a mean of `delta`.
    new
}

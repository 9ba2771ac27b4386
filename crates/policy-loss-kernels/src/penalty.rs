//! What is added to a token's loss: shared by all kernels.

/// `kl` times a coefficient, in a token's loss; with `q = log_probs - ref_log_probs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// What the estimate is multiplied by.
    pub coefficient: f64,
    /// The estimate.
    pub estimator: Estimator,
    /// Its gradient.
    pub gradient: PenaltyGradient,
}

/// An estimate of a KL divergence from one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// `q`.
    K1,
    /// `q² / 2`.
    K2,
    /// `expm1(-q) + q`, with `q` within ±20.
    K3,
    /// `|q|`.
    Abs,
}

/// The gradient of a [`Penalty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PenaltyGradient {
    /// That of the estimate.
    Estimator,
    /// `q`, whatever the estimate.
    StraightThrough,
    /// The estimate is multiplied by the ratio; the gradient is that of the product.
    ImportanceCorrected,
}

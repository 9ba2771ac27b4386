//! The choices of a [`Blueprint`](super::blueprint::Blueprint).

use cubecl::prelude::*;

/// A [`Surrogate`](crate::Surrogate) without its numbers.
#[derive_cube_comptime]
pub enum SurrogateKind {
    Clip,
    /// Bounded below where the advantage is negative.
    DualClip,
    LogProbs,
    /// Weighted where the advantage is negative.
    NegativeWeightedLogProbs,
    WeightedLogProbs,
    Gate,
    SquaredLogRatio,
    TotalVariationRegion,
    KlRegion,
    SequenceWeight,
    GeometricMean,
}

/// The estimate of a [`Penalty`](crate::Penalty).
#[derive_cube_comptime]
pub enum PenaltyKind {
    None,
    K1,
    K2,
    K3,
    Abs,
}

/// What a sum is divided by.
#[derive_cube_comptime]
pub enum Denominator {
    Tokens,
    /// Their number, times a length.
    Sequences,
    One,
}

/// A [`Weight`](crate::Weight) without its bounds.
#[derive_cube_comptime]
pub enum WeightKind {
    /// There is no correction.
    None,
    One,
    Token,
    Sequence,
    Geometric,
    Given,
}

/// A [`WeightMode`](crate::WeightMode) without its bounds.
#[derive_cube_comptime]
pub enum ModeKind {
    Raw,
    Truncate,
    Mask,
}

impl SurrogateKind {
    /// Whether it is a function of the ratio, so that its slope against `log_probs` is that
    /// against the ratio times the ratio.
    pub fn is_of_ratio(self) -> bool {
        matches!(self, Self::Clip | Self::DualClip | Self::Gate)
    }

    /// Whether it takes something from the whole sequence beside the ratio.
    pub fn is_of_sequence(self) -> bool {
        matches!(self, Self::SequenceWeight | Self::GeometricMean)
    }
}

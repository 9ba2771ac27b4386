//! The kinds of numbers that are accumulated over tokens.

/// How two parts of a number become that of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Added.
    Sum,
    /// Added, and a whole number: devices add it up as an integer, since f32 loses whole numbers
    /// above 2^24.
    Count,
    /// The smaller one; NaN is left out.
    Least,
    /// The larger one; NaN is left out.
    Largest,
}

impl Kind {
    /// The number of no token at all. Finite, because WGSL has no way to write an infinity.
    #[must_use]
    pub const fn neutral(self) -> f64 {
        match self {
            Self::Sum | Self::Count => 0.0,
            Self::Least => f32::MAX as f64,
            Self::Largest => f32::MIN as f64,
        }
    }

    /// The number of two parts.
    #[must_use]
    pub fn merge(self, left: f64, right: f64) -> f64 {
        // Comparisons with NaN are false.
        match self {
            Self::Sum | Self::Count => left + right,
            Self::Least if right < left => right,
            Self::Largest if right > left => right,
            Self::Least | Self::Largest => left,
        }
    }
}

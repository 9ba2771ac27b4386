//! What corrects for a sampler that is not the policy that the update started from: shared by all
//! kernels.

use crate::Range;

/// The constant that multiplies a token's surrogate, made of the gaps
/// `g = old_log_probs - rollout_log_probs` of the token and of its sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correction {
    /// The weight, before anything is rejected.
    pub weight: Weight,
    /// The weight is 0 where the statistic of one of them is out of its range, or NaN.
    pub filters: Filters,
    /// The weight is 0 in a sequence that holds a token with `exp(g)` below it, or NaN.
    pub veto: Option<f64>,
}

/// The weight of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// 1.
    One,
    /// A ratio of probabilities.
    Ratio {
        /// What it is taken over.
        level: WeightLevel,
        /// What becomes of it.
        mode: WeightMode,
    },
    /// As the batch says, token by token.
    Given,
}

/// What the ratio of a [`Weight`] is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLevel {
    /// `exp(g)` of the token.
    Token,
    /// `exp(sum of g)` of the sequence, the sum within ±20.
    Sequence,
    /// `exp(mean of g)` of the sequence, the mean within ±20.
    Geometric,
}

/// What becomes of the ratio of a [`Weight`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightMode {
    /// It is the weight.
    Raw,
    /// It is moved into the range.
    Truncate(Range),
    /// It is 0 out of the range, and where it is NaN.
    Mask(Range),
}

/// What a filter judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterLevel {
    /// The token by its own estimate.
    Token,
    /// The sequence by the sum of its tokens' estimates.
    SequenceSum,
    /// The sequence by their mean.
    SequenceMean,
    /// The sequence by the largest of them.
    SequenceMax,
}

/// The estimate that a filter judges by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterEstimator {
    /// `g`; the range is that of its exponential.
    K1,
    /// `g² / 2`.
    K2,
    /// `expm1(g) - g`, with `g` within ±20.
    K3,
}

/// A range for each pair of level and estimate.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Filters([[Option<Range>; 3]; 4]);

impl Correction {
    /// A weight, and nothing is rejected but by its mode.
    #[must_use]
    pub const fn weigh(weight: Weight) -> Self {
        Self {
            weight,
            filters: Filters::NONE,
            veto: None,
        }
    }

    /// The ratio of the token.
    #[must_use]
    pub const fn of_tokens(mode: WeightMode) -> Self {
        Self::weigh(Weight::Ratio {
            level: WeightLevel::Token,
            mode,
        })
    }

    /// With one more filter.
    #[must_use]
    pub const fn with_filter(
        mut self,
        level: FilterLevel,
        estimator: FilterEstimator,
        range: Range,
    ) -> Self {
        self.filters.0[level as usize][estimator as usize] = Some(range);
        self
    }

    /// The mode of a weight that is a ratio.
    #[must_use]
    pub const fn mode(&self) -> WeightMode {
        match self.weight {
            Weight::Ratio { mode, .. } => mode,
            Weight::One | Weight::Given => WeightMode::Raw,
        }
    }

    /// The level of a weight that is a ratio.
    #[must_use]
    pub const fn level(&self) -> Option<WeightLevel> {
        match self.weight {
            Weight::Ratio { level, .. } => Some(level),
            Weight::One | Weight::Given => None,
        }
    }

    /// Whether a token needs to know something of its whole sequence.
    #[must_use]
    pub fn is_of_sequence(&self) -> bool {
        let of_sequence = matches!(
            self.level(),
            Some(WeightLevel::Sequence | WeightLevel::Geometric)
        );
        of_sequence || self.veto.is_some() || self.filters.of_sequences()
    }
}

impl FilterLevel {
    /// All of them, in the order in which filters are listed.
    pub const ALL: [Self; 4] = [
        Self::Token,
        Self::SequenceSum,
        Self::SequenceMean,
        Self::SequenceMax,
    ];
}

impl FilterEstimator {
    /// All of them, in the order in which filters are listed.
    pub const ALL: [Self; 3] = [Self::K1, Self::K2, Self::K3];
}

impl Filters {
    /// No filter.
    pub const NONE: Self = Self([[None; 3]; 4]);

    /// The range of a pair of level and estimate.
    #[must_use]
    pub const fn get(&self, level: FilterLevel, estimator: FilterEstimator) -> Option<Range> {
        self.0[level as usize][estimator as usize]
    }

    /// All of them, by level and then by estimate.
    pub fn iter(&self) -> impl Iterator<Item = (FilterLevel, FilterEstimator, Range)> {
        let pairs = FilterLevel::ALL.into_iter().flat_map(|level| {
            FilterEstimator::ALL
                .into_iter()
                .map(move |estimator| (level, estimator))
        });
        pairs.filter_map(|(level, estimator)| {
            let range = self.get(level, estimator)?;
            Some((level, estimator, range))
        })
    }

    /// Whether one judges tokens.
    #[must_use]
    pub fn of_tokens(&self) -> bool {
        self.iter().any(|(level, ..)| level == FilterLevel::Token)
    }

    /// Whether one judges sequences.
    #[must_use]
    pub fn of_sequences(&self) -> bool {
        self.iter().any(|(level, ..)| level != FilterLevel::Token)
    }
}

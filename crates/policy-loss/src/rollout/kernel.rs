//! A rollout correction in the kernels' terms.

use policy_loss_kernels as kernels;

use super::{
    FilterEstimator, FilterLevel, RolloutCorrection, RolloutWeight, WeightLevel, WeightMode,
};

impl RolloutCorrection {
    /// What the kernels make of it. A weight that is normalized takes a statistic of the whole
    /// batch, before its tokens are visited: it is computed before, and given to them.
    pub(crate) fn kernel(&self) -> kernels::Correction {
        if self.normalize {
            return kernels::Correction::weigh(kernels::Weight::Given);
        }
        let weight = self
            .weight
            .map_or(kernels::Weight::One, |weight| weight.kernel());
        let correction = kernels::Correction {
            veto: self.veto,
            ..kernels::Correction::weigh(weight)
        };
        self.filters.iter().fold(correction, |correction, filter| {
            let (level, estimator) = (filter.level.kernel(), filter.estimator.kernel());
            correction.with_filter(level, estimator, filter.bounds.range())
        })
    }
}

impl RolloutWeight {
    fn kernel(&self) -> kernels::Weight {
        kernels::Weight::Ratio {
            level: match self.level {
                WeightLevel::Token => kernels::WeightLevel::Token,
                WeightLevel::Sequence => kernels::WeightLevel::Sequence,
                WeightLevel::Geometric => kernels::WeightLevel::Geometric,
            },
            mode: match self.mode {
                WeightMode::Truncate(bounds) => kernels::WeightMode::Truncate(bounds.range()),
                WeightMode::Mask(bounds) => kernels::WeightMode::Mask(bounds.range()),
                WeightMode::Raw(_) => kernels::WeightMode::Raw,
            },
        }
    }
}

impl FilterLevel {
    fn kernel(self) -> kernels::FilterLevel {
        match self {
            Self::Token => kernels::FilterLevel::Token,
            Self::SequenceSum => kernels::FilterLevel::SequenceSum,
            Self::SequenceMean => kernels::FilterLevel::SequenceMean,
            Self::SequenceMax => kernels::FilterLevel::SequenceMax,
        }
    }
}

impl FilterEstimator {
    fn kernel(self) -> kernels::FilterEstimator {
        match self {
            Self::K1 => kernels::FilterEstimator::K1,
            Self::K2 => kernels::FilterEstimator::K2,
            Self::K3 => kernels::FilterEstimator::K3,
        }
    }
}

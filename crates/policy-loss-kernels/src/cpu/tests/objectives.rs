//! The objectives that the kernels are compared on.

use crate::{
    Clip, Correction, FilterEstimator, FilterLevel, Objective, Range, RatioBase, RatioLevel,
    Reduction, Surrogate, Weight, WeightLevel, WeightMode,
};

const CLIP: Clip = Clip {
    low: 0.2,
    high: 0.28,
    dual: None,
};

pub const TOKEN: Objective = Objective {
    ratio_level: RatioLevel::Token,
    ratio_base: RatioBase::Old,
    surrogate: Surrogate::Clip(CLIP),
    correction: None,
    off_policy: None,
    penalty: None,
    reduction: Reduction::TokenMean,
    scale: None,
};

/// Every level, mode, estimate and level of a filter, but not all of their combinations.
fn corrections() -> Vec<Option<Correction>> {
    let range = Range {
        low: 0.6,
        high: 1.5,
    };
    let at_most = |high| Range {
        low: f64::NEG_INFINITY,
        high,
    };
    let ratio = |level, mode| Correction::weigh(Weight::Ratio { level, mode });
    vec![
        None,
        Some(Correction::of_tokens(WeightMode::Truncate(range))),
        Some(Correction::of_tokens(WeightMode::Mask(range))),
        Some(sequence_mask(range)),
        Some(
            ratio(WeightLevel::Sequence, WeightMode::Truncate(range))
                .with_filter(FilterLevel::Token, FilterEstimator::K3, at_most(0.1))
                .with_filter(FilterLevel::SequenceSum, FilterEstimator::K2, at_most(1.0)),
        ),
        Some(
            ratio(WeightLevel::Geometric, WeightMode::Mask(range))
                .with_filter(FilterLevel::Token, FilterEstimator::K2, at_most(0.2))
                .with_filter(FilterLevel::SequenceMax, FilterEstimator::K1, at_most(2.5)),
        ),
        Some(Correction {
            veto: Some(0.5),
            ..Correction::weigh(Weight::One)
                .with_filter(FilterLevel::Token, FilterEstimator::K1, range)
                .with_filter(FilterLevel::SequenceMean, FilterEstimator::K3, at_most(0.2))
        }),
    ]
}

/// The weights of a sequence are kept where their geometric mean is in a range.
pub const fn sequence_mask(range: Range) -> Correction {
    Correction::of_tokens(WeightMode::Raw).with_filter(
        FilterLevel::SequenceMean,
        FilterEstimator::K1,
        range,
    )
}

/// Every combination of parts.
pub fn objectives() -> Vec<Objective> {
    let mut objectives = Vec::new();
    for ratio_level in [RatioLevel::Token, RatioLevel::Sequence] {
        for ratio_base in [RatioBase::Old, RatioBase::Rollout] {
            for dual in [None, Some(1.5)] {
                for correction in corrections() {
                    for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
                        for scale in [None, Some(0.037)] {
                            objectives.push(Objective {
                                ratio_level,
                                ratio_base,
                                surrogate: Surrogate::Clip(Clip { dual, ..CLIP }),
                                correction,
                                off_policy: None,
                                penalty: None,
                                reduction,
                                scale,
                            });
                        }
                    }
                }
            }
        }
    }
    objectives
}

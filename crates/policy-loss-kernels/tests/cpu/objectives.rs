//! The objectives that the kernels are compared on.

use policy_loss_kernels::Objective;
use policy_loss_kernels::objective::{
    Behavior, Bounds, Clip, Divergence, EntropyBonus, Filter, FilterEstimator, FilterLevel,
    GammaWeight, GeometricMean, KlEstimator, KlGradient, KlPenalty, OffPolicyMask, PolicyGradient,
    Ratio, Reduction, RolloutCorrection, RolloutWeight, SigmoidGate, SquaredLogRatio, Surrogate,
    TrustRegion, WeightLevel,
};
use policy_loss_oracle::Random;

/// PPO with a higher upper bound.
pub fn token() -> Objective {
    of(Clip::new(0.2, 0.28))
}

/// A surrogate, and nothing else.
pub fn of(surrogate: impl Into<Surrogate>) -> Objective {
    let mut objective = Objective::default();
    objective.surrogate = surrogate.into();
    objective
}

/// A rollout correction of PPO.
pub fn corrected(correction: RolloutCorrection) -> Objective {
    let mut objective = token();
    objective.rollout_correction = Some(correction);
    objective
}

pub const REDUCTIONS: [Reduction; 5] = [
    Reduction::TokenMean,
    Reduction::SequenceMean,
    Reduction::SequenceSumMean,
    Reduction::FixedLength { length: 9 },
    Reduction::TokenSum,
];

/// Every surrogate that has a kernel, in every form, with every ratio that has a meaning for it.
pub fn surrogates() -> Vec<Objective> {
    let surrogates: [Surrogate; 13] = [
        Clip::new(0.2, 0.28).into(),
        Clip::new(0.2, 0.28).with_dual_clip(1.5).into(),
        Clip::new(0.2, 0.4).with_delta(1.6).into(),
        PolicyGradient::new().into(),
        PolicyGradient::weighted(Bounds::new(0.8, 1.3)).into(),
        PolicyGradient::weighted(Bounds::at_most(1.0)).into(),
        PolicyGradient::weighted_where_negative(Bounds::at_most(1.0)).into(),
        SigmoidGate::default().into(),
        GeometricMean::new(0.2, 0.3).into(),
        GammaWeight::default().into(),
        TrustRegion::new(Divergence::TotalVariation, 0.05, 0.1).into(),
        TrustRegion::new(Divergence::Kl, 0.01, 0.02).into(),
        SquaredLogRatio::default().into(),
    ];
    let ratios = [
        Ratio::TOKEN,
        Ratio::SEQUENCE,
        Ratio::SEQUENCE_TOKEN,
        Ratio::SEQUENCE_SUM,
    ];
    let mut objectives = Vec::new();
    for surrogate in surrogates {
        for ratio in ratios {
            for against in [Behavior::Old, Behavior::Rollout] {
                let mut objective = of(surrogate);
                objective.ratio = ratio.against(against);
                objectives.push(objective);
            }
        }
    }
    objectives.retain(|objective| objective.validate().is_ok());
    objectives
}

/// What can stand beside a surrogate, each of it alone; the first is nothing.
pub fn parts() -> Vec<Objective> {
    let mut parts = vec![token()];
    parts.extend(corrections().into_iter().map(corrected));
    parts.extend(penalties().into_iter().map(|penalty| {
        let mut objective = token();
        objective.kl_penalty = Some(penalty);
        objective
    }));
    let mut masked = token();
    masked.off_policy_mask = Some(OffPolicyMask::new(0.05));
    let mut bonus = token();
    bonus.entropy_bonus = Some(EntropyBonus::new(0.1));
    parts.extend([masked, bonus]);
    parts
}

/// Every level, mode, filter and the veto; all of it normalized too.
fn corrections() -> Vec<RolloutCorrection> {
    let bounds = Bounds::new(0.6, 1.5);
    let mut corrections = Vec::new();
    for level in [
        WeightLevel::Token,
        WeightLevel::Sequence,
        WeightLevel::Geometric,
    ] {
        for weight in [
            RolloutWeight::truncate(bounds),
            RolloutWeight::truncate(Bounds::at_most(1.2)),
            RolloutWeight::mask(bounds),
            RolloutWeight::mask(Bounds::at_least(0.8)),
            RolloutWeight::raw(),
        ] {
            let correction = RolloutCorrection::weigh(weight.of_level(level));
            corrections.extend([correction, correction.with_normalization()]);
        }
    }
    let weighed = RolloutCorrection::weigh(RolloutWeight::raw());
    for level in FilterLevel::ALL {
        for estimator in FilterEstimator::ALL {
            let filter = Filter::new(level, estimator, dividing(level, estimator));
            corrections.extend([
                RolloutCorrection::filter(filter),
                weighed.with_filter(filter),
                weighed.with_normalization().with_filter(filter),
            ]);
        }
    }
    corrections.extend([
        weighed.with_veto(0.45),
        weighed.with_normalization().with_veto(0.45),
        weighed
            .with_filter(Filter::token_k1(bounds))
            .with_filter(Filter::sequence_mean_k3(Bounds::at_most(0.15)))
            .with_filter(Filter::sequence_mean_k1(bounds))
            .with_veto(0.35),
    ]);
    corrections
}

/// Bounds that some of the statistics of a random batch lie in, and some do not.
fn dividing(level: FilterLevel, estimator: FilterEstimator) -> Bounds {
    match (level, estimator) {
        (FilterLevel::Token | FilterLevel::SequenceMean, FilterEstimator::K1) => {
            Bounds::new(0.7, 1.3)
        }
        (FilterLevel::SequenceSum, FilterEstimator::K1) => Bounds::new(0.05, 20.0),
        (FilterLevel::SequenceMax, FilterEstimator::K1) => Bounds::at_most(1.9),
        (FilterLevel::Token | FilterLevel::SequenceMean, FilterEstimator::K2) => {
            Bounds::new(0.02, 0.1)
        }
        (FilterLevel::Token | FilterLevel::SequenceMean, FilterEstimator::K3) => {
            Bounds::at_most(0.08)
        }
        (FilterLevel::SequenceSum, FilterEstimator::K2 | FilterEstimator::K3) => {
            Bounds::at_most(2.5)
        }
        (FilterLevel::SequenceMax, FilterEstimator::K2 | FilterEstimator::K3) => {
            Bounds::at_most(0.3)
        }
    }
}

/// Every estimate with every gradient that it can have.
fn penalties() -> Vec<KlPenalty> {
    let mut penalties = Vec::new();
    for estimator in [
        KlEstimator::K1,
        KlEstimator::K2,
        KlEstimator::K3,
        KlEstimator::Abs,
    ] {
        for gradient in [
            KlGradient::Estimator,
            KlGradient::StraightThrough,
            KlGradient::ImportanceCorrected,
        ] {
            let penalty = KlPenalty::new(0.3).with_estimator(estimator);
            penalties.push(penalty.with_gradient(gradient));
        }
    }
    penalties.retain(|penalty| {
        let mut objective = token();
        objective.kl_penalty = Some(*penalty);
        objective.validate().is_ok()
    });
    penalties
}

/// Every surrogate with every other part, the reductions in turn.
pub fn objectives() -> Vec<Objective> {
    let parts = parts();
    let mut objectives = Vec::new();
    for surrogate in surrogates() {
        for part in &parts {
            let mut objective = *part;
            objective.surrogate = surrogate.surrogate;
            objective.ratio = surrogate.ratio;
            objective.reduction = REDUCTIONS[objectives.len() % REDUCTIONS.len()];
            if objective.validate().is_ok() {
                objectives.push(objective);
            }
        }
    }
    objectives
}

/// Any parts at once.
pub fn any(random: &mut Random) -> Objective {
    let (surrogates, corrections, penalties) = (surrogates(), corrections(), penalties());
    loop {
        let mut objective = random.pick(&surrogates);
        let mut half = || random.below(2) == 0;
        let (corrects, penalizes, masks, rewards) = (half(), half(), half(), half());
        objective.rollout_correction = corrects.then(|| random.pick(&corrections));
        objective.kl_penalty = penalizes.then(|| random.pick(&penalties));
        objective.off_policy_mask = masks.then(|| OffPolicyMask::new(0.05));
        objective.entropy_bonus = rewards.then(|| EntropyBonus::new(0.1));
        objective.reduction = random.pick(&REDUCTIONS);
        if objective.validate().is_ok() {
            return objective;
        }
    }
}

//! The objectives that the kernels are compared on.

use std::sync::LazyLock;

use policy_loss_kernels::Objective;
use policy_loss_kernels::objective::{
    Behavior, Bounds, Clip, Divergence, DynamicClip, EntropyBonus, Filter, FilterEstimator,
    FilterLevel, FutureGuard, FutureWeight, GeometricMean, GradientPreservingClip, KlBase,
    KlEstimator, KlGradient, KlPenalty, OffPolicyMask, PolicyGradient, Ratio, Reduction,
    RolloutCorrection, RolloutWeight, SigmoidGate, Surrogate, TrustRegion, WeightLevel,
};
use policy_loss_oracle::{Random, dividing_filter};

use crate::data::{Data, ENTROPY_MASK, Form, Kind};

/// With every part, and a discount that leaves little after a few tokens.
const FUTURE_WEIGHT: FutureWeight = FutureWeight {
    discount: 0.5,
    bounds: Some(Bounds::new(0.7, 1.4)),
    guard: Some(FutureGuard {
        ratio: 1.1,
        bounds: Bounds::new(0.8, 1.0),
    }),
    max_ratio: Some(1.5),
};

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

/// Every surrogate that has a kernel, in every form, with every ratio that has a meaning for it.
pub fn surrogates() -> Vec<Objective> {
    let forms: [Surrogate; 15] = [
        DynamicClip::new(0.05, 0.1).with_max_ratio(1.3).into(),
        GradientPreservingClip::new(0.1, 0.1, 0.75, 0.5).into(),
        PolicyGradient::weighted_within(Bounds::new(0.8, 1.3)).into(),
        Clip::new(0.2, 0.28).with_dual_clip(1.5).into(),
        Clip::new(0.2, 0.4).with_delta(1.6).into(),
        PolicyGradient::weighted(Bounds::new(0.8, 1.3)).into(),
        PolicyGradient::weighted(Bounds::at_most(1.0)).into(),
        PolicyGradient::weighted_where_negative(Bounds::at_most(1.0)).into(),
        GeometricMean::new(0.2, 0.3).into(),
        TrustRegion::new(Divergence::TotalVariation, 0.05, 0.1).into(),
        TrustRegion::new(Divergence::Kl, 0.01, 0.02).into(),
        TrustRegion::new(Divergence::SymmetricTotalVariation, 0.05, 0.1).into(),
        TrustRegion::new(Divergence::Kl, 0.05, 0.1)
            .of_ratio()
            .into(),
        TrustRegion {
            max_ratio: 1.2,
            ..TrustRegion::new(Divergence::TotalVariation, 0.1, 0.2).of_ratio()
        }
        .into(),
        // So steep that gates are shut.
        SigmoidGate::new(3.0, 40.0).into(),
    ];
    let defaults = Surrogate::defaults().into_iter();
    let with_kernel = defaults.filter(|surrogate| surrogate.kind().is_some());
    let ratios = [
        Ratio::TOKEN,
        Ratio::SEQUENCE,
        Ratio::SEQUENCE_TOKEN,
        Ratio::SEQUENCE_SUM,
        Ratio::SEGMENT,
    ];
    let mut objectives = Vec::new();
    for surrogate in with_kernel.chain(forms) {
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
    let mut of_forks = token();
    of_forks.entropy_mask = Some(ENTROPY_MASK);
    let mut rewarded_forks = of_forks;
    rewarded_forks.entropy_bonus = Some(EntropyBonus::new(0.1));
    let mut weighed_by_future = token();
    weighed_by_future.future_weight = Some(FUTURE_WEIGHT);
    parts.extend([masked, bonus, of_forks, rewarded_forks, weighed_by_future]);
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
    for filter in FILTERS.iter().copied() {
        corrections.extend([
            RolloutCorrection::filter(filter),
            weighed.with_filter(filter),
            weighed.with_normalization().with_filter(filter),
        ]);
    }
    let change = Filter::new(
        FilterLevel::Token,
        FilterEstimator::Difference,
        Bounds::new(-0.1, 0.1),
    );
    corrections.extend([
        RolloutCorrection::filter(change),
        weighed.with_filter(change).with_only_moving_away(),
        weighed
            .with_normalization()
            .with_filter(Filter::sequence_mean_k1(bounds))
            .with_only_moving_away(),
        RolloutCorrection::weigh(RolloutWeight::mask(bounds))
            .with_veto(0.45)
            .with_only_moving_away(),
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

/// One of every kind: some of the statistics of a random batch pass it, and some do not.
static FILTERS: LazyLock<Vec<Filter>> = LazyLock::new(|| {
    let batch = Data::random(&mut Random(1), Form::of(Kind::F64, (6, 9))).oracle_batch::<f64>();
    let of_level =
        |level| FilterEstimator::ALL.map(|estimator| dividing_filter(level, estimator, &batch));
    FilterLevel::ALL.into_iter().flat_map(of_level).collect()
});

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
            KlGradient::ScoreFunction,
            KlGradient::ImportanceCorrected,
        ] {
            let penalty = KlPenalty::new(0.3).with_estimator(estimator);
            let penalty = penalty.with_gradient(gradient);
            let bounded = penalty.with_max_log_ratio(0.45).with_max_divergence(0.08);
            penalties.extend([penalty, bounded]);
        }
    }
    penalties.push(KlPenalty::new(0.3).against(KlBase::Rollout));
    penalties.retain(|penalty| {
        let mut objective = token();
        objective.kl_penalty = Some(*penalty);
        objective.validate().is_ok()
    });
    penalties
}

/// Every surrogate with every other part, the reductions in turn.
pub fn objectives() -> Vec<Objective> {
    let (parts, reductions) = (parts(), Reduction::all(9));
    let mut objectives = Vec::new();
    for surrogate in surrogates() {
        for part in &parts {
            let mut objective = *part;
            objective.surrogate = surrogate.surrogate;
            objective.ratio = surrogate.ratio;
            objective.reduction = reductions[objectives.len() % reductions.len()];
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
        objective.entropy_mask = (random.below(4) == 0).then_some(ENTROPY_MASK);
        objective.future_weight = (random.below(4) == 0).then_some(FUTURE_WEIGHT);
        objective.entropy_bonus = rewards.then(|| EntropyBonus::new(0.1));
        objective.reduction = random.pick(&Reduction::all(9));
        if objective.validate().is_ok() {
            return objective;
        }
    }
}

//! What the frameworks of autumn 2026 compute themselves, in float64, with gradients.

use policy_loss::{
    Behavior, Bounds, Clip, CovarianceClip, CovariancePenalty, Divergence, DynamicClip,
    EntropyBonus, EntropyMask, Filter, FilterEstimator, FilterLevel, FutureGuard, FutureWeight,
    GlobalTotals, GradientPreservingClip, KlBase, KlEstimator, KlGradient, KlPenalty,
    MissingRolloutLogProbs, PolicyGradient, PolicyLossConfig, Ratio, Reduction, RolloutCorrection,
    RolloutWeight, SecondMomentClip, SecondMomentMask, SigmoidGate, SquaredLogRatio, Surrogate,
    TrustRegion, WeightLevel,
};
use serde_json::Value;

use super::features::{self, Feature};
use super::frameworks::Golden;
use super::sums::adds_cross_entropy;
use super::{Directory, estimator, over_rows, reduction, with_surrogate};
use crate::case::{Case, HostAdvantages};

/// Objectives of the file that no configuration means, with the reason.
const ABSENT: [(&str, &str); 1] = [(
    "real (ms-swift)",
    "a classification of the answers of each group, and no loss of tokens",
)];

/// Objectives of the file that are sums of losses, each of which has a configuration.
pub(super) const SUMS: [&str; 3] = ["chord (ms-swift)", "component sum (prime-rl)", "sdar"];

/// Of the others, the cases that are not matched, with the reason.
fn departure(it: &Feature) -> Option<&'static str> {
    match it.feature.as_str() {
        "areal rejection" if it.param("rejection")["metric"] == "kl_k3" => {
            Some("AReaL takes k3 of the gap with the other sign")
        }
        "sampler correction (TRL)" if it.param("loss_type") == "vespo" => {
            Some("TRL adds the logarithm of the weight to the sequence's log-ratio")
        }
        "clip_cov (verl)" | "clip_cov (SkyRL)" if it.param("lb") == 0.0 => {
            Some("a covariance of 0 is no bound here")
        }
        "clipped pg (NeMo-RL)" if it.param("use_on_policy_kl_approximation") == true => {
            Some("a KL times a ratio that the policy term does not have")
        }
        "entropy bonus (TRL)" if it.param("loss_type") == "grpo" => {
            Some("TRL takes another mean of the entropies than of the policy term")
        }
        "segment ratio, difference filter (ROLL)" if !it.param("filter").is_null() => Some(
            "ROLL takes what a filter drops out of the mask, with its KL, and before segments are made",
        ),
        "reduction token_mean_legacy" => Some("a mean of the means of micro-batches"),
        _ => None,
    }
}

/// Every case of an objective that a configuration means.
///
/// # Panics
///
/// The file is missing or damaged, or holds an objective that is not known.
pub fn cases(directory: &Directory) -> Vec<Golden> {
    let all = features::cases(directory).into_iter();
    let objectives = all.filter(|it| it.kind == "objective");
    let known = objectives.filter(|it| {
        let is_absent = ABSENT.iter().any(|(name, _)| *name == it.feature);
        !is_absent && !SUMS.contains(&it.feature.as_str()) && !adds_cross_entropy(it)
    });
    let cases: Vec<_> = known.map(golden).collect();
    directory.assert_count(features::FILE, cases.len(), 158);
    cases
}

fn golden(feature: Feature) -> Golden {
    let departure = departure(&feature);
    let mut case = case(&feature);
    if departure.is_none() {
        case.config = config(&feature, &mut case);
    }
    Golden {
        departure,
        loss: feature.expected("loss")[0],
        gradient: feature.expected("grad_log_probs"),
        case,
    }
}

pub(super) fn case(feature: &Feature) -> Case {
    let matrix = |name: &str| feature.has(name).then(|| feature.input(name));
    let [rows, tokens] = feature.shape("log_probs");
    let mut case = Case::new(&feature.name, [rows, tokens]);
    case.log_probs = feature.input("log_probs");
    case.old_log_probs = matrix("old_log_probs").unwrap_or_else(|| case.log_probs.clone());
    case.rollout_log_probs = matrix("rollout_log_probs");
    case.ref_log_probs = matrix("ref_log_probs");
    case.entropies = matrix("entropies");
    case.action_mask = feature.mask();
    case.advantages = match matrix("advantages") {
        Some(values) if values.len() == rows => HostAdvantages::Sequence(values),
        Some(values) => HostAdvantages::Token(values),
        None => HostAdvantages::Token(vec![0.0; rows * tokens]),
    };
    case
}

fn config(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    match it.feature.as_str() {
        "areal rejection" | "kpop" => areal(it, clip(it)),
        "areal sequence ratio" => areal_sequence(it, case),
        "m2po all tokens (AReaL)" => {
            case.action_mask = Some(kept(it));
            clip(it)
        }
        "m2po sign-conditioned (paper)" => {
            with_surrogate(SecondMomentMask::new(it.number("m2_threshold")))
        }
        "m2po clip range (authors)" => {
            let floor = |name: &str| it.param(name).as_f64().unwrap_or(0.0);
            with_surrogate(SecondMomentClip::new(
                it.number("m2_budget"),
                floor("min_clip_low"),
                floor("min_clip_high"),
            ))
        }
        "fipo (ms-swift)" => fipo(it),
        "areal cispo" => {
            let bounds = bounds(it.param("min"), it.param("max"));
            areal(it, with_surrogate(PolicyGradient::weighted(bounds)))
        }
        "tv-symmetric (prime-rl ipo)" | "dppo+kl (prime-rl default)" => prime(it, case),
        "straight-through kl (verl)" => straight_through(it),
        "sampler correction (TRL)" => trl(it, case),
        "vanilla (verl)" | "dro (verl)" | "dppo_tv (verl)" | "dppo_kl (verl)"
        | "clip_cov (verl)" => verl(it, case),
        "clipped pg (NeMo-RL)" => nemo(it, case),
        "opd loss, sampled token (verl)" => distillation(it, case),
        "off-policy correction (SkyRL)" => clip(it).with_rollout_correction(off_policy(it)),
        "entropy bonus (TRL)" => {
            let share = it.number("top_entropy_quantile");
            clip(it)
                .with_entropy_mask((share < 1.0).then(|| EntropyMask::new(share)))
                .with_entropy_bonus(EntropyBonus::new(it.number("entropy_coefficient")))
        }
        "rho correction, tv filter (open-instruct)" => open_instruct(it),
        "segment ratio, difference filter (ROLL)" => roll(it, case),
        "top-entropy tokens (TRL)" => top_entropy(it, case),
        "ce-gppo" => with_surrogate(GradientPreservingClip::new(
            it.number("clip_low"),
            it.number("clip_high"),
            it.number("beta_low"),
            it.number("beta_high"),
        )),
        "dcpo bounds" => dcpo(it, case),
        "reduction token_mean" => clip(it),
        "reduction sequence_mean" => over_rows(clip(it), Reduction::SequenceMean, case),
        "reduction prompt_mean" => {
            let ranges = it.param("prompts").as_array().expect("ranges of rows");
            let of_prompt = ranges.iter().zip(0..).flat_map(|(range, id)| {
                let [start, end] = [0, 1].map(|nth| range[nth].as_u64().expect("a row"));
                (start..end).map(move |_| id)
            });
            case.prompt_ids = Some(of_prompt.collect());
            // Those without a token count, too.
            case.prompt_tokens = Some(case.count_prompts().1);
            case.totals = Some(GlobalTotals::new().with_prompts(ranges.len()));
            clip(it).with_reduction(Reduction::PromptMean)
        }
        "reduction seq_mean_token_sum_norm" => {
            let length = it.number("max_seq_len") as usize;
            over_rows(clip(it), Reduction::FixedLength { length }, case)
        }
        "cispo (SkyRL)" | "dual_clip (SkyRL)" | "sapo (SkyRL)" | "gspo (SkyRL)"
        | "dppo (SkyRL)" | "rollout_is (SkyRL)" => skyrl(it, case),
        "clip_cov (SkyRL)" | "kl_cov (SkyRL)" => skyrl_covariance(it, case),
        other => panic!("an objective that is not known: {other}"),
    }
}

/// The clip with the bounds that a case names.
fn clip(it: &Feature) -> PolicyLossConfig {
    let mut clip = Clip::new(it.number("clip_low"), it.number("clip_high"));
    clip.dual_clip = it.param("dual_clip").as_f64();
    with_surrogate(clip)
}

/// Bounds, of which either may be missing.
fn bounds(low: &Value, high: &Value) -> Bounds {
    let mut bounds = Bounds::at_most(f64::MAX);
    bounds.low = low.as_f64().filter(|low| *low > 0.0);
    bounds.high = high.as_f64();
    bounds
}

/// TRL's clip at the tokens of the largest entropies.
fn top_entropy(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let beta = it.number("beta");
    let mask = EntropyMask::new(it.number("top_entropy_quantile"));
    // Read where the totals are given.
    case.entropy_threshold = case.threshold_of(mask);
    let config = clip(it)
        .with_entropy_mask(mask)
        .with_kl_penalty((beta > 0.0).then(|| KlPenalty::new(beta)));
    match it.param("loss_type").as_str() {
        Some("dapo" | "bnpo") => config,
        Some("grpo") => over_rows(config, Reduction::SequenceMean, case),
        Some("dr_grpo") => {
            let length = it.number("max_completion_length") as usize;
            over_rows(config, Reduction::FixedLength { length }, case)
        }
        other => panic!("a loss that is not known: {other:?}"),
    }
}

/// ROLL without its filters.
fn roll(it: &Feature, case: &Case) -> PolicyLossConfig {
    let ratio = match it.param("ratio_type") == "segment" {
        true => Ratio::SEGMENT,
        false => Ratio::TOKEN,
    };
    clip(it)
        .with_ratio(ratio)
        .with_kl_penalty(KlPenalty::new(it.number("kl_coefficient")).with_max_divergence(10.0))
        .with_reduction(verl_reduction(it, case))
}

/// AReaL's M2PO: the distances of sampler and trainer under a mask, their largest second moment, and which
/// tokens are left.
///
/// # Panics
///
/// As [`cases`].
pub fn second_moments(directory: &Directory) -> Vec<(Case, f64, Vec<bool>)> {
    let all = features::cases(directory).into_iter();
    let of_areal = all.filter(|it| it.feature == "m2po all tokens (AReaL)");
    let cases: Vec<_> = of_areal
        .map(|it| (case(&it), it.number("m2_threshold"), kept(&it)))
        .collect();
    directory.assert_count(features::FILE, cases.len(), 5);
    cases
}

/// The weights of ROLL's tokens under its filters of tokens and of sequences, 0 where a filter drops
/// one: a case whose token losses are the weights, and the weights.
///
/// # Panics
///
/// As [`cases`].
pub fn roll_weights(directory: &Directory) -> Vec<(Case, Vec<f64>)> {
    let all = features::cases(directory).into_iter();
    let of_roll = all.filter(|it| it.feature == "segment ratio, difference filter (ROLL)");
    let filtered = of_roll.filter(|it| it.param("filter")["agg_type"].is_string());
    let cases: Vec<_> = filtered
        .map(|it| {
            let mut case = case(&it);
            case.log_probs = case.old_log_probs.clone();
            case.advantages = HostAdvantages::Token(vec![-1.0; case.log_probs.len()]);
            let correction = roll_correction(&it);
            case.config = PolicyLossConfig::new().with_rollout_correction(correction);
            // No weight is one of a segment here: only which are kept is compared.
            let of_segments = it.param("weight") == "segment";
            let kept = it.expected("kept").into_iter().zip(it.expected("weight"));
            let weights = kept.map(|(kept, weight)| if of_segments { kept } else { kept * weight });
            let weights = weights.collect();
            (case, weights)
        })
        .collect();
    directory.assert_count(features::FILE, cases.len(), 5);
    cases
}

fn roll_correction(it: &Feature) -> RolloutCorrection {
    let (level, weight_level) = match it.param("filter")["agg_type"].as_str() {
        Some("token") => (FilterLevel::Token, Some(WeightLevel::Token)),
        Some("geometric") => (FilterLevel::SequenceMean, Some(WeightLevel::Geometric)),
        Some("sequence") => (FilterLevel::SequenceSum, Some(WeightLevel::Sequence)),
        Some("segment") => (FilterLevel::SegmentMean, None),
        other => panic!("a level that is not known: {other:?}"),
    };
    let weight = match it.param("weight_upper").as_f64() {
        Some(high) => RolloutWeight::truncate(Bounds::at_most(high)),
        None => RolloutWeight::raw(),
    };
    let mut correction = RolloutCorrection {
        weight: weight_level.map(|level| weight.of_level(level)),
        ..RolloutCorrection::default()
    };
    for (name, estimator) in [
        ("ratio", FilterEstimator::K1),
        ("diff", FilterEstimator::Difference),
    ] {
        if let Some(bounds) = it.param("filter")[name].as_array() {
            let [low, high] = [0, 1].map(|nth| bounds[nth].as_f64().expect("a bound"));
            let filter = Filter::new(level, estimator, Bounds::new(low, high));
            correction = correction.with_filter(filter);
        }
    }
    correction
}

/// open-instruct's correction, in which a bound of 0 is none.
fn open_instruct(it: &Feature) -> PolicyLossConfig {
    let range = |low: &str, high: &str| {
        let bound = |name: &str| Some(it.number(name)).filter(|bound| *bound > 0.0);
        let (low, high) = (bound(low), bound(high));
        (low.or(high).is_some()).then_some(Bounds { low, high })
    };
    let of_sequence = it.flag("rho_mask_sequence_level");
    let weight = match range("rho_clamp_lower_bound", "rho_clamp_upper_bound") {
        Some(bounds) => RolloutWeight::truncate(bounds),
        None => RolloutWeight::raw(),
    };
    let mut correction = RolloutCorrection::weigh(match of_sequence {
        true => weight.of_level(WeightLevel::Geometric),
        false => weight,
    });
    if let Some(bounds) = range("rho_mask_lower_bound", "rho_mask_upper_bound") {
        let mean = |estimator| Filter::new(FilterLevel::SequenceMean, estimator, bounds);
        correction = match (it.flag("rho_mask_tv_divergence"), of_sequence) {
            (true, _) => correction
                .with_filter(mean(FilterEstimator::RatioDistance))
                .with_only_moving_away(),
            (false, true) => correction.with_filter(mean(FilterEstimator::K1)),
            (false, false) => correction.with_filter(Filter::token_k1(bounds)),
        };
    }
    let (low, high) = (it.number("clip_lower"), it.number("clip_higher"));
    let config = match it.param("loss_fn").as_str() {
        Some("dapo") => with_surrogate(Clip::new(low, high)),
        Some("cispo") => {
            let bounds = Bounds::at_most(1.0 + high);
            with_surrogate(PolicyGradient::weighted(bounds))
        }
        other => panic!("a loss that is not known: {other:?}"),
    };
    let penalty = KlPenalty::new(it.number("beta")).with_max_log_ratio(40.0);
    let penalty = match it.param("kl_estimator").as_u64() {
        Some(0) => penalty.with_estimator(KlEstimator::K1),
        Some(1) => penalty.with_estimator(KlEstimator::K2),
        Some(2) => penalty,
        Some(3) => penalty
            .with_estimator(KlEstimator::K1)
            .with_gradient(KlGradient::ImportanceCorrected),
        other => panic!("an estimate that is not known: {other:?}"),
    };
    config
        .with_rollout_correction(it.flag("use_rho_correction").then_some(correction))
        .with_kl_penalty(penalty)
}

fn areal(it: &Feature, config: PolicyLossConfig) -> PolicyLossConfig {
    let rejection = it.param("rejection");
    let bounds = bounds(&rejection["lower"], &rejection["upper"]);
    let of_sequence = rejection["level"] == "sequence";
    let is_ratio = rejection["metric"] == "ratio";
    let weight_level = match of_sequence && is_ratio {
        true => WeightLevel::Geometric,
        false => WeightLevel::Token,
    };
    let correction = match rejection["action"] == "clamp" {
        true => RolloutCorrection::weigh(RolloutWeight::truncate(bounds).of_level(weight_level)),
        false => {
            let level = match (of_sequence, rejection["agg"].as_str()) {
                (false, _) => FilterLevel::Token,
                (true, Some("sum")) => FilterLevel::SequenceSum,
                (true, Some("max")) => FilterLevel::SequenceMax,
                (true, _) => FilterLevel::SequenceMean,
            };
            let estimator = match rejection["metric"].as_str() {
                Some("ratio") => FilterEstimator::K1,
                Some("kl_k2") => FilterEstimator::K2,
                Some("binary_kl") => FilterEstimator::BernoulliKl,
                other => panic!("a metric that is not known: {other:?}"),
            };
            RolloutCorrection::weigh(RolloutWeight::raw().of_level(weight_level))
                .with_filter(Filter::new(level, estimator, bounds))
        }
    };
    let missing = match is_ratio {
        true => MissingRolloutLogProbs::UseOld,
        // Its comparison with a bound fails.
        false => MissingRolloutLogProbs::Propagate,
    };
    config
        .with_rollout_correction(correction)
        .with_missing_rollout_log_probs(missing)
}

/// Which tokens are left in the end.
fn kept(it: &Feature) -> Vec<bool> {
    it.expected("kept")
        .iter()
        .map(|kept| *kept == 1.0)
        .collect()
}

/// What AReaL rejects is out of the mask, before ratios and advantages become those of a sequence; the
/// denominator keeps counting it.
fn areal_sequence(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    case.totals = Some(GlobalTotals::new().with_tokens(case.valid_tokens()));
    case.action_mask = Some(kept(it));
    let rows = case.advantages.values().chunks(case.tokens);
    let means = rows.enumerate().map(|(row, advantages)| {
        let of_row = advantages.iter().enumerate();
        let kept = of_row.filter(|(t, _)| case.is_valid(row * case.tokens + t));
        let (sum, count) = kept.fold((0.0, 0.0), |(sum, count), (_, a)| (sum + a, count + 1.0));
        sum / f64::max(count, 1.0)
    });
    case.advantages = HostAdvantages::Sequence(means.collect());
    clip(it)
        .with_ratio(Ratio::SEQUENCE)
        .with_rollout_correction(RolloutCorrection::weigh(RolloutWeight::raw()))
}

fn fipo(it: &Feature) -> PolicyLossConfig {
    let delta = it.param("delta").as_f64();
    let bounds = it.param("clip_range").as_f64().map(|range| {
        let low = match it.flag("clip_high_only") {
            true => 1.0,
            false => 1.0 - range,
        };
        Bounds::new(low, 1.0 + range)
    });
    let guard = it.param("safety_threshold").as_f64();
    let weight = FutureWeight::new(it.number("gamma"))
        .with_bounds(bounds)
        .with_guard(guard.map(|ratio| FutureGuard {
            ratio,
            ..FutureGuard::default()
        }))
        .with_max_ratio(delta);
    let mut clip = Clip::new(it.number("clip_low"), it.number("clip_high"));
    clip.delta = delta;
    with_surrogate(clip).with_future_weight(weight)
}

/// SkyRL's covariances are those of advantages that the reduction has scaled before, and nothing else is
/// reduced.
fn skyrl_covariance(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let valid: Vec<bool> = (0..case.log_probs.len())
        .map(|i| case.is_valid(i))
        .collect();
    let count = |tokens: &[bool]| tokens.iter().filter(|valid| **valid).count() as f64;
    let divisor = |row: &[bool]| match it.param("loss_reduction") == "sequence_mean" {
        true => count(row) * case.sequences as f64,
        false => count(&valid),
    };
    let rows: Vec<f64> = valid.chunks(case.tokens).map(divisor).collect();
    for (i, advantage) in case.advantages.values_mut().iter_mut().enumerate() {
        *advantage /= f64::max(rows[i / case.tokens], 1.0);
    }
    let or = |name: &str, default: f64| it.param(name).as_f64().unwrap_or(default);
    let surrogate: Surrogate = match it.param("loss") == "clip_cov" {
        true => CovarianceClip {
            low: it.number("clip_low"),
            high: it.number("clip_high"),
            share: it.number("clip_cov_ratio"),
            min_covariance: or("lb", 1.0),
            max_covariance: or("ub", 5.0),
            seed: 0,
        }
        .into(),
        false => CovariancePenalty {
            share: or("frac", 0.2),
            coefficient: or("coef", 1.0),
        }
        .into(),
    };
    with_surrogate(surrogate).with_reduction(Reduction::TokenSum)
}

fn dcpo(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let mut clip = DynamicClip::new(it.number("epsilon_low"), it.number("epsilon_high"));
    clip.max_ratio = it.param("max_ratio").as_f64();
    let config = with_surrogate(clip);
    match it.param("reduction") == "token mean" {
        true => config,
        false => {
            // The sum of the means, and not their mean.
            case.totals = Some(GlobalTotals::new().with_sequences(1));
            config.with_reduction(Reduction::SequenceMean)
        }
    }
}

pub(super) fn prime(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let region = match it.param("loss") == "ipo" {
        true => {
            let bound = it.number("ipo_threshold");
            TrustRegion::new(Divergence::SymmetricTotalVariation, bound, bound)
        }
        false => {
            let (low, high) = (it.number("dppo_mask_low"), it.number("dppo_mask_high"));
            TrustRegion::new(Divergence::TotalVariation, low, high)
        }
    };
    // Its factor of the policy term is one of the advantages.
    for advantage in case.advantages.values_mut() {
        *advantage *= it.number("adv_tau");
    }
    let penalty = KlPenalty::new(2.0 * it.number("kl_tau"))
        .with_estimator(KlEstimator::K2)
        .against(KlBase::Rollout);
    PolicyLossConfig::new()
        .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
        .with_surrogate(region.of_ratio())
        .with_kl_penalty(penalty)
}

fn straight_through(it: &Feature) -> PolicyLossConfig {
    let (estimator, gradient) = estimator(it.param("kind").as_str().expect("a name"));
    assert_eq!(gradient, KlGradient::StraightThrough, "{}", it.name);
    let penalty = KlPenalty::new(1.0)
        .with_estimator(estimator)
        .with_gradient(gradient);
    PolicyLossConfig::new()
        .with_kl_penalty(penalty)
        .with_reduction(Reduction::TokenSum)
}

fn trl(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let bounds = bounds(it.param("min"), it.param("max"));
    let mode = it.param("mode").as_str().expect("a name");
    let weight = match mode.ends_with("truncate") {
        true => RolloutWeight::truncate(bounds),
        false => RolloutWeight::mask(bounds),
    };
    let level = match mode.starts_with("sequence") {
        true => WeightLevel::Sequence,
        false => WeightLevel::Token,
    };
    let mut config =
        clip(it).with_rollout_correction(RolloutCorrection::weigh(weight.of_level(level)));
    let beta = it.number("beta");
    if beta > 0.0 {
        config = config.with_kl_penalty(KlPenalty::new(beta));
    }
    match it.param("loss_type") == "grpo" {
        true => over_rows(config, Reduction::SequenceMean, case),
        false => config,
    }
}

/// The divergence from a teacher at the sampled token: as an advantage, or as a penalty.
fn distillation(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let teacher = it.input("teacher_log_probs");
    let most = it.param("loss_max_clamp").as_f64();
    let config = PolicyLossConfig::new().with_reduction(verl_reduction(it, case));
    if it.flag("use_policy_gradient") {
        assert_eq!(it.param("estimator"), "k1", "{}", it.name);
        let limit = most.unwrap_or(f64::INFINITY);
        let gaps = teacher.iter().zip(&case.log_probs);
        let advantages = gaps.map(|(teacher, own)| (teacher - own).clamp(-limit, limit));
        case.advantages = HostAdvantages::Token(advantages.collect());
        let clip = Clip::new(it.number("clip_low"), it.number("clip_high"));
        return config.with_surrogate(clip.with_dual_clip(it.number("dual_clip")));
    }
    case.ref_log_probs = Some(teacher);
    let (estimator, gradient) = estimator(it.param("estimator").as_str().expect("a name"));
    let mut penalty = KlPenalty::new(1.0)
        .with_estimator(estimator)
        .with_gradient(gradient);
    penalty.max_divergence = most;
    config.with_kl_penalty(penalty)
}

/// The score-function gradient, with the bounds of NeMo-RL unless a case has others.
fn nemo_penalty(it: &Feature) -> KlPenalty {
    let name = it.param("reference_policy_kl_type").as_str();
    let (estimator, _) = estimator(name.unwrap_or("k3"));
    let or = |name: &str, default: f64| match it.has_param(name) {
        true => it.param(name).as_f64(),
        false => Some(default),
    };
    let mut penalty = KlPenalty::new(it.number("reference_policy_kl_penalty"))
        .with_estimator(estimator)
        .with_gradient(KlGradient::ScoreFunction);
    penalty.max_log_ratio = or("kl_input_clamp_value", 20.0);
    penalty.max_divergence = or("kl_output_clamp_value", 10.0);
    penalty
}

pub(super) fn nemo(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let is = |name: &str| it.param(name) == true;
    if is("force_on_policy_ratio") {
        case.old_log_probs = case.log_probs.clone();
    }
    let (low, high) = (it.number("ratio_clip_min"), it.number("ratio_clip_max"));
    let config = match () {
        () if is("use_cispo") => {
            let bounds = Bounds::new(1.0 - low, 1.0 + high);
            with_surrogate(PolicyGradient::weighted(bounds))
        }
        () if is("disable_ppo_ratio") => with_surrogate(PolicyGradient::new()),
        () => {
            let mut clip = Clip::new(low, high);
            clip.dual_clip = it.param("ratio_clip_c").as_f64();
            with_surrogate(clip)
        }
    };
    let of_sequence = is("sequence_level_importance_ratios");
    let config = match of_sequence {
        true => config.with_ratio(Ratio::SEQUENCE),
        false => config,
    };
    // The weight of a sequence is a product, where its ratio is a mean.
    let level = match of_sequence {
        true => WeightLevel::Sequence,
        false => WeightLevel::Token,
    };
    let bounds = bounds(
        it.param("truncated_importance_sampling_ratio_min"),
        it.param("truncated_importance_sampling_ratio"),
    );
    let raw = RolloutCorrection::weigh(RolloutWeight::raw().of_level(level));
    let correction = match it.param("truncated_importance_sampling_type").as_str() {
        None => raw,
        Some("tis") => RolloutCorrection::weigh(RolloutWeight::truncate(bounds).of_level(level)),
        Some("icepop") => RolloutCorrection::weigh(RolloutWeight::mask(bounds).of_level(level)),
        Some("seq-mask-tis") => {
            let mean = Filter::new(FilterLevel::SequenceMean, FilterEstimator::K1, bounds);
            raw.with_filter(mean)
        }
        other => panic!("a type that is not known: {other:?}"),
    };
    let corrected = is("use_importance_sampling_correction");
    let reduction = match it.param("token_level_loss") == false {
        true => Reduction::SequenceMean,
        false => Reduction::TokenMean,
    };
    let penalized = it.number("reference_policy_kl_penalty") > 0.0;
    config
        .with_rollout_correction(corrected.then_some(correction))
        .with_kl_penalty(penalized.then(|| nemo_penalty(it)))
        .with_reduction(reduction)
}

/// SkyRL's corrections, with its defaults.
fn off_policy(it: &Feature) -> RolloutCorrection {
    let given = it.param("correction");
    let weight = match given["tis_ratio_type"].as_str() {
        Some("token") => Some(RolloutWeight::truncate(Bounds::at_most(2.0))),
        Some("sequence") => {
            Some(RolloutWeight::truncate(Bounds::at_most(5.0)).of_level(WeightLevel::Sequence))
        }
        _ => None,
    };
    let or = |name: &str, default: f64| given[name].as_f64().unwrap_or(default);
    let mut filters = Vec::new();
    let mut filter = |level, bounds| filters.push(Filter::new(level, FilterEstimator::K1, bounds));
    match given["sequence_mask_metric"].as_str() {
        Some("geometric") => {
            let bounds = Bounds::new(or("geo_mask_low", 0.99), or("geo_mask_high", 1.01));
            filter(FilterLevel::SequenceMean, bounds);
        }
        Some("product") => filter(FilterLevel::SequenceSum, Bounds::new(0.5, 2.0)),
        _ => {}
    }
    if let Some(high) = given["outlier_token_is_threshold_high"].as_f64() {
        filter(FilterLevel::SequenceMax, Bounds::at_most(high));
    }
    let token = [
        "token_mask_is_threshold_low",
        "token_mask_is_threshold_high",
    ];
    if let [Some(low), Some(high)] = token.map(|name| given[name].as_f64()) {
        filter(FilterLevel::Token, Bounds::new(low, high));
    }
    let mut filters = filters.into_iter();
    let correction = match weight {
        Some(weight) => RolloutCorrection::weigh(weight),
        None => RolloutCorrection::filter(filters.next().expect("a weight or a filter")),
    };
    let mut correction = filters.fold(correction, RolloutCorrection::with_filter);
    correction.veto = given["outlier_token_is_threshold_low"].as_f64();
    correction
}

fn skyrl(it: &Feature, case: &mut Case) -> PolicyLossConfig {
    let config = match it.param("loss").as_str() {
        Some("dual_clip") => clip(it),
        Some("gspo") => {
            let clip = Clip::new(it.number("clip_low"), it.number("clip_high"));
            PolicyLossConfig::new()
                .with_ratio(Ratio::SEQUENCE_TOKEN)
                .with_surrogate(clip)
        }
        Some("dppo") => {
            let bound = |name: &str| it.param(name).as_f64().unwrap_or(0.2);
            let divergence = match it.param("dtype") == "binary_kl" {
                true => Divergence::Kl,
                false => Divergence::TotalVariation,
            };
            let region = TrustRegion::new(divergence, bound("dlow"), bound("dhigh"));
            PolicyLossConfig::new()
                .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
                .with_surrogate(region.of_ratio())
        }
        Some("sapo") => {
            let temperatures =
                [0, 1].map(|nth| it.param("sapo_tau")[nth].as_f64().expect("a number"));
            let gate = SigmoidGate::new(temperatures[0], temperatures[1]);
            with_surrogate(gate)
        }
        Some("rollout_is") => {
            let bounds = Bounds::new(1.0 - it.number("clip_low"), 1.0 + it.number("clip_high"));
            PolicyLossConfig::new()
                .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
                .with_surrogate(PolicyGradient::weighted_within(bounds))
        }
        Some("cispo") => {
            let low = it.param("clow").as_f64().unwrap_or(1.0);
            let high = it.param("chigh").as_f64().unwrap_or(4.0);
            let bounds = match low < 1.0 {
                true => Bounds::new(1.0 - low, 1.0 + high),
                false => Bounds::at_most(1.0 + high),
            };
            let against = match it.param("anchor") == "rollout" {
                true => Behavior::Rollout,
                false => Behavior::Old,
            };
            PolicyLossConfig::new()
                .with_ratio(Ratio::TOKEN.against(against))
                .with_surrogate(PolicyGradient::weighted(bounds))
        }
        other => panic!("a loss that is not known: {other:?}"),
    };
    match it.param("loss_reduction") == "sequence_mean" {
        true => over_rows(config, Reduction::SequenceMean, case),
        false => config,
    }
}

fn verl(it: &Feature, case: &Case) -> PolicyLossConfig {
    let region = |divergence| {
        let (low, high) = (it.number("clip_ratio_low"), it.number("clip_ratio_high"));
        let mut region = TrustRegion::new(divergence, low, high);
        region.max_ratio = it.number("clip_ratio_c");
        with_surrogate(region)
    };
    let config = match it.param("mode").as_str() {
        // The bounds are not among the parameters: these are what the values were computed with.
        Some("vanilla") => with_surrogate(Clip::new(0.2, 0.28).with_dual_clip(3.0)),
        Some("dro") => {
            let square = SquaredLogRatio::new(it.number("dro_beta"));
            with_surrogate(square)
        }
        Some("clip_cov") => with_surrogate(CovarianceClip {
            low: 0.2,
            high: 0.28,
            share: it.number("clip_cov_ratio"),
            min_covariance: it.number("lb"),
            max_covariance: it.number("ub"),
            seed: 0,
        }),
        Some("dppo_tv") => region(Divergence::TotalVariation),
        Some("dppo_kl") => region(Divergence::Kl),
        other => panic!("a mode that is not known: {other:?}"),
    };
    let truncate = RolloutWeight::truncate(Bounds::at_most(2.0));
    let correction = it
        .param("rollout_is")
        .as_str()
        .map(|_| RolloutCorrection::weigh(truncate));
    config
        .with_reduction(verl_reduction(it, case))
        .with_rollout_correction(correction)
}

fn verl_reduction(it: &Feature, case: &Case) -> Reduction {
    reduction(it.param("loss_agg_mode").as_str(), || case.tokens)
}

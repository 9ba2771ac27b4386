//! What the frameworks of autumn 2026 compute themselves, in float64, with gradients.

use policy_loss::{
    Behavior, Bounds, Clip, Divergence, Filter, FilterEstimator, FilterLevel, GlobalTotals,
    KlEstimator, KlGradient, KlPenalty, PolicyGradient, PolicyLossConfig, Ratio, Reduction,
    RolloutCorrection, RolloutWeight, SigmoidGate, SquaredLogRatio, TrustRegion, WeightLevel,
};
use serde_json::Value;

use super::Directory;
use super::features::{self, Feature};
use super::frameworks::Golden;
use crate::case::{Case, HostAdvantages};

/// Objectives of the file that cannot be written as a configuration yet.
const NOT_YET: [&str; 29] = [
    "areal sequence ratio",
    "ce-gppo",
    "chord (ms-swift)",
    "clip_cov (SkyRL)",
    "clip_cov (verl)",
    "clipped pg (NeMo-RL)",
    "component sum (prime-rl)",
    "dcpo bounds",
    "dppo (SkyRL)",
    "dppo+kl (prime-rl default)",
    "entropy bonus (TRL)",
    "fipo (ms-swift)",
    "kl_cov (SkyRL)",
    "m2po all tokens (AReaL)",
    "m2po clip range (authors)",
    "m2po sign-conditioned (paper)",
    "off-policy correction (SkyRL)",
    "opd loss, sampled token (verl)",
    "real (ms-swift)",
    "reduction prompt_mean",
    "reduction seq_mean_token_sum_norm",
    "reduction sequence_mean",
    "reduction token_mean",
    "reduction token_mean_legacy",
    "rho correction, tv filter (open-instruct)",
    "rollout_is (SkyRL)",
    "sdar",
    "segment ratio, difference filter (ROLL)",
    "tv-symmetric (prime-rl ipo)",
];

/// Of the others, the cases that are not matched, with the reason.
fn departure(it: &Feature) -> Option<&'static str> {
    match it.feature.as_str() {
        "top-entropy tokens (TRL)" => Some("a quantile over the batch"),
        "areal rejection" if it.param("rejection")["metric"] == "kl_k3" => {
            Some("AReaL takes k3 of the gap with the other sign")
        }
        "areal rejection" if it.name.starts_with("areal-missing-ratio") => {
            Some("a missing log-prob of the sampler is not a gap of 0")
        }
        "sampler correction (TRL)" if it.param("loss_type") == "vespo" => {
            Some("TRL adds the logarithm of the weight to the sequence's log-ratio")
        }
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
    let known = objectives.filter(|it| !NOT_YET.contains(&it.feature.as_str()));
    let cases: Vec<_> = known.map(golden).collect();
    directory.assert_count(features::FILE, cases.len(), 49);
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

fn case(feature: &Feature) -> Case {
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
        "areal cispo" => {
            let bounds = bounds(it.param("min"), it.param("max"));
            areal(
                it,
                PolicyLossConfig::new().with_surrogate(PolicyGradient::weighted(bounds)),
            )
        }
        "straight-through kl (verl)" => straight_through(it),
        "sampler correction (TRL)" => trl(it, case),
        "vanilla (verl)" | "dro (verl)" | "dppo_tv (verl)" | "dppo_kl (verl)" => verl(it, case),
        "cispo (SkyRL)" | "dual_clip (SkyRL)" | "sapo (SkyRL)" | "gspo (SkyRL)" => skyrl(it, case),
        other => panic!("an objective that is not known: {other}"),
    }
}

/// The clip with the bounds that a case names.
fn clip(it: &Feature) -> PolicyLossConfig {
    let mut clip = Clip::new(it.number("clip_low"), it.number("clip_high"));
    clip.dual_clip = it.param("dual_clip").as_f64();
    PolicyLossConfig::new().with_surrogate(clip)
}

/// Bounds, of which either may be missing.
fn bounds(low: &Value, high: &Value) -> Bounds {
    let mut bounds = Bounds::at_most(f64::MAX);
    bounds.low = low.as_f64().filter(|low| *low > 0.0);
    bounds.high = high.as_f64();
    bounds
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
    config.with_rollout_correction(correction)
}

fn straight_through(it: &Feature) -> PolicyLossConfig {
    let estimator = match it.param("kind").as_str() {
        Some("k1+") => KlEstimator::K1,
        Some("k3+") => KlEstimator::K3,
        Some("abs+") => KlEstimator::Abs,
        other => panic!("an estimate that is not known: {other:?}"),
    };
    let penalty = KlPenalty::new(1.0)
        .with_estimator(estimator)
        .with_gradient(KlGradient::StraightThrough);
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
        true => {
            count_empty_rows(case);
            config.with_reduction(Reduction::SequenceMean)
        }
        false => config,
    }
}

/// The mean over sequences divides by all of them, with a token or without.
fn count_empty_rows(case: &mut Case) {
    case.totals = Some(GlobalTotals::new().with_sequences(case.sequences));
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
        Some("sapo") => {
            let temperatures =
                [0, 1].map(|nth| it.param("sapo_tau")[nth].as_f64().expect("a number"));
            let gate = SigmoidGate::new(temperatures[0], temperatures[1]);
            PolicyLossConfig::new().with_surrogate(gate)
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
        true => {
            count_empty_rows(case);
            config.with_reduction(Reduction::SequenceMean)
        }
        false => config,
    }
}

fn verl(it: &Feature, case: &Case) -> PolicyLossConfig {
    let region = |divergence| {
        let (low, high) = (it.number("clip_ratio_low"), it.number("clip_ratio_high"));
        let mut region = TrustRegion::new(divergence, low, high);
        region.max_ratio = it.number("clip_ratio_c");
        PolicyLossConfig::new().with_surrogate(region)
    };
    let config = match it.param("mode").as_str() {
        // The bounds are not among the parameters: these are what the values were computed with.
        Some("vanilla") => {
            PolicyLossConfig::new().with_surrogate(Clip::new(0.2, 0.28).with_dual_clip(3.0))
        }
        Some("dro") => {
            let square = SquaredLogRatio::new(it.number("dro_beta"));
            PolicyLossConfig::new().with_surrogate(square)
        }
        Some("dppo_tv") => region(Divergence::TotalVariation),
        Some("dppo_kl") => region(Divergence::Kl),
        other => panic!("a mode that is not known: {other:?}"),
    };
    let reduction = match it.param("loss_agg_mode").as_str() {
        Some("token-mean") => Reduction::TokenMean,
        Some("token-sum") => Reduction::TokenSum,
        Some("seq-mean-token-mean") => Reduction::SequenceMean,
        Some("seq-mean-token-sum") => Reduction::SequenceSumMean,
        Some("seq-mean-token-sum-norm") => Reduction::FixedLength {
            length: case.tokens,
        },
        other => panic!("a reduction that is not known: {other:?}"),
    };
    let truncate = RolloutWeight::truncate(Bounds::at_most(2.0));
    let correction = it
        .param("rollout_is")
        .as_str()
        .map(|_| RolloutCorrection::weigh(truncate));
    config
        .with_reduction(reduction)
        .with_rollout_correction(correction)
}

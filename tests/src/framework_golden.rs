//! What verl and Liger-Kernel compute themselves, in float64, with gradients.

use std::collections::BTreeMap;

use policy_loss::{
    Bounds, Cispo, Clip, Filter, FilterEstimator, FilterLevel, GeometricMean, GlobalTotals, KlCov,
    KlEstimator, KlGradient, KlPenalty, PolicyLossConfig, Ratio, RatioLevel, Reduction, Reinforce,
    RolloutCorrection, RolloutWeight, Sapo, Vespo, WeightLevel,
};
use serde::Deserialize;
use serde_json::Value;

use crate::case::{Case, HostAdvantages};

const FILE: &str = include_str!("../data/objectives.json");

/// A case with what the framework computes for it.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The inputs, under the configuration that means the same.
    pub case: Case,
    /// The framework's loss.
    pub loss: f64,
    /// The framework's gradient, row by row.
    pub gradient: Vec<f64>,
    /// Why the framework's result is another one, where it is.
    pub departure: Option<&'static str>,
}

/// Weights and masks that verl computes for one batch.
#[derive(Debug, Clone)]
pub struct RolloutGolden {
    /// The inputs: log-probs and advantages are such that a token's loss is its weight.
    pub case: Case,
    /// `kind` of the file.
    pub name: String,
    /// The expected weight of each token, 0 where it is masked or dropped.
    pub weights: Vec<f64>,
}

#[derive(Deserialize)]
struct File {
    objectives: Vec<FileCase>,
    rollout_correction: Vec<FileRollout>,
}

#[derive(Deserialize)]
struct FileCase {
    source: String,
    name: String,
    params: Value,
    inputs: BTreeMap<String, Vec<Vec<f64>>>,
    expected: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct FileRollout {
    inputs: BTreeMap<String, Vec<Vec<f64>>>,
    expected: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Every case of a policy loss; the value losses of the file belong to another part of the
/// library.
///
/// # Panics
///
/// The file is damaged, or holds a case that is not known.
pub fn cases() -> Vec<Golden> {
    let file: File = serde_json::from_str(FILE).expect("the golden values can be parsed");
    file.objectives
        .into_iter()
        .filter(|case| case.params["mode"] != "value_loss")
        .map(golden)
        .collect()
}

fn golden(file: FileCase) -> Golden {
    let mut case = case(&file.name, &file.inputs);
    let params = &file.params;
    let kind = params["mode"].as_str().or(params["loss_type"].as_str());
    let kind = kind.expect("every case has a kind").to_owned();
    case.config = match file.source.as_str() {
        "verl" => verl(&kind, params, &mut case),
        "liger" => liger(&kind, params, &mut case),
        other => panic!("an unknown source: {other}"),
    };
    let corrected = case.config.rollout_correction.is_some();
    let gradient = serde_json::from_value::<Vec<Vec<f64>>>(file.expected["grad_log_probs"].clone());
    Golden {
        departure: departure(&kind, corrected, case.tokens),
        loss: file.expected["loss"].as_f64().expect("a number"),
        gradient: gradient.expect("a matrix").concat(),
        case,
    }
}

/// The departures that docs/OBJECTIVES.md lists.
fn departure(kind: &str, corrected: bool, tokens: usize) -> Option<&'static str> {
    match (kind, corrected) {
        // Of one weight the mean is the weight.
        ("geo_mean", true) if tokens > 1 => {
            Some("verl weighs a sequence by the geometric mean of its tokens' truncated weights")
        }
        _ => None,
    }
}

fn case(name: &str, inputs: &BTreeMap<String, Vec<Vec<f64>>>) -> Case {
    let matrix = |name: &str| inputs[name].concat();
    let first = &inputs["old_log_probs"];
    let mut case = Case::new(name, [first.len(), first[0].len()]);
    case.old_log_probs = matrix("old_log_probs");
    case.rollout_log_probs = Some(matrix("rollout_log_probs"));
    case.action_mask = Some(matrix("action_mask").iter().map(|m| *m == 1.0).collect());
    if inputs.contains_key("log_probs") {
        case.log_probs = matrix("log_probs");
        case.ref_log_probs = Some(matrix("ref_log_probs"));
        let advantages = &inputs["advantages"];
        case.advantages = match advantages[0].len() == first[0].len() {
            true => HostAdvantages::Token(advantages.concat()),
            false => HostAdvantages::Sequence(advantages.concat()),
        };
    }
    case
}

fn number(params: &Value, name: &str) -> f64 {
    params[name].as_f64().expect("the parameter is a number")
}

fn verl(kind: &str, params: &Value, case: &mut Case) -> PolicyLossConfig {
    let new = PolicyLossConfig::new();
    if kind == "kl_penalty" {
        let estimator = match params["kind"].as_str() {
            Some("k1") => KlEstimator::K1,
            Some("k2") => KlEstimator::K2,
            Some("k3") => KlEstimator::K3,
            _ => KlEstimator::Abs,
        };
        // The penalty alone: without an advantage there is no policy term.
        case.advantages.values_mut().fill(0.0);
        return new
            .with_kl_penalty(KlPenalty::new(1.0).with_estimator(estimator))
            .with_reduction(Reduction::TokenSum);
    }
    let (low, high) = (
        number(params, "clip_ratio_low"),
        number(params, "clip_ratio_high"),
    );
    let config = match kind {
        "vanilla" => new.with_surrogate(
            Clip::new(low, high).with_dual_clip(params["clip_ratio_c"].as_f64().unwrap_or(3.0)),
        ),
        "gspo" => new
            .with_ratio(Ratio::SEQUENCE_TOKEN)
            .with_surrogate(Clip::new(low, high)),
        "sapo" => new.with_surrogate(Sapo::new(
            number(params, "tau_pos"),
            number(params, "tau_neg"),
        )),
        "gpg" => new.with_surrogate(Reinforce {}),
        "geo_mean" => new.with_surrogate(GeometricMean::new(low, high)),
        "cispo" => new.with_surrogate(Cispo::new(1.0 + high).with_min(1.0 - low)),
        "kl_cov" => new.with_surrogate(KlCov {
            share: number(params, "kl_cov_ratio"),
            coefficient: number(params, "ppo_kl_coef"),
        }),
        other => panic!("an unknown objective of verl: {other}"),
    };
    let mean = params["loss_agg_mode"].as_str().expect("a name");
    let reduction = match (kind, mean) {
        // Whatever the argument says.
        ("gspo" | "sapo" | "geo_mean", _) | (_, "seq-mean-token-mean") => Reduction::SequenceMean,
        (_, "token-mean") => Reduction::TokenMean,
        (_, "seq-mean-token-sum") => Reduction::SequenceSumMean,
        (_, "seq-mean-token-sum-norm") => Reduction::FixedLength {
            length: number(params, "loss_scale_factor") as usize,
        },
        (_, other) => panic!("an unknown reduction of verl: {other}"),
    };
    if kind == "geo_mean" {
        // Rows without a token are counted.
        case.totals = Some(GlobalTotals::new().with_sequences(case.sequences));
    }
    if let Some(size) = params["dp_size"].as_u64() {
        let total = |name: &str| Some(number(params, name) as usize);
        case.totals = Some(GlobalTotals {
            tokens: total("batch_num_tokens"),
            sequences: total("global_batch_size"),
            world_size: Some(size as usize),
        });
    }
    if mean == "seq-mean-token-sum-norm" {
        // Divided by the length alone, neither by sequences nor for the ranks.
        case.totals = Some(GlobalTotals::new().with_sequences(1));
    }
    let correction = params["rollout_is"]
        .as_str()
        .map(|_| RolloutCorrection::weigh(RolloutWeight::truncate(Bounds::at_most(2.0))));
    config
        .with_reduction(reduction)
        .with_rollout_correction(correction)
}

fn liger(kind: &str, params: &Value, case: &mut Case) -> PolicyLossConfig {
    let (low, high) = (
        number(params, "epsilon_low"),
        number(params, "epsilon_high"),
    );
    let mut clip = Clip::new(low, high);
    clip.delta = params["delta"].as_f64();
    let mut config = match kind {
        "cispo" => PolicyLossConfig::new().with_surrogate(Cispo::new(high)),
        "sapo" => PolicyLossConfig::new().with_surrogate(Sapo::new(
            number(params, "sapo_temperature_pos"),
            number(params, "sapo_temperature_neg"),
        )),
        "vespo" => PolicyLossConfig::new().with_surrogate(Vespo {
            positive_k: number(&params["vespo"], "k_pos"),
            positive_lambda: number(&params["vespo"], "lambda_pos"),
            negative_k: number(&params["vespo"], "k_neg"),
            negative_lambda: number(&params["vespo"], "lambda_neg"),
        }),
        _ => PolicyLossConfig::new().with_surrogate(clip),
    };
    if params["importance_sampling_level"] == "sequence" {
        config.ratio.level = RatioLevel::Sequence;
    }
    let gradient = match params["use_bias_correction_kl"].as_bool() {
        Some(true) => KlGradient::ImportanceCorrected,
        _ => KlGradient::Estimator,
    };
    let coefficient = number(params, "beta");
    if coefficient > 0.0 {
        config = config.with_kl_penalty(KlPenalty::new(coefficient).with_gradient(gradient));
    }
    config = config.with_reduction(match kind {
        "grpo" | "sapo" => Reduction::SequenceMean,
        "dr_grpo" => Reduction::FixedLength {
            length: number(params, "max_completion_length") as usize,
        },
        "luspo" => Reduction::SequenceSumMean,
        _ => Reduction::TokenMean,
    });
    // Rows without a token are counted.
    case.totals = Some(
        GlobalTotals::new()
            .with_sequences(case.sequences)
            .with_tokens(case.valid_tokens().max(1)),
    );
    config
}

/// Every weight and mask of verl's rollout correction.
///
/// # Panics
///
/// The file is damaged, or holds a correction that is not known.
pub fn rollout_cases() -> Vec<RolloutGolden> {
    let file: File = serde_json::from_str(FILE).expect("the golden values can be parsed");
    let mut cases = Vec::new();
    for batch in file.rollout_correction {
        for (name, expected) in &batch.expected {
            let Some(correction) = correction(name) else {
                continue;
            };
            let mut case = case(name, &batch.inputs);
            // On policy, with an advantage of -1, a token's loss is its weight.
            case.log_probs = case.old_log_probs.clone();
            case.advantages.values_mut().fill(-1.0);
            case.config = PolicyLossConfig::new().with_rollout_correction(correction);
            let values = expected.values().next().expect("weights or a mask").clone();
            let weights: Vec<Vec<f64>> = serde_json::from_value(values).expect("a matrix");
            cases.push(RolloutGolden {
                case,
                name: name.clone(),
                weights: weights.concat(),
            });
        }
    }
    cases
}

/// verl's figures of the mismatch, with the names that they have here; batches in which every row
/// holds a token, because verl counts the others as well.
///
/// # Panics
///
/// The file is damaged.
pub fn diagnostics() -> Vec<(Case, Vec<(&'static str, f64)>)> {
    let file: File = serde_json::from_str(FILE).expect("the golden values can be parsed");
    let mut cases = Vec::new();
    for (index, batch) in file.rollout_correction.iter().enumerate() {
        let mut case = case(&format!("batch {index}"), &batch.inputs);
        case.log_probs = case.old_log_probs.clone();
        if case.valid_sequences() < case.sequences {
            continue;
        }
        let expected = &batch.expected["offpolicy_metrics"];
        let named = [
            ("perplexity", "training_ppl"),
            ("rollout_perplexity", "rollout_ppl"),
            ("log_perplexity_gap", "log_ppl_diff"),
            ("perplexity_ratio", "ppl_ratio"),
            ("kl_k1", "kl"),
            ("kl_k3", "k3_kl"),
            ("chi_square", "chi2_token"),
            ("sequence_chi_square", "chi2_seq"),
        ]
        .map(|(here, there)| (here, expected[there].as_f64().expect("a number")));
        cases.push((case, named.to_vec()));
    }
    cases
}

fn correction(name: &str) -> Option<RolloutCorrection> {
    let truncate = RolloutWeight::truncate(Bounds::at_most(2.0));
    let weigh = RolloutCorrection::weigh;
    let filter = |level, estimator, bounds| {
        Some(RolloutCorrection::filter(Filter::new(
            level, estimator, bounds,
        )))
    };
    let (mean, sum, max) = (
        FilterLevel::SequenceMean,
        FilterLevel::SequenceSum,
        FilterLevel::SequenceMax,
    );
    let (k1, k2, k3) = (
        FilterEstimator::K1,
        FilterEstimator::K2,
        FilterEstimator::K3,
    );
    match name {
        "offpolicy_metrics" => None,
        "is-token-threshold2.0" => Some(weigh(truncate)),
        "is-token-threshold2.0-batchnorm" => Some(weigh(truncate).with_normalization()),
        "is-sequence-threshold2.0" => Some(weigh(truncate.of_level(WeightLevel::Sequence))),
        "is-sequence-threshold2.0-batchnorm" => {
            Some(weigh(truncate.of_level(WeightLevel::Sequence)).with_normalization())
        }
        "rs-token_k1-0.8_1.25" => filter(FilterLevel::Token, k1, Bounds::new(0.8, 1.25)),
        "rs-seq_sum_k1-0.5_2.0" => filter(sum, k1, Bounds::new(0.5, 2.0)),
        "rs-seq_mean_k1-0.95_1.05" => filter(mean, k1, Bounds::new(0.95, 1.05)),
        "rs-token_k2-0.1" => filter(FilterLevel::Token, k2, Bounds::at_most(0.1)),
        "rs-seq_mean_k3-0.01" => filter(mean, k3, Bounds::at_most(0.01)),
        "rs-seq_max_k2-0.2" => filter(max, k2, Bounds::at_most(0.2)),
        "rs-seq_sum_k3-0.5" => filter(sum, k3, Bounds::at_most(0.5)),
        "rs-seq_max_k3-0.2" => filter(max, k3, Bounds::at_most(0.2)),
        other => panic!("an unknown correction of verl: {other}"),
    }
}

//! What verl and Liger-Kernel compute themselves, in float64, with gradients.

use std::collections::BTreeMap;

use policy_loss::{
    Bounds, Clip, CovariancePenalty, GammaWeight, GeometricMean, GlobalTotals, KlGradient,
    KlPenalty, PolicyGradient, PolicyLossConfig, Ratio, RatioLevel, Reduction, RolloutCorrection,
    RolloutWeight, SigmoidGate,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Directory, estimator, reduction, with_surrogate};
use crate::case::{Case, HostAdvantages};

pub(crate) const FILE: &str = "objectives.json";

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

#[derive(Deserialize)]
struct File {
    objectives: Vec<FileCase>,
}

#[derive(Deserialize)]
pub(crate) struct FileCase {
    source: String,
    pub(crate) name: String,
    pub(crate) params: Value,
    pub(crate) inputs: BTreeMap<String, Vec<Vec<f64>>>,
    expected: BTreeMap<String, Value>,
}

impl FileCase {
    /// A number that came out.
    pub(crate) fn expected(&self, name: &str) -> f64 {
        self.expected[name].as_f64().expect("a number")
    }

    /// A gradient that came out, row by row.
    pub(crate) fn gradient(&self, name: &str) -> Vec<f64> {
        let gradient = serde_json::from_value::<Vec<Vec<f64>>>(self.expected[name].clone());
        gradient.expect("a matrix").concat()
    }
}

/// Every case of the file.
pub(crate) fn file_cases(directory: &Directory) -> Vec<FileCase> {
    let file: File = directory.json(FILE);
    file.objectives
}

/// Every case of a policy loss; the value losses of the file belong to another part of the
/// library.
///
/// # Panics
///
/// The file is missing or damaged, or holds a case that is not known.
pub fn cases(directory: &Directory) -> Vec<Golden> {
    let of_policies = file_cases(directory).into_iter();
    let of_policies = of_policies.filter(|case| case.params["mode"] != "value_loss");
    let cases: Vec<_> = of_policies.map(golden).collect();
    directory.assert_count(FILE, cases.len(), 84);
    cases
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
    let corrected = case.config.objective.rollout_correction.is_some();
    Golden {
        departure: departure(&kind, corrected, case.tokens),
        loss: file.expected("loss"),
        gradient: file.gradient("grad_log_probs"),
        case,
    }
}

/// The departures that docs/OTHER_TRAINERS.md lists.
fn departure(kind: &str, corrected: bool, tokens: usize) -> Option<&'static str> {
    match (kind, corrected) {
        // Of one weight the mean is the weight.
        ("geo_mean", true) if tokens > 1 => {
            Some("verl weighs a sequence by the geometric mean of its tokens' truncated weights")
        }
        _ => None,
    }
}

pub(super) fn case(name: &str, inputs: &BTreeMap<String, Vec<Vec<f64>>>) -> Case {
    let matrix = |name: &str| inputs[name].concat();
    let first = &inputs["old_log_probs"];
    let mut case = Case::new(name, [first.len(), first[0].len()]);
    case.old_log_probs = matrix("old_log_probs");
    case.rollout_log_probs = Some(matrix("rollout_log_probs"));
    case.action_mask = Some(matrix("action_mask").iter().map(|m| *m == 1.0).collect());
    if inputs.contains_key("log_probs") {
        case.log_probs = matrix("log_probs");
        let has_reference = inputs.contains_key("ref_log_probs");
        case.ref_log_probs = has_reference.then(|| matrix("ref_log_probs"));
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
    if kind == "kl_penalty" {
        let (estimator, _) = estimator(params["kind"].as_str().expect("a name"));
        // The penalty alone: without an advantage there is no policy term.
        case.advantages.values_mut().fill(0.0);
        return PolicyLossConfig::new()
            .with_kl_penalty(KlPenalty::new(1.0).with_estimator(estimator))
            .with_reduction(Reduction::TokenSum);
    }
    let (low, high) = (
        number(params, "clip_ratio_low"),
        number(params, "clip_ratio_high"),
    );
    let config = match kind {
        "vanilla" => with_surrogate(
            Clip::new(low, high).with_dual_clip(params["clip_ratio_c"].as_f64().unwrap_or(3.0)),
        ),
        "gspo" => with_surrogate(Clip::new(low, high)).with_ratio(Ratio::SEQUENCE_TOKEN),
        "sapo" => with_surrogate(SigmoidGate::new(
            number(params, "tau_pos"),
            number(params, "tau_neg"),
        )),
        "gpg" => with_surrogate(PolicyGradient::new()),
        "geo_mean" => with_surrogate(GeometricMean::new(low, high)),
        "cispo" => with_surrogate(PolicyGradient::weighted(Bounds::new(1.0 - low, 1.0 + high))),
        "kl_cov" => with_surrogate(CovariancePenalty {
            share: number(params, "kl_cov_ratio"),
            coefficient: number(params, "ppo_kl_coef"),
        }),
        other => panic!("an unknown objective of verl: {other}"),
    };
    let mean = params["loss_agg_mode"].as_str();
    let reduction = match kind {
        // Whatever the argument says.
        "gspo" | "sapo" | "geo_mean" => Reduction::SequenceMean,
        _ => reduction(mean, || number(params, "loss_scale_factor") as usize),
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
            prompts: None,
        });
    }
    if mean == Some("seq-mean-token-sum-norm") {
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
        "cispo" => with_surrogate(PolicyGradient::weighted(Bounds::at_most(high))),
        "sapo" => with_surrogate(SigmoidGate::new(
            number(params, "sapo_temperature_pos"),
            number(params, "sapo_temperature_neg"),
        )),
        "vespo" => with_surrogate(GammaWeight {
            positive_k: number(&params["vespo"], "k_pos"),
            positive_lambda: number(&params["vespo"], "lambda_pos"),
            negative_k: number(&params["vespo"], "k_neg"),
            negative_lambda: number(&params["vespo"], "lambda_neg"),
        }),
        _ => with_surrogate(clip),
    };
    if params["importance_sampling_level"] == "sequence" {
        config.objective.ratio.level = RatioLevel::Sequence;
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

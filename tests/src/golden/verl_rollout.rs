//! What verl computes about the mismatch between sampler and trainer, in float64.

use std::collections::BTreeMap;

use policy_loss::{
    Bounds, Filter, FilterEstimator, FilterLevel, PolicyLossConfig, RolloutCorrection,
    RolloutWeight, WeightLevel,
};
use serde::Deserialize;
use serde_json::Value;

use super::Directory;
use super::frameworks::{FILE, case};
use crate::case::Case;

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
    rollout_correction: Vec<FileRollout>,
}

#[derive(Deserialize)]
struct FileRollout {
    inputs: BTreeMap<String, Vec<Vec<f64>>>,
    expected: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Every weight and mask of verl's rollout correction.
///
/// # Panics
///
/// The file is missing or damaged, or holds a correction that is not known.
pub fn rollout_cases(directory: &Directory) -> Vec<RolloutGolden> {
    let file: File = directory.json(FILE);
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
/// The file is missing or damaged.
pub fn diagnostics(directory: &Directory) -> Vec<(Case, Vec<(&'static str, f64)>)> {
    let file: File = directory.json(FILE);
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

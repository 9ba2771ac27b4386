//! The reference's own results: what OpenRLHF's `PolicyLoss` computes, with gradients.

use std::collections::BTreeMap;

use burn::tensor::DType;
use policy_loss::{GlobalTotals, OpenRlhfPolicyLoss, PolicyLossConfig, Reduction};
use policy_loss_oracle::Metrics;
use serde::Deserialize;

use super::{Directory, frameworks};
use crate::case::Case;
use crate::compare::{Tolerance, assert_near};

const FILE: &str = "openrlhf_policy_loss.json";

/// What the reference adds to the length of a sequence before it divides by it changes no more.
pub const EPSILON: f64 = 2e-8;

/// A case with what the reference computes for it.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The inputs.
    pub case: Case,
    /// The reference in float64.
    pub expected: Expected,
}

/// The loss of the reference, and its metrics.
#[derive(Debug, Clone, Deserialize)]
pub struct Reference {
    loss: f64,
    clip_ratio: f64,
    ppo_kl: f64,
    vllm_kl: Option<f64>,
}

impl Reference {
    /// Fails unless a loss and the metrics that the reference has are these.
    ///
    /// # Panics
    ///
    /// They are not.
    pub fn check(&self, tolerance: Tolerance, what: &str, loss: f64, metrics: &Metrics) {
        for (name, actual, expected) in [
            ("loss", Some(loss), Some(self.loss)),
            (
                "clip_ratio",
                metrics.get("clip_ratio"),
                Some(self.clip_ratio),
            ),
            ("ppo_kl", metrics.get("ppo_kl"), Some(self.ppo_kl)),
            ("rollout_kl", metrics.get("rollout_kl"), self.vllm_kl),
        ] {
            let what = format!("{what}: {name}");
            match (actual, expected) {
                (Some(actual), Some(expected)) => assert_near(tolerance, &what, actual, expected),
                _ => assert_eq!(actual, expected, "{what}"),
            }
        }
    }
}

/// How far losses, metrics and gradients of a type may lie apart: the reference divides a sequence by
/// `n_b + 1e-8`, we by `n_b`.
pub fn tolerances(case: &Case, dtype: DType) -> [Tolerance; 2] {
    let [value, gradient] = [Tolerance::value(dtype), Tolerance::gradient(dtype)];
    match case.config.objective.reduction {
        Reduction::SequenceMean => [value, gradient].map(|it| it.at_least(EPSILON)),
        _ => [value, gradient],
    }
}

/// The reference's results.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Expected {
    #[serde(flatten)]
    pub reference: Reference,
    grad_log_probs: Vec<Vec<f64>>,
}

impl Expected {
    /// Row by row.
    pub fn gradient(&self) -> Vec<f64> {
        self.grad_log_probs.concat()
    }
}

#[derive(Deserialize)]
struct File {
    cases: Vec<FileCase>,
}

#[derive(Deserialize)]
struct FileCase {
    name: String,
    config: OpenRlhfPolicyLoss,
    call: Call,
    inputs: BTreeMap<String, Vec<Vec<f64>>>,
    expected_f64: Expected,
}

#[derive(Deserialize)]
struct Call {
    dp_size: Option<usize>,
    batch_num_tokens: Option<f64>,
    global_batch_size: Option<f64>,
}

/// Every case.
///
/// # Panics
///
/// The file is missing or damaged, or the reference itself refuses a case.
pub fn cases(directory: &Directory) -> Vec<Golden> {
    let file: File = directory.json(FILE);
    let cases: Vec<_> = file.cases.into_iter().map(golden).collect();
    directory.assert_count(FILE, cases.len(), 104);
    cases
}

fn golden(file: FileCase) -> Golden {
    let config = PolicyLossConfig::try_from(file.config).expect("the reference accepts it");
    let mut case = frameworks::case(&file.name, &file.inputs).with_config(config);
    case.prompt_ids = None;
    case.totals = file.call.dp_size.map(|world_size| GlobalTotals {
        tokens: file.call.batch_num_tokens.map(|tokens| tokens as usize),
        sequences: file.call.global_batch_size.map(|size| size as usize),
        world_size: Some(world_size),
        prompts: None,
    });
    Golden {
        case,
        expected: file.expected_f64,
    }
}

//! The reference's own results: what OpenRLHF's `PolicyLoss` computes, with gradients.

use policy_loss::{GlobalTotals, OpenRlhfPolicyLoss, PolicyLossConfig};
use serde::Deserialize;

use super::Directory;
use crate::case::{Case, HostAdvantages};

const FILE: &str = "openrlhf_policy_loss.json";

/// A case with what the reference computes for it.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The inputs.
    pub case: Case,
    /// The reference in float64.
    pub expected: Expected,
}

/// The reference's results.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Expected {
    pub loss: f64,
    pub clip_ratio: f64,
    pub ppo_kl: f64,
    pub vllm_kl: Option<f64>,
    pub grad_log_probs: Vec<Vec<f64>>,
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
    inputs: Inputs,
    expected_f64: Expected,
}

#[derive(Deserialize)]
struct Call {
    dp_size: Option<usize>,
    batch_num_tokens: Option<f64>,
    global_batch_size: Option<f64>,
}

#[derive(Deserialize)]
struct Inputs {
    log_probs: Vec<Vec<f64>>,
    old_log_probs: Vec<Vec<f64>>,
    advantages: Vec<Vec<f64>>,
    action_mask: Vec<Vec<f64>>,
    rollout_log_probs: Vec<Vec<f64>>,
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

fn golden(case: FileCase) -> Golden {
    let config = PolicyLossConfig::try_from(case.config).expect("the reference accepts it");
    let inputs = case.inputs;
    let mask = inputs.action_mask.concat();
    let totals = case.call.dp_size.map(|world_size| GlobalTotals {
        tokens: case.call.batch_num_tokens.map(|tokens| tokens as usize),
        sequences: case.call.global_batch_size.map(|size| size as usize),
        world_size: Some(world_size),
        prompts: None,
    });
    Golden {
        case: Case {
            name: case.name,
            config,
            sequences: inputs.log_probs.len(),
            tokens: inputs.log_probs[0].len(),
            log_probs: inputs.log_probs.concat(),
            old_log_probs: inputs.old_log_probs.concat(),
            advantages: HostAdvantages::Token(inputs.advantages.concat()),
            action_mask: Some(mask.iter().map(|valid| *valid == 1.0).collect()),
            rollout_log_probs: Some(inputs.rollout_log_probs.concat()),
            prompt_ids: None,
            totals,
            ..Case::new("", [0, 0])
        },
        expected: case.expected_f64,
    }
}

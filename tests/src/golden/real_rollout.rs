//! A real batch: 64 completions of a small language model, sampled by another engine than the one
//! that trains, with the reference's results for ten configurations.

use std::collections::BTreeMap;

use policy_loss::{OpenRlhfPolicyLoss, PolicyLossConfig};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::Directory;
use super::openrlhf::Reference;
use crate::case::{Case, HostAdvantages};

const BATCH: &str = "rollout_smollm2.safetensors";
const EXPECTED: &str = "rollout_smollm2_expected.json";

/// The reference's results for one configuration.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Expected {
    config: OpenRlhfPolicyLoss,
    #[serde(flatten)]
    pub reference: Reference,
    pub grad_l2: f64,
    pub grad_sum: f64,
    pub grad_abs_max: f64,
    pub grad_nonzero: usize,
}

/// The batch under each configuration.
///
/// # Panics
///
/// A file is missing or damaged.
pub fn cases(directory: &Directory) -> Vec<(Case, Expected)> {
    let batch = batch(directory);
    let expected: BTreeMap<String, Expected> = directory.json(EXPECTED);
    directory.assert_count(EXPECTED, expected.len(), 10);
    expected
        .into_iter()
        .map(|(name, expected)| {
            let config = PolicyLossConfig::try_from(expected.config.clone())
                .expect("the reference accepts it");
            let mut case = batch.clone().with_config(config);
            case.name = name;
            (case, expected)
        })
        .collect()
}

fn batch(directory: &Directory) -> Case {
    let bytes = directory.bytes(BATCH);
    let file = SafeTensors::deserialize(&bytes).expect("the batch can be parsed");
    let tensor = |name: &str| -> Vec<f64> {
        let bytes = file.tensor(name).expect("the batch holds it");
        let (chunks, rest) = bytes.data().as_chunks::<4>();
        assert!(rest.is_empty());
        let values = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk));
        values.map(f64::from).collect()
    };
    let shape = file.tensor("log_probs").expect("the batch holds it");
    let [sequences, tokens] = shape.shape() else {
        panic!("log_probs are of rank 2");
    };
    let mask = tensor("action_mask");
    let mut case = Case::new("rollout", [*sequences, *tokens]);
    case.log_probs = tensor("log_probs");
    case.old_log_probs = tensor("old_log_probs");
    case.advantages = HostAdvantages::Token(tensor("advantages"));
    case.action_mask = Some(mask.iter().map(|valid| *valid == 1.0).collect());
    case.rollout_log_probs = Some(tensor("rollout_log_probs"));
    case
}

//! The advantages that verl computes: three batches, ten estimators.

use std::collections::BTreeMap;

use policy_loss::{
    AdvantageEstimatorConfig as Config, GeneralizedAdvantage, ReturnToGo, Whitening,
};
use serde::Deserialize;

use super::case::{Case, HostRewards};
use super::oracle::Answer;

const FILE: &str = include_str!("../../data/advantages.json");

/// A batch with what the reference computes for it.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The inputs.
    pub case: Case,
    /// Each estimator's name there, the same one here, and its results.
    pub expected: Vec<(String, Config, Answer)>,
}

#[derive(Deserialize)]
struct File {
    advantages: Vec<FileCase>,
}

#[derive(Deserialize)]
struct FileCase {
    inputs: Inputs,
    expected: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Inputs {
    token_level_rewards: Vec<Vec<f64>>,
    action_mask: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    group_id: Vec<i64>,
    reward_baselines: Vec<f64>,
}

#[derive(Deserialize)]
struct Expected {
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
}

/// Every batch.
///
/// # Panics
///
/// The file is damaged.
pub fn cases() -> Vec<Golden> {
    let file: File = serde_json::from_str(FILE).expect("the golden values can be parsed");
    file.advantages.into_iter().map(golden).collect()
}

fn golden(case: FileCase) -> Golden {
    let inputs = case.inputs;
    let mask = inputs.action_mask.concat();
    let expected = case.expected.into_iter().map(|(name, expected)| {
        let config = config(&name);
        let returns = match config {
            // The reference returns the advantages once more.
            Config::GroupRelative(_) => None,
            _ => Some(expected.returns.concat()),
        };
        let answer = Answer {
            advantages: expected.advantages.concat(),
            returns,
        };
        (name, config, answer)
    });
    Golden {
        expected: expected.collect(),
        case: Case {
            sequences: inputs.values.len(),
            tokens: inputs.values[0].len(),
            rewards: HostRewards::Token(inputs.token_level_rewards.concat()),
            mask: Some(mask.iter().map(|valid| *valid == 1.0).collect()),
            values: inputs.values.concat(),
            group_ids: inputs.group_id,
            baselines: inputs.reward_baselines,
        },
    }
}

fn config(name: &str) -> Config {
    let whitening = Whitening::new();
    match name {
        "gae(gamma=0.99,lam=0.95) whitened" => GeneralizedAdvantage::new(0.99, 0.95)
            .with_whitening(whitening)
            .into(),
        "reinforce_plus_plus(gamma=0.95)" => ReturnToGo::new(0.95).with_whitening(whitening).into(),
        "reinforce_plus_plus_baseline" => Config::reinforce_plus_plus_baseline(),
        "grpo" => Config::grpo(),
        "dr_grpo" => Config::dr_grpo(),
        "rloo" => Config::rloo(),
        "opo" => Config::opo(),
        "gpg" => Config::gpg(),
        "remax" => Config::remax(),
        "grpo_passk" => Config::pass_at_k(),
        other => panic!("the file holds an unknown estimator: {other}"),
    }
}

//! The advantages that verl computes, batch by batch and estimator by estimator.

use std::collections::BTreeMap;

use burn::tensor::DType;
use policy_loss::{
    AdvantageEstimatorConfig as Config, GeneralizedAdvantage, ReturnToGo, Whitening,
};
use serde::Deserialize;

use super::laws::assert_answer;
use crate::advantages::case::{Case, HostRewards, whitening};
use crate::advantages::oracle::Answer;
use crate::compare::Tolerance;
use crate::golden::Directory;
use crate::runner::Runner;

const FILE: &str = "advantages.json";

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
/// The file is missing or damaged, or holds an estimator that is not known.
pub fn cases(directory: &Directory) -> Vec<Golden> {
    let file: File = directory.json(FILE);
    let cases: Vec<_> = file.advantages.into_iter().map(golden).collect();
    let results = cases.iter().map(|case| case.expected.len()).sum();
    directory.assert_count(FILE, results, 29);
    cases
}

fn golden(case: FileCase) -> Golden {
    let inputs = case.inputs;
    let mask = inputs.action_mask.concat();
    let shape = [inputs.values.len(), inputs.values[0].len()];
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
            rewards: HostRewards::Token(inputs.token_level_rewards.concat()),
            mask: Some(mask.iter().map(|valid| *valid == 1.0).collect()),
            values: inputs.values.concat(),
            group_ids: inputs.group_id,
            baselines: inputs.reward_baselines,
            ..Case::new(shape)
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

/// What verl computes, to 1e-10, and to what its own roundings allow where it has some.
pub fn verl_estimators(runner: &Runner) {
    let golden = cases(&Directory::of_environment());
    for (batch, Golden { case, expected }) in golden.iter().enumerate() {
        for (name, config, expected) in expected {
            for dtype in runner.exact_dtypes() {
                let exact = match name.as_str() {
                    // It divides a mean by n + 1e-8; see `golden_departures`.
                    _ if whitening(config).is_some() => Tolerance::of(1e-9),
                    // It adds the epsilon of a group of one in f32.
                    "grpo" if has_group_of_one(case) => Tolerance::of(1e-8),
                    _ => Tolerance::of(1e-10),
                };
                let what = format!("{runner}, {dtype:?}, batch {batch}, {name}");
                let tolerance = match dtype {
                    DType::F64 => exact,
                    _ => Tolerance::of(1e-5),
                };
                let actual = case.run(runner, config, dtype);
                assert_answer(tolerance, &what, &actual, &at_valid(case, expected));
            }
        }
    }
}

fn has_group_of_one(case: &Case) -> bool {
    let size = |id: &i64| case.group_ids.iter().filter(|other| *other == id).count();
    case.group_ids.iter().any(|id| size(id) == 1)
}

/// At padding the reference leaves what it happens to compute; here it is 0.
fn at_valid(case: &Case, answer: &Answer) -> Answer {
    let select = |values: &Vec<f64>| -> Vec<f64> {
        let select = |(i, x): (usize, &f64)| match case.is_valid(i) {
            true => *x,
            false => 0.0,
        };
        values.iter().enumerate().map(select).collect()
    };
    Answer {
        advantages: select(&answer.advantages),
        returns: answer.returns.as_ref().map(select),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The departures from the reference are the ones that are named: with `n + 1e-8` in the place
    /// of `n`, the oracle whitens to the reference's last digits.
    #[test]
    fn golden_departures() {
        let mut whitened = 0;
        for Golden { case, expected } in cases(&Directory::own()) {
            for (name, config, expected) in &expected {
                let expected = at_valid(&case, expected);
                if whitening(config).is_none() {
                    continue;
                }
                whitened += 1;
                let theirs = case.answer_with_offset(config, 1e-8);
                assert_answer(Tolerance::of(1e-13), name, &theirs, &expected);
                let ours = case.answer(config);
                let near = Tolerance::of(1e-10);
                let differ = |(a, b): (&f64, &f64)| !near.accepts(*a, *b);
                let pairs = ours.advantages.iter().zip(&expected.advantages);
                assert!(pairs.into_iter().any(differ), "{name}: no departure");
            }
        }
        assert_eq!(whitened, 9);
    }
}

//! Advantage estimators: from rewards to what the policy loss weighs tokens with.

mod batch;
mod generalized;
mod group_relative;
pub(crate) mod members;
mod presets;
mod recurrence;
mod return_to_go;
mod rewards;
mod token_baseline;
mod whitening;

pub use batch::{AdvantageBatch, Rewards};
use batch::{Checked, Needs};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{DType, Tensor};
pub use generalized::GeneralizedAdvantage;
pub use group_relative::{Among, Deviation, GroupBaseline, GroupRelative, MeanScale, SingleScore};
pub use presets::AdvantagePreset;
pub(crate) use recurrence::{ahead, backwards, behind};
pub use return_to_go::ReturnToGo;
use rewards::per_sequence;
pub(crate) use rewards::per_token;
use serde::{Deserialize, Serialize};
pub use token_baseline::TokenBaseline;
pub use whitening::{Whitening, WhiteningOver};

use crate::composed::arithmetic;
use crate::valid::Valid;
use crate::{BatchError, ConfigError};

/// Configuration of an [`AdvantageEstimator`].
///
/// [`AdvantagePreset`] has a value of it for each estimator that a paper named.
///
/// ```
/// use policy_loss::{AdvantageEstimatorConfig, Deviation, GroupBaseline, GroupRelative};
///
/// let grpo = GroupRelative::new(GroupBaseline::Mean).with_deviation(Deviation::default());
/// assert_eq!(AdvantageEstimatorConfig::grpo(), grpo.into());
/// let estimator = AdvantageEstimatorConfig::grpo().init()?;
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
///
/// As JSON (fields that are left out take their default, unknown ones are refused):
///
/// ```
/// # use policy_loss::AdvantageEstimatorConfig;
/// let config: AdvantageEstimatorConfig = serde_json::from_str(
///     r#"{ "generalized": { "gamma": 1.0, "lambda": 0.95, "whitening": {} } }"#,
/// )?;
/// assert_eq!(config, AdvantageEstimatorConfig::gae());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AdvantageEstimatorConfig {
    /// From the values of a critic.
    Generalized(GeneralizedAdvantage),
    /// From the rewards behind a token.
    ReturnToGo(ReturnToGo),
    /// From the scores of the other answers to the same prompt.
    GroupRelative(GroupRelative),
}

impl Config for AdvantageEstimatorConfig {}

impl From<GeneralizedAdvantage> for AdvantageEstimatorConfig {
    fn from(config: GeneralizedAdvantage) -> Self {
        Self::Generalized(config)
    }
}

impl From<ReturnToGo> for AdvantageEstimatorConfig {
    fn from(config: ReturnToGo) -> Self {
        Self::ReturnToGo(config)
    }
}

impl From<GroupRelative> for AdvantageEstimatorConfig {
    fn from(config: GroupRelative) -> Self {
        Self::GroupRelative(config)
    }
}

impl AdvantageEstimatorConfig {
    /// Checks the configuration and builds the estimator.
    ///
    /// # Errors
    ///
    /// A `gamma` or `lambda` outside 0 to 1, an epsilon that is not finite or too small, a deviation
    /// together with a mean to divide by, two baselines of a return. The error names the field, the value and what would be
    /// accepted.
    pub fn init(&self) -> Result<AdvantageEstimator, ConfigError> {
        match self {
            Self::Generalized(config) => config.validate()?,
            Self::ReturnToGo(config) => config.validate()?,
            Self::GroupRelative(config) => config.validate()?,
        }
        Ok(AdvantageEstimator { config: *self })
    }
}

/// Estimates advantages, the constants of a policy loss.
///
/// Every estimator computes on the device of the rewards, and reads nothing back from a GPU. No gradient flows: inputs leave autodiff, results are outside of it. A value at a masked
/// position, whatever it is, changes nothing; a non-finite one at a valid position is not hidden
/// and reaches whatever depends on it.
///
/// It is a [`Module`] without parameters.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Tensor};
/// use policy_loss::{AdvantageBatch, AdvantageEstimatorConfig};
///
/// let rewards = Tensor::<1>::from_floats([1.0, 0.0, 0.0, 1.0], &Device::flex());
/// let estimator = AdvantageEstimatorConfig::rloo().init()?;
/// let batch = AdvantageBatch::new(rewards).with_group_ids([7, 7, 9, 9]);
/// let output = estimator.forward(batch)?;
/// let advantages = output.advantages.into_data(); // [B, 1], as a `PolicyBatch` accepts
/// assert_eq!(advantages.to_vec::<f32>().unwrap(), [1.0, -1.0, -1.0, 1.0]);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct AdvantageEstimator {
    #[module(skip)]
    config: AdvantageEstimatorConfig,
}

/// Advantages, detached and still on the device; f64 where the rewards are f64, else f32.
#[derive(Debug, Clone)]
pub struct AdvantageOutput {
    /// `[B, T]`, 0 at masked positions.
    pub advantages: Tensor<2>,
    /// `[B, T]`, 0 at masked positions: what a critic learns, where the estimator has one such
    /// thing. Estimators that compare sequences have none.
    pub returns: Option<Tensor<2>>,
}

impl AdvantageEstimator {
    /// The configuration that this estimator was built from.
    pub fn config(&self) -> &AdvantageEstimatorConfig {
        &self.config
    }

    /// Estimates the advantages of a batch. Nothing is read back from the device.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`AdvantageBatch`]
    /// - output: `[B, T]`; `[B, 1]` where rewards are per sequence and nothing says what `T` is
    ///
    /// # Errors
    ///
    /// Shapes or devices differ, a tensor has a type that the device does not compute, or one that
    /// the estimator needs is missing. All of it is found before any device work.
    pub fn forward(&self, batch: AdvantageBatch) -> Result<AdvantageOutput, BatchError> {
        let Checked {
            shape,
            rewards,
            action_mask,
            needs,
        } = batch.check(&self.config)?;
        let dtype = arithmetic(rewards[0].1.dtype());
        if shape.contains(&0) {
            let device = rewards[0].1.device().without_autodiff();
            let nothing = Tensor::zeros(shape, (&device, dtype));
            return Ok(AdvantageOutput {
                returns: match needs {
                    Needs::GroupRelative(..) => None,
                    _ => Some(nothing.clone()),
                },
                advantages: nothing,
            });
        }
        let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
        let valid = Valid::new(action_mask, dtype);
        let rewards = rewards
            .into_iter()
            .map(|(weight, rewards)| (weight, rewards.constant(dtype)))
            .collect::<Vec<_>>();
        let of_tokens = || {
            let kinds = rewards.iter().cloned();
            weighted_sum(kinds.map(|(weight, x)| (weight, per_token(x, &valid))))
        };
        Ok(match needs {
            Needs::Generalized(config, values) => {
                let values = valid.select(constant(values));
                config.of(of_tokens(), values, &valid)
            }
            Needs::ReturnToGo(config) => config.of(of_tokens(), &valid, |returns| returns),
            Needs::Baselines(config, baselines) => {
                let baselines = valid.select(constant(baselines.reshape([shape[0], 1])));
                let compared = |returns| returns - baselines.expand(shape);
                config.of(of_tokens(), &valid, compared)
            }
            Needs::TokenBaseline(config, baseline, evidence) => {
                let evidence = evidence.map(|x| valid.select(constant(x)));
                let compared = |returns| baseline.of(returns, evidence, &valid);
                config.of(of_tokens(), &valid, compared)
            }
            Needs::GroupRelative(config, group_ids) => {
                let kinds = rewards.into_iter();
                let scores = kinds.map(|(weight, x)| (weight, per_sequence(x, &valid)));
                AdvantageOutput {
                    advantages: config.of(scores.collect(), &group_ids, &valid),
                    returns: None,
                }
            }
        })
    }
}

/// `sum_k weight_k x_k`; a weight of 1 changes no bit.
///
/// # Panics
///
/// There is nothing to add up.
fn weighted_sum(kinds: impl Iterator<Item = (f64, Tensor<2>)>) -> Tensor<2> {
    let weighted = kinds.map(|(weight, x)| match weight == 1.0 {
        true => x,
        false => x * weight,
    });
    weighted
        .reduce(|sum, x| sum + x)
        .expect("a batch has rewards of one kind at least")
}

/// Below every finite number that is computed with: what stands where a maximum must not look.
pub(crate) fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MIN,
        _ => f64::from(f32::MIN),
    }
}

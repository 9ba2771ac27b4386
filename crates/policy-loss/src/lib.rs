#![doc = include_str!("../README.md")]

mod batch;
mod composed;
mod config;
pub mod device;
mod error;
mod loss;
mod mask;
mod metrics;
mod openrlhf;
mod output;
mod presets;
mod ratio;
mod reduction;
mod rollout;
mod surrogate;
mod valid;

pub use batch::{Advantages, GlobalTotals, PolicyBatch};
pub use config::PolicyLossConfig;
pub use error::{BatchError, ConfigError};
pub use loss::PolicyLoss;
pub use mask::{action_mask, action_mask_from_tensor};
pub use openrlhf::OpenRlhfPolicyLoss;
pub use output::{
    Implementation, MetricValues, PolicyLossMetrics, PolicyLossOutput, PolicyLossValues,
};
pub use presets::Preset;
pub use ratio::{Behavior, Ratio, RatioLevel};
pub use reduction::Reduction;
pub use rollout::RolloutCorrection;
pub use surrogate::{Clip, Surrogate};

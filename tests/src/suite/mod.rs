//! The suite: every part takes a [`Runner`](crate::Runner) and panics where the library is wrong.

pub mod clipping;
pub mod entropy_mask;
pub mod errors;
pub mod exact_bounds;
pub mod future_weight;
pub mod garbage;
pub mod golden;
pub mod gradients;
pub mod inspection;
pub mod masks;
pub mod missing_rollout;
pub mod non_finite;
pub mod objectives;
pub mod outputs;
pub mod properties;
pub mod rollout_weights;
pub mod second_moments;
pub mod sequence_ratio;
pub mod shapes;
pub mod shards;
pub mod tensors;

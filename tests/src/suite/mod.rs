//! The suite: every part takes a [`Runner`](crate::Runner) and panics where the library is wrong.

pub mod dtypes;
pub mod edges_ppo;
pub mod edges_rest;
pub mod edges_rollout;
pub mod errors;
pub mod garbage;
pub mod golden;
pub mod gradients;
pub mod law;
pub mod layouts;
pub mod masks;
pub mod non_finite;
pub mod objectives;
pub mod outputs;
pub mod properties;
pub mod real_rollout;
pub mod shapes;
pub mod slopes;

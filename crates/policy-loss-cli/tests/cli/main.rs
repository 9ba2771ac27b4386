//! The program `policy-loss`, run as a user would run it: files in, exit code and text out.

mod bench;
mod compare;
mod dtypes;
mod edge_cases;
mod evaluate;
mod json;
mod listings;
mod refused_batches;
mod refused_objectives;
mod rollout;
mod support;
mod without_effect;

//! The program `policy-loss`, run as a user would run it: files in, exit code and text out.

mod bench;
mod command_line;
mod compare;
mod dtypes;
mod edge_cases;
mod evaluate;
mod fuzz;
mod listings;
mod refused_batches;
mod refused_objectives;
mod report;
mod rollout;
mod support;
mod warnings;

//! The program; see `policy-loss --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    policy_loss_cli::main()
}

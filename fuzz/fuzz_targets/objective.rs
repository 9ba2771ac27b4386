//! The JSON of an objective.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    policy_loss_cli::fuzz::objective(bytes);
});

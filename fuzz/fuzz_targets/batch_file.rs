//! A batch file, as the program reads it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    policy_loss_cli::fuzz::batch_file(bytes);
});

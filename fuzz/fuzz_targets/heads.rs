//! Random logits and what changes them, against the oracle.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    policy_loss_tests::fuzz::heads(bytes);
});

//! Arguments that are refused, or without effect, and files that would be overwritten.

use crate::support::{Batch, program, refuses};

#[test]
fn usage() {
    refuses(program().arg("evaluate"), 2, &["evaluate", "eval"]);
    refuses(program().arg("eval"), 2, &["BATCH.safetensors"]);
    refuses(
        program().args(["eval", "a", "b"]),
        2,
        &["unexpected argument 'b'"],
    );
    refuses(program().args(["eval", "a", "--grad"]), 2, &["--grad-out"]);
}

#[test]
fn totals() {
    let batch = Batch::two_rows().write();
    let cases: [(&[&str], &[&str]); 8] = [
        (
            &["--world-size", "4"],
            &["--global-tokens is missing", "`token_mean`"],
        ),
        (
            &["--world-size", "4", "--preset", "grpo"],
            &["--global-sequences is missing", "`sequence_mean`"],
        ),
        (
            &["--global-sequences", "4"],
            &["--global-tokens is missing"],
        ),
        (
            &["--global-tokens", "4", "--preset", "gspo"],
            &["--global-sequences is missing"],
        ),
        (
            &["--global-tokens", "0"],
            &["--global-tokens is 0", "above 0"],
        ),
        (
            &["--global-tokens", "4", "--world-size", "0"],
            &["--world-size is 0"],
        ),
        (
            &["--global-sequences", "0", "--preset", "grpo"],
            &["--global-sequences is 0"],
        ),
        // A total that this objective does not need is checked all the same.
        (
            &["--global-sequences", "0", "--global-tokens", "4"],
            &["--global-sequences is 0"],
        ),
    ];
    for (arguments, telling) in cases {
        batch.refuses(arguments, 3, telling);
    }
    for value in ["-1", "1.5", "many", "99999999999999999999999"] {
        batch.refuses(
            &[&format!("--global-tokens={value}")],
            2,
            &["--global-tokens"],
        );
    }
}

#[test]
fn totals_that_nothing_divides_by() {
    let batch = Batch::two_rows().write();
    let sum = &batch.config(r#"{"reduction": "token_sum"}"#);
    let (tokens, sequences) = ("--global-tokens", "--global-sequences");
    let cases: [(&[&str], &[&str], &str); 4] = [
        (&["--preset", "ppo"], &[sequences], "divides by tokens"),
        (&["--preset", "grpo"], &[tokens], "divides by sequences"),
        (&["--preset", "dr_grpo"], &[tokens], "divides by sequences"),
        (&["--config", sum], &[tokens, sequences], "takes a sum"),
    ];
    for (objective, ignored, why) in cases {
        let mut arguments = objective.to_vec();
        arguments.extend([tokens, "12", sequences, "4"]);
        let notes = batch.evaluate(&arguments).notes;
        for flag in [tokens, sequences] {
            let note = format!("note: {flag} has no effect: the objective {why}");
            assert_eq!(notes.contains(&note), ignored.contains(&flag), "{notes}");
        }
        assert_eq!(notes.matches("has no effect").count(), ignored.len());
    }
    let needed = batch.evaluate(&[tokens, "12", "--world-size", "2"]).notes;
    assert!(!needed.contains("has no effect"), "{needed}");
}

#[test]
fn arguments_of_the_other_benchmark() {
    let log_probs = ["--what", "log-probs"];
    let cases: [(&[&str], &[&str], &str); 8] = [
        (&log_probs, &["--objective", "gspo"], "--what loss"),
        (&log_probs, &["--config", "c.json"], "--what loss"),
        (&log_probs, &["--batch", "256"], "--what loss"),
        (&[], &["--hidden", "576"], "--what log-probs"),
        (&["--what", "loss"], &["--vocab", "9"], "--what log-probs"),
        (&[], &["--memory-budget", "9"], "--what log-probs"),
        (&[], &["--dtype", "f16"], "--what log-probs"),
        (&[], &["--contestants", "naive"], "--what log-probs"),
    ];
    for (what, unread, instead) in cases {
        let mut command = program();
        command.arg("bench").args(what).args(unread);
        let said = format!("{} has no effect", unread[0]);
        refuses(&mut command, 2, &[&said, instead]);
    }
}

#[test]
fn what_is_read_is_not_overwritten() {
    let batch = Batch::two_rows().write();
    let config = batch.config("{}");
    let grad_out = |path: &std::path::Path, what: &str| {
        let arguments = ["--config", &config, "--grad-out"];
        let path = path.to_str().unwrap();
        batch.refuses(&[&arguments[..], &[path]].concat(), 3, &[path, what]);
    };
    grad_out(config.as_ref(), "would overwrite the --config");
    grad_out(&batch.path(), "would overwrite the batch");
    let linked = batch.beside("linked.safetensors");
    #[cfg(unix)]
    {
        std::fs::hard_link(batch.path(), &linked).unwrap();
        grad_out(&linked, "would overwrite the batch");
        std::fs::remove_file(&linked).unwrap();
        std::os::unix::fs::symlink(&config, &linked).unwrap();
        grad_out(&linked, "would overwrite the --config");
    }
    assert_eq!(std::fs::read(&config).unwrap(), b"{}");
    assert_eq!(
        std::fs::read(batch.path()).unwrap(),
        Batch::two_rows().bytes()
    );
}

#[test]
fn devices() {
    let batch = Batch::two_rows().write();
    batch.refuses(&["--device", "tpu"], 2, &["tpu", "flex"]);
    for (backend, compiled_in) in [
        ("ndarray", cfg!(feature = "ndarray")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("cuda", cfg!(feature = "cuda")),
    ] {
        if compiled_in {
            continue;
        }
        let install = format!("cargo install --path crates/policy-loss-cli --features {backend}");
        let run = format!("cargo run -p policy-loss-cli --features {backend}");
        let telling = ["was built without it", install.as_str(), run.as_str()];
        batch.refuses(&["--device", backend], 4, &telling);
    }
}

/// Without a driver wgpu panics at its first use; the adapter looks first.
#[cfg(all(feature = "wgpu", target_os = "linux"))]
#[test]
fn a_machine_without_a_driver() {
    let batch = Batch::two_rows().write();
    let mut command = batch.eval(&["--device", "wgpu"]);
    command
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .env("VK_DRIVER_FILES", "/nonexistent")
        .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
        .env("LIBGL_DRIVERS_PATH", "/nonexistent");
    let telling = ["wgpu is unavailable", "mesa-vulkan-drivers"];
    refuses(&mut command, 4, &telling);
}

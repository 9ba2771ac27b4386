//! Arguments that would be without effect, and files that would be overwritten.

use crate::support::{Batch, program, refuses};

#[test]
fn totals_that_nothing_divides_by() {
    let batch = Batch::two_rows().write();
    let sum = batch.beside("sum.json");
    std::fs::write(&sum, r#"{"reduction": "token_sum"}"#).unwrap();
    let sum = sum.to_str().unwrap();
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
    let cases: [(&[&str], &[&str], &str); 6] = [
        (&log_probs, &["--objective", "gspo"], "--what loss"),
        (&log_probs, &["--config", "c.json"], "--what loss"),
        (&log_probs, &["--batch", "256"], "--what loss"),
        (&[], &["--hidden", "576"], "--what log-probs"),
        (&["--what", "loss"], &["--vocab", "9"], "--what log-probs"),
        (&[], &["--memory-budget", "9"], "--what log-probs"),
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
    let config = batch.beside("objective.json");
    std::fs::write(&config, "{}").unwrap();
    let grad_out = |path: &std::path::Path, what: &str| {
        let arguments = ["--config", config.to_str().unwrap(), "--grad-out"];
        let path = path.to_str().unwrap();
        batch.refuses(&[&arguments[..], &[path]].concat(), 3, &[path, what]);
    };
    grad_out(&config, "would overwrite the --config");
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

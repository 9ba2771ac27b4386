//! What `eval` and `compare` warn of.

use serde_json::{Value, json};

use crate::support::{Batch, Written, data, program};

/// The names of the warnings, which must be said to people as well, each once.
fn warned(batch: &Written, arguments: &[&str]) -> Vec<String> {
    let evaluated = batch.evaluate(arguments);
    names(&evaluated.report["warnings"], &evaluated.notes)
}

fn names(warnings: &Value, notes: &str) -> Vec<String> {
    let warnings = warnings.as_array().unwrap();
    assert_eq!(
        notes.matches("warning: ").count(),
        warnings.len(),
        "{notes}"
    );
    let name = |warning: &Value| {
        let message = warning["message"].as_str().unwrap();
        assert_eq!(notes.matches(message).count(), 1, "{notes}");
        assert!(warning["value"].is_number() && warning["threshold"].is_number());
        warning["name"].as_str().unwrap().to_owned()
    };
    warnings.iter().map(name).collect()
}

/// One row of tokens with these gaps between sampler and trainer, which the policy hardly left.
fn apart(gaps: &[f32]) -> Batch {
    let advantages: Vec<f32> = gaps.iter().map(|_| 1.0).collect();
    let log_ratios: Vec<f32> = gaps.iter().map(|_| 0.01).collect();
    let rollout: Vec<f32> = gaps.iter().map(|gap| -gap).collect();
    Batch::row(&log_ratios, &advantages).f32("rollout_log_probs", &[1, gaps.len()], &rollout)
}

#[test]
fn a_real_rollout_has_none_under_a_sane_objective() {
    let rollout = data("rollout_smollm2.safetensors");
    let directory = tempfile::TempDir::new().unwrap();
    let correction =
        r#"{"enable_vllm_is_correction": true, "vllm_is_truncated_threshold": [0.5, 5.0]}"#;
    for arguments in [
        &[][..],
        &["--preset", "grpo"],
        &["--preset", "dapo"],
        &["--preset", "cispo"],
        &["--openrlhf", correction],
        &["--global-tokens", "3516"],
    ] {
        let evaluated = crate::support::evaluate(&rollout, directory.path(), arguments);
        let warnings = &evaluated.report["warnings"];
        assert_eq!(warnings, &json!([]), "{arguments:?}");
        assert!(!evaluated.notes.contains("warning"), "{}", evaluated.notes);
    }
    let evaluated =
        crate::support::evaluate(&rollout, directory.path(), &["--global-tokens", "3515"]);
    let said = names(&evaluated.report["warnings"], &evaluated.notes);
    assert_eq!(said, ["totals_too_small"]);
}

#[test]
fn each_warns_on_a_batch_made_for_it() {
    // 20 tokens: one of them is 5 %, two are more.
    let mut log_ratios = vec![0.01; 20];
    log_ratios[..6].fill(0.5);
    let clipped = |log_ratios: &[f32]| Batch::row(log_ratios, &[1.0; 20]).write();
    assert!(warned(&clipped(&log_ratios), &[]).is_empty());
    log_ratios[6] = 0.5;
    assert_eq!(warned(&clipped(&log_ratios), &[]), ["mostly_clipped"]);

    // k3 of 0.13 is 0.0088, and of 0.15 it is 0.0118.
    assert!(warned(&apart(&[0.13; 20]).write(), &[]).is_empty());
    let far = apart(&[0.15; 20]).write();
    assert_eq!(warned(&far, &[]), ["mismatch_uncorrected"]);
    let correction = |high: f64, kind: &str| {
        format!(
            r#"{{"enable_vllm_is_correction": true, "vllm_is_correction_type": "{kind}",
                "vllm_is_truncated_threshold": [0.5, {high}]}}"#
        )
    };
    let (tis, icepop) = (correction(2.0, "tis"), correction(2.0, "icepop"));
    assert!(warned(&far, &["--openrlhf", &tis]).is_empty());

    let mut gaps = vec![0.0; 20];
    gaps[0] = 1.0;
    let few = apart(&gaps).write();
    gaps[1] = 1.0;
    let many = apart(&gaps).write();
    for (correction, name) in [(&tis, "weights_truncated"), (&icepop, "tokens_rejected")] {
        assert!(warned(&few, &["--openrlhf", correction]).is_empty());
        assert_eq!(warned(&many, &["--openrlhf", correction]), [name]);
    }

    let mask = many.config(r#"{"off_policy_mask": {"delta": 0.01}}"#);
    let masked = Batch::row(&[-0.1; 20], &[-1.0; 20]).write();
    let arguments = ["--config", &mask];
    assert_eq!(warned(&masked, &arguments), ["tokens_off_policy"]);

    let groups = |rewards: &[f32]| {
        Batch::two_rows()
            .f32("log_probs", &[2, 3], &[-0.2, 0.0, 0.1, 0.01, 0.1, 0.0])
            .f32("rewards", &[2], rewards)
            .i64("group_ids", &[2], &[3, 3])
            .write()
    };
    assert!(warned(&groups(&[0.0, 1.0]), &[]).is_empty());
    assert_eq!(warned(&groups(&[1.0, 1.0]), &[]), ["groups_without_spread"]);
}

#[test]
fn what_is_beside_a_batch_and_has_another_form_is_left_out_with_a_note() {
    let batch = Batch::two_rows()
        .f32("rewards", &[3], &[1.0; 3])
        .f32("group_id", &[2], &[1.0; 2])
        .write();
    let evaluated = batch.evaluate(&[]);
    for note in [
        "note: `rewards` is left out: expected [2] numbers",
        "note: `group_id` is left out: expected [2] integers",
    ] {
        assert!(evaluated.notes.contains(note), "{}", evaluated.notes);
    }
}

#[test]
fn a_comparison_says_each_once_with_the_objectives_it_holds_for() {
    let batch = Batch::row(&[0.3, 0.3, 0.0], &[1.0, 1.0, -1.0]).write();
    let mut command = program();
    command.arg("compare").arg(batch.path());
    command.args([
        "--preset",
        "ppo",
        "--preset",
        "grpo",
        "--preset",
        "reinforce",
    ]);
    let output = command.arg("--json").output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    let warning = "warning: --preset ppo, --preset grpo: 67 % of the tokens are clipped";
    assert_eq!(notes.matches("warning: ").count(), 1, "{notes}");
    assert!(notes.contains(warning), "{notes}");
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    let objectives = compared["objectives"].as_array().unwrap().iter();
    let counts: Vec<_> = objectives
        .map(|objective| objective["warnings"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [1, 1, 0]);
}

//! `devices`, `presets` and the help.

use serde_json::Value;

use crate::support::{Batch, close, program, stdout};

fn said(arguments: &[&str]) -> String {
    stdout(program().args(arguments))
}

#[test]
fn devices_say_what_there_is_and_what_is_missing() {
    let listed: Value = serde_json::from_str(&said(&["devices", "--json"])).unwrap();
    let backends = listed["backends"].as_array().unwrap();
    let names: Vec<_> = backends.iter().map(|entry| &entry["backend"]).collect();
    assert_eq!(names, ["flex", "ndarray", "wgpu", "cuda"]);
    let flex = &backends[0];
    assert_eq!(flex["compiled_in"], true);
    assert_eq!(flex["missing"], Value::Null);
    assert_eq!(flex["devices"][0]["hardware"], "CPU");
    let dtypes = ["f64", "f32", "f16", "bf16"].map(Value::from).to_vec();
    assert_eq!(flex["devices"][0]["dtypes"], Value::Array(dtypes));
    for entry in backends {
        let found = !entry["devices"].as_array().unwrap().is_empty();
        assert_eq!(found, entry["missing"].is_null(), "{entry}");
        assert_eq!(found, entry["remedy"].is_null(), "{entry}");
    }
    let table = said(&["devices"]);
    assert!(table.contains("f64, f32, f16, bf16"), "{table}");
    if cfg!(not(feature = "cuda")) {
        assert!(table.contains("--features cuda"), "{table}");
    }
}

#[test]
fn presets_are_what_config_takes() {
    let batch = Batch::two_rows()
        .f32(
            "rollout_log_probs",
            &[2, 3],
            &[-0.2, 0.1, 0.1, 0.3, 0.1, 0.0],
        )
        .f32("ref_log_probs", &[2, 3], &[-0.3, 0.1, 0.2, 0.0, 0.0, -0.4])
        .write();
    let listed: Value = serde_json::from_str(&said(&["presets", "--json"])).unwrap();
    let presets = listed["presets"].as_array().unwrap();
    assert!(presets.len() >= 30);
    let table = said(&["presets"]);
    for preset in presets {
        let name = preset["name"].as_str().unwrap();
        for field in ["formula", "source"] {
            assert!(!preset[field].as_str().unwrap().is_empty(), "{name}");
        }
        assert!(table.contains(name), "{table}");
        let config = batch.config(preset["config"].to_string());
        let by_name = batch.evaluate(&["--preset", name]).report;
        let by_config = batch.evaluate(&["--config", &config]).report;
        assert_eq!(by_name, by_config, "{name}");
    }
}

#[test]
fn the_default_objective_is_ppo() {
    let batch = Batch::two_rows().write();
    let default = batch.evaluate(&[]).report;
    assert_eq!(default, batch.evaluate(&["--preset", "ppo"]).report);
    assert_eq!(default, batch.evaluate(&["--openrlhf", "{}"]).report);
    let other = batch.evaluate(&["--preset", "grpo", "--global-sequences", "1"]);
    let [loss, other] = [&default, &other.report].map(|r| r["loss"].as_f64().unwrap());
    // Rows of one length: the sequence mean is the token mean, here undone by a total of 1.
    close(other, 2.0 * loss, 1e-5, "loss");
}

#[test]
fn help_lists_the_exit_codes() {
    for arguments in [&["--help"][..], &["eval", "--help"], &["eval", "-h"]] {
        let help = said(arguments);
        for part in [
            "Exit codes:",
            "3  bad input",
            "4  the device is unavailable",
        ] {
            assert!(help.contains(part), "{help}");
        }
    }
    let help = said(&["eval", "--help"]);
    for part in [
        "rollout_log_probs",
        "action_mask",
        "\"Infinity\"",
        "--grad-out",
    ] {
        assert!(help.contains(part), "{help}");
    }
}

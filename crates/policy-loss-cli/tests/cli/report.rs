//! `policy-loss report`: the page, as a browser draws it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Batch, Written, data, program, refuses};

/// Makes a page, which must succeed.
fn report(arguments: &[&str], out: &Path) -> String {
    let mut command = program();
    command.arg("report").args(arguments).arg("--out").arg(out);
    let output = command.output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {notes}");
    std::fs::read_to_string(out).unwrap()
}

/// What the page draws.
fn data_of(page: &str) -> Value {
    let (_, data) = page
        .split_once(r#"<script type="application/json" id="data">"#)
        .unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

/// A browser of this machine, or a note that there is none.
fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file());
    let required = std::env::var("POLICY_LOSS_REQUIRE_BACKENDS").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == "all");
    if found.is_none() {
        let what = "no Chromium on this machine (Debian, Ubuntu: `apt install chromium`)";
        assert!(!required, "{what}");
        eprintln!("skipped: the page in a browser; {what}");
    }
    found
}

/// Opens a page and returns its elements once its script has run, and what the console says.
fn open(browser: &Path, page: &Path) -> (String, Vec<String>) {
    let profile = TempDir::new().unwrap();
    let Output { stdout, stderr, .. } = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args(["--disable-sync", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stderr);
    let console = said.lines().filter(|line| line.contains("CONSOLE"));
    let console = console.map(str::to_owned).collect();
    (String::from_utf8(stdout).unwrap(), console)
}

#[test]
fn a_browser_draws_the_real_rollout_without_an_error() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("report.html");
    let batch = data("rollout_smollm2.safetensors");
    let corrected = directory.path().join("corrected.json");
    std::fs::write(
        &corrected,
        r#"{"rollout_correction": {"weight": {"mode": {"truncate": {"low": 0.9, "high": 1.1}}}}}"#,
    )
    .unwrap();
    let corrected = corrected.to_str().unwrap();
    let arguments = [
        batch.to_str().unwrap(),
        "--preset",
        "grpo",
        "--preset",
        "gspo",
        "--config",
        corrected,
    ];
    let page = report(&arguments, &out);
    assert!(!page.contains("http-equiv"), "nothing is fetched");
    for fetched in ["src=", "<link", "@import", "url("] {
        assert!(!page.contains(fetched), "{fetched}");
    }
    let Some(browser) = browser() else { return };
    let (dom, console) = open(&browser, &out);
    assert_eq!(console, Vec::<String>::new());
    assert!(dom.contains(r#"data-drawn="true""#), "the script ends");
    for id in [
        "warnings",
        "ratios",
        "gaps",
        "weights",
        "lengths",
        "map",
        "gradient",
        "cosines",
        "metrics",
        "objectives",
    ] {
        assert!(dom.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    // Three ratios, a gap with its bounds, the weights, two pictures of lengths, and the bars.
    assert_eq!(dom.matches("<svg").count(), 8);
    assert_eq!(dom.matches("<circle").count(), 3 * 64);
    assert!(dom.matches("<rect class=\"positive\"").count() > 50);
    // Two bounds of each clip; those of the correction over the gaps, and over the weights.
    assert_eq!(dom.matches("class=\"bound\"").count(), 10);
    assert!(dom.contains("Sequence 0, token 0: ratio about"), "the map");
    assert!(dom.contains("data-name=\"mostly_clipped\""), "gspo");
    assert!(
        dom.contains("data-name=\"weights_truncated\""),
        "0.9 to 1.1"
    );

    // A page with an error is one: what was looked for above is there to be found.
    let broken = page.replace("\"use strict\";", "\"use strict\"; absent();");
    std::fs::write(&out, broken).unwrap();
    let (dom, console) = open(&browser, &out);
    assert_eq!(console.len(), 1);
    assert!(!dom.contains(r#"data-drawn="true""#));
}

#[test]
fn the_page_holds_what_eval_and_compare_say() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("report.html");
    let batch = data("rollout_smollm2.safetensors");
    let batch = batch.to_str().unwrap();
    let objectives = ["--preset", "grpo", "--preset", "gspo"];
    let page = report(&[&[batch], &objectives[..]].concat(), &out);
    let page = data_of(&page);
    let mut command = program();
    command.arg("compare").arg(batch).args(objectives);
    let output = command.arg("--json").output().unwrap();
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pairs = page["batch"]["objectives"].as_array().unwrap().iter();
    let pairs = pairs.zip(compared["objectives"].as_array().unwrap());
    assert_eq!(pairs.len(), 2);
    for (drawn, compared) in pairs {
        assert_eq!(drawn["loss"], compared["loss"]);
        assert_eq!(drawn["gradient_norm"], compared["gradient_norm"]);
        assert_eq!(drawn["cosines"], compared["gradient_cosine"]);
        for metric in drawn["metrics"].as_array().unwrap() {
            let name = metric[0].as_str().unwrap();
            assert_eq!(metric[1], compared["metrics"][name], "{name}");
        }
        let mass = drawn["mass"].as_object().unwrap();
        let total: f64 = mass.values().map(|share| share.as_f64().unwrap()).sum();
        assert!((total - 1.0).abs() < 1e-9, "{mass:?}");
        let ratios = &drawn["ratios"];
        let count = |side: &str| -> u64 {
            let counts = ratios[side].as_array().unwrap().iter();
            counts.map(|count| count.as_u64().unwrap()).sum()
        };
        let all = count("positive") + count("negative") + count("zero");
        let expected = match drawn["ratio_of_sequences"] == true {
            true => 64,
            false => 3516,
        };
        assert_eq!(all, expected);
    }
    let warnings = page["warnings"].as_array().unwrap();
    let of: Vec<_> = warnings.iter().map(|warning| &warning["of"]).collect();
    assert_eq!(of, ["gspo"], "grpo has none");
}

#[test]
fn text_ends_no_element() {
    let batch = Batch::two_rows().write();
    let out = batch.beside("report.html");
    let steps = batch.beside("run.jsonl");
    let line = r#"{"step": 1, "</script><script>alert(1)</script>": 2, "loss": 0.5}"#;
    std::fs::write(&steps, line).unwrap();
    let path = batch.path();
    let arguments = [path.to_str().unwrap(), "--steps", steps.to_str().unwrap()];
    let page = report(&arguments, &out);
    assert!(!page.contains("alert(1)</script>"), "{page}");
    assert_eq!(page.matches("</script>").count(), 2);
    let curves = &data_of(&page)["curves"]["curves"];
    assert_eq!(curves[0]["name"], "</script><script>alert(1)</script>");
    let Some(browser) = browser() else { return };
    let (dom, console) = open(&browser, &out);
    assert_eq!(console, Vec::<String>::new());
    assert!(dom.contains("<section id=\"curves\""));
}

#[test]
fn steps_are_files_or_lines() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("report.html");
    let steps = directory.path().join("steps");
    std::fs::create_dir(&steps).unwrap();
    for (name, log_ratio) in [("step-10", 0.3), ("step-9", 0.1)] {
        let batch = Batch::row(&[log_ratio, 0.0, -0.1], &[1.0, 1.0, -1.0]);
        std::fs::write(
            steps.join(name).with_extension("safetensors"),
            batch.bytes(),
        )
        .unwrap();
    }
    let steps_text = steps.to_str().unwrap();
    let page = data_of(&report(&["--steps", steps_text], &out));
    assert_eq!(
        page["curves"]["steps"],
        serde_json::json!(["step-9", "step-10"])
    );
    let curves = page["curves"]["curves"].as_array().unwrap();
    let clip = curves.iter().find(|curve| curve["name"] == "clip_ratio");
    let clip = clip.unwrap()["values"].as_array().unwrap();
    assert_eq!(clip[0], 0.0);
    assert!(clip[1].as_f64().unwrap() > 0.3, "{clip:?}");
    assert!(page.get("batch").is_none());

    let lines = directory.path().join("run.jsonl");
    let text = "{\"iteration\": 5, \"metrics\": {\"ppo_kl\": 0.1, \"at\": \"noon\"}}\n\n\
                {\"iteration\": 6, \"reward\": 0.5}\n";
    std::fs::write(&lines, text).unwrap();
    let lines = lines.to_str().unwrap();
    let page = data_of(&report(&["--steps", lines], &out));
    assert_eq!(page["curves"]["steps"], serde_json::json!(["5", "6"]));
    let curves = &page["curves"]["curves"];
    assert_eq!(curves[0]["name"], "metrics.ppo_kl");
    assert_eq!(curves[0]["values"], serde_json::json!([0.1, null]));
    assert!(curves[0]["sentence"].is_string());
    assert_eq!(curves[1]["values"], serde_json::json!([null, 0.5]));
    assert_eq!(curves.as_array().unwrap().len(), 2);

    // As training with Burn writes them: iterations are counted within an epoch.
    let text = "{\"epoch\": 1, \"iteration\": 2, \"loss\": 0.5}\n\
                {\"epoch\": 1, \"valid_epoch\": {\"reward\": 0.25}}\n";
    std::fs::write(lines, text).unwrap();
    let mut command = program();
    command.args(["report", "--steps", lines, "--preset", "gspo", "--out"]);
    let said = command.arg(&out).assert().success().get_output().clone();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("objectives have no effect"), "{said}");
    let page = data_of(&std::fs::read_to_string(&out).unwrap());
    assert_eq!(page["curves"]["steps"], serde_json::json!(["1/2", "1"]));
    let curves = page["curves"]["curves"].as_array().unwrap();
    let names: Vec<_> = curves.iter().map(|curve| &curve["name"]).collect();
    assert_eq!(names, ["loss", "valid_epoch.reward"]);

    // Objectives whose short names are the same keep a curve each.
    let objective = "an-objective-with-a-long-name.json";
    let mut arguments = vec!["--steps".to_owned(), steps_text.to_owned()];
    for folder in ["one", "two"] {
        let path = directory.path().join(folder).join(objective);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{}").unwrap();
        arguments.extend(["--config".to_owned(), path.to_str().unwrap().to_owned()]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let page = data_of(&report(&arguments, &out));
    let curves = page["curves"]["curves"].as_array().unwrap();
    let losses = curves.iter().filter(|curve| {
        let name = curve["name"].as_str().unwrap();
        name.ends_with("/loss") && curve["values"][0].is_number()
    });
    assert_eq!(losses.count(), 2, "{curves:?}");

    let batch = steps.join("step-9.safetensors");
    let mut command = program();
    command
        .args(["report", "--steps", steps_text, "--out"])
        .arg(batch);
    refuses(
        &mut command,
        3,
        &["--out", "would overwrite a file of the --steps"],
    );

    let refuse = |path: &str, telling: &[&str]| {
        let mut command = program();
        command.args(["report", "--steps", path, "--out"]).arg(&out);
        refuses(&mut command, 3, telling);
    };
    std::fs::write(lines, "{\"loss\": 1}\n[2]\n").unwrap();
    refuse(
        lines,
        &["--steps", "line 2 is no JSON object: invalid type"],
    );
    std::fs::write(lines, "{\"loss\": 1}\n{\"loss\": NaN}\n").unwrap();
    refuse(lines, &["line 2", "at column 10", "write null"]);
    std::fs::write(lines, [0x80, 2]).unwrap();
    refuse(lines, &["--steps", "is no text"]);
    std::fs::write(lines, "\n").unwrap();
    refuse(lines, &["holds no line"]);
    std::fs::write(steps.join("run.jsonl"), "{}").unwrap();
    refuse(steps_text, &[".safetensors and .jsonl"]);
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refuse(empty.to_str().unwrap(), &["no .safetensors and no .jsonl"]);
}

#[test]
fn what_a_page_cannot_be_made_of() {
    let batch = Batch::two_rows().write();
    let path = batch.path();
    let out = batch.beside("report.html");
    let run = |arguments: &[&str], out: &Path, code: i32, telling: &[&str]| {
        let mut command = program();
        command.arg("report").args(arguments).arg("--out").arg(out);
        refuses(&mut command, code, telling);
    };
    let batch_text = path.to_str().unwrap();
    run(&[], &out, 2, &["BATCH.safetensors"]);
    run(
        &[batch_text],
        &path,
        3,
        &["--out", "would overwrite the batch"],
    );
    let needs = [batch_text, "--preset", "verl_grpo"];
    run(
        &needs,
        &out,
        3,
        &["`ref_log_probs` is missing", "verl_grpo"],
    );
    let nowhere = batch.beside("absent").join("report.html");
    run(&[batch_text], &nowhere, 1, &["--out", "No such file"]);
    let empty = Batch::default()
        .f32("log_probs", &[0, 3], &[])
        .f32("old_log_probs", &[0, 3], &[])
        .f32("advantages", &[0], &[])
        .write();
    let path = empty.path();
    run(&[path.to_str().unwrap()], &out, 3, &["a token at least"]);
    let tokenizer = [batch_text, "--tokenizer", "tokenizer.json"];
    run(&tokenizer, &out, 3, &["`tokens` is missing", "--tokenizer"]);
}

#[test]
fn extremes_are_drawn() {
    let batch = Batch::row(
        &[f32::NAN, f32::INFINITY, 90.0, -90.0, 0.0],
        &[1.0, -1.0, 0.0, f32::NAN, 1.0],
    );
    for batch in [batch, Batch::row(&[0.0], &[0.0])] {
        let batch = batch
            .f32("rewards", &[1], &[f32::NAN])
            .i64("group_ids", &[1], &[i64::MAX])
            .write();
        let out = batch.beside("report.html");
        let path = batch.path();
        let arguments = [
            path.to_str().unwrap(),
            "--preset",
            "ppo",
            "--preset",
            "gspo",
        ];
        report(&arguments, &out);
        let Some(browser) = browser() else { return };
        let (dom, console) = open(&browser, &out);
        assert_eq!(console, Vec::<String>::new());
        assert!(dom.contains(r#"data-drawn="true""#));
        assert!(!dom.contains("NaN\""), "no coordinate is NaN");
    }
}

#[cfg(feature = "tokenizer")]
#[test]
fn tokens_are_text() {
    let ids = [0_i64, 1, 2, 9, 1, -1];
    check_texts(Batch::two_rows().i64("tokens", &[2, 3], &ids), "[-1]");
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let unsigned = Batch::two_rows().raw("tokens", safetensors::Dtype::U64, &[2, 3], bytes);
    check_texts(unsigned, "[18446744073709551615]");
}

/// Tokens that are text, the last of which is unknown.
#[cfg(feature = "tokenizer")]
fn check_texts(batch: Batch, unknown: &str) {
    let batch = batch.write();
    let tokenizer = batch.beside("tokenizer.json");
    let model =
        r#"{"type": "WordLevel", "vocab": {"<b>": 0, "two": 1, " three": 2}, "unk_token": "<b>"}"#;
    let text = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {model}}}"#
    );
    std::fs::write(&tokenizer, text).unwrap();
    let out = batch.beside("report.html");
    let (path, tokenizer) = (batch.path(), tokenizer.to_str().unwrap());
    let arguments = [path.to_str().unwrap(), "--tokenizer", tokenizer];
    let page = data_of(&report(&arguments, &out));
    let words = &page["batch"]["words"];
    let texts = serde_json::json!(["<b>", "two", " three", "[9]", unknown]);
    assert_eq!(words["texts"], texts);
    assert_eq!(words["rows"], serde_json::json!([[0, 1, 2], [3, 1, 4]]));
    if let Some(browser) = browser() {
        let (dom, console) = open(&browser, &out);
        assert_eq!(console, Vec::<String>::new());
        assert!(dom.contains("&lt;b&gt;</span>"), "{dom}");
    }
    std::fs::write(tokenizer, "{}").unwrap();
    let mut command = program();
    command.arg("report").args(arguments).arg("--out").arg(&out);
    refuses(&mut command, 3, &["--tokenizer", "tokenizer.json"]);
}

#[cfg(not(feature = "tokenizer"))]
#[test]
fn a_program_without_tokenizers_says_so() {
    let batch = Batch::two_rows().i64("tokens", &[2, 3], &[0; 6]).write();
    let out = batch.beside("report.html");
    let path = batch.path();
    let mut command = program();
    command.arg("report").arg(path).arg("--out").arg(out);
    command.args(["--tokenizer", "tokenizer.json"]);
    refuses(&mut command, 2, &["the feature `tokenizer`"]);
}

/// 256 sequences of 4096 tokens, as numbers that do not repeat.
#[test]
fn a_large_batch_stays_below_2_mb() {
    let shape = [256, 4096];
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut draw = |low: f32, high: f32| -> Vec<f32> {
        let count = shape[0] * shape[1];
        (0..count).map(|_| low + (high - low) * random()).collect()
    };
    let batch = Batch::default()
        .f32("log_probs", &shape, &draw(-2.0, 0.0))
        .f32("old_log_probs", &shape, &draw(-2.0, 0.0))
        .f32("rollout_log_probs", &shape, &draw(-2.0, 0.0))
        .f32("advantages", &shape, &draw(-1.0, 1.0));
    let batch: Written = batch.write();
    let out = batch.beside("report.html");
    let path = batch.path();
    let arguments = [
        path.to_str().unwrap(),
        "--preset",
        "grpo",
        "--preset",
        "gspo",
        "--preset",
        "dapo",
    ];
    let page = report(&arguments, &out);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    assert!(page.len() > 500_000, "{} bytes", page.len());
    let Some(browser) = browser() else { return };
    let (dom, console) = open(&browser, &out);
    assert_eq!(console, Vec::<String>::new());
    assert!(
        dom.contains("neighbouring tokens"),
        "the page says what a cell is"
    );
}

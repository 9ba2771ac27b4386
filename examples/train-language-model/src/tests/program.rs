//! The program from its arguments to its files.

#[cfg(target_os = "linux")]
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Parser;
use serde_json::Value;

use super::training::{ONE_AT_A_TIME, guesser};
use super::{MODEL, OUT, given};
use crate::cli::Arguments;
use crate::run;

fn train(model: &Path, out: &Path, more: &str) -> Result<(), String> {
    let evaluate = match more.contains("--evaluate") {
        true => "",
        false => "--evaluate 4",
    };
    let fixed = format!("--questions 6 --answers 4 {evaluate}");
    let words = ["train-language-model", "train", "--model"].map(Into::into);
    let arguments = words
        .into_iter()
        .chain([
            model.as_os_str().to_owned(),
            "--out".into(),
            out.as_os_str().to_owned(),
        ])
        .chain(fixed.split_whitespace().map(Into::into))
        .chain(more.split_whitespace().map(Into::into));
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
    let _lock = ONE_AT_A_TIME.lock();
    run(arguments).map_err(|error| error.to_string())
}

fn steps(out: &Path) -> Vec<u64> {
    let lines = fs::read_to_string(out.join("steps.jsonl")).expect("it is written");
    let line = |line| serde_json::from_str::<Value>(line).expect("it is JSON");
    let lines: Vec<Value> = lines.lines().map(line).collect();
    assert!(
        lines.iter().all(|line| line["reward"].is_number()),
        "{lines:?}"
    );
    let steps = lines.iter().map(|line| line["step"].as_u64());
    steps.map(|step| step.expect("a number")).collect()
}

#[test]
fn a_run_leaves_its_files_and_goes_on() {
    let model = guesser();
    let folder = tempfile::tempdir().expect("a directory");
    let out = folder.path().join("run");
    let error = train(model.path(), &out, "--resume").expect_err("refused");
    assert!(error.contains("no checkpoint"), "{error}");
    train(model.path(), &out, "--steps 2 --json").expect("it trains");
    assert_eq!(steps(&out), [0, 1]);
    let error = train(model.path(), &out, "--steps 3").expect_err("refused");
    assert!(error.contains("step-000002 is there already"), "{error}");
    let error = train(model.path(), &out, "--steps 1 --resume").expect_err("refused");
    assert!(error.contains("has made 2 steps"), "{error}");
    train(model.path(), &out, "--steps 3 --resume").expect("it goes on");
    assert_eq!(steps(&out), [0, 1, 2]);
    let page = fs::read_to_string(out.join("report.html")).expect("it is written");
    assert!(page.contains("<!doctype html>") && page.contains("sampled_tokens_per_second"));
    // A run that is complete is not written again.
    let written = |file: &str| {
        let path = out.join("step-000003").join(file);
        fs::metadata(path)
            .and_then(|it| it.modified())
            .expect("it is there")
    };
    let before = written("model.safetensors");
    train(model.path(), &out, "--steps 3 --resume").expect("there is nothing to do");
    assert_eq!(written("model.safetensors"), before);
    assert_eq!(steps(&out), [0, 1, 2]);
    let config = fs::read(out.join("step-000003/config.json")).expect("it is written");
    let config: Value = serde_json::from_slice(&config).expect("it is JSON");
    assert_eq!(config["torch_dtype"], "float32");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(out.join("step-000003").join(file).exists(), "{file}");
    }
    // What was learned is a model like any other.
    train(
        &out.join("step-000003"),
        &folder.path().join("again"),
        "--steps 1",
    )
    .expect("it trains");
}

/// A process of its own: another run, or the same one that goes on.
fn process(model: &Path, out: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("tests::program::train_with_lines_of_json")
        .envs([(MODEL, model), (OUT, out)]);
    command
}

/// The line that a run ends with.
fn last_line(model: &Path, out: &Path) -> Value {
    let output = process(model, out).output().expect("a second process");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{said}");
    // The first of them stands behind the name of the test.
    let lines = said
        .lines()
        .filter_map(|line| line.find('{').map(|at| &line[at..]));
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .collect();
    let evaluations = lines.iter().filter(|line| line["evaluation"].is_string());
    let last = lines.last().expect("there are some");
    for evaluation in evaluations {
        let when = evaluation["evaluation"].as_str().expect("text");
        assert_eq!(evaluation["reward"], last["held_out"][when], "{when}");
    }
    last.clone()
}

#[test]
#[ignore = "runs in the processes that the test of held-out questions starts"]
fn train_with_lines_of_json() {
    let [model, out] = given();
    let more = match out.exists() {
        false => "--steps 1 --json",
        true => "--steps 3 --json --resume",
    };
    train(&model, &out, &format!("{more} --learning-rate 0.01")).expect("it trains");
}

#[test]
fn a_run_ends_with_what_was_held_out() {
    let model = guesser();
    let folder = tempfile::tempdir().expect("a directory");
    let out = folder.path().join("run");
    let first = last_line(model.path(), &out)["held_out"].take();
    let second = last_line(model.path(), &out)["held_out"].take();
    for held_out in [&first, &second] {
        assert_eq!(held_out["questions"], 4);
        assert!(held_out["after"].is_number(), "{held_out}");
    }
    // It is measured before the first step, and not when the run goes on.
    assert!(first["before"].is_number(), "{first}");
    assert_eq!(second["before"], first["before"]);
    let page = fs::read_to_string(out.join("report.html")).expect("it is written");
    assert!(page.contains("reward on 4 questions that it never trained on"));
}

#[test]
fn a_run_saves_what_it_learned_though_nobody_reads_on() {
    let model = guesser();
    let folder = tempfile::tempdir().expect("a directory");
    let out = folder.path().join("run");
    let mut run = process(model.path(), &out);
    run.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut run = run.spawn().expect("a process");
    let said = BufReader::new(run.stdout.take().expect("it is piped"));
    // It reads what comes before the first step, as `head` does, and closes the pipe.
    let mut lines = said.lines().map_while(Result::ok);
    let evaluation = lines.find(|line| line.contains("evaluation"));
    assert!(evaluation.is_some(), "nothing was said");
    drop(lines);
    run.wait().expect("it ends");
    assert_eq!(steps(&out), [0]);
    assert!(out.join("step-000001/model.safetensors").exists());
}

#[test]
fn arguments_without_a_meaning_are_refused() {
    let model = guesser();
    let out = model.path().join("run");
    for (arguments, said) in [
        ("--lora 0", "an integer above 0"),
        ("--lora 1000", "a width of 20"),
        ("--max-tokens 0", "an integer above 0"),
        ("--max-tokens 10000000", "at most 1000000"),
        ("--temperature 0", "a finite number above 0"),
        ("--temperature NaN", "a finite number above 0"),
        ("--top-k 0", "an integer above 0"),
        ("--top-p 0", "a number above 0"),
        ("--top-p 1.5", "at most 1"),
        ("--kl=-1", "at least 0"),
        ("--level 0", "1..=20"),
        ("--preset grop", "grpo"),
        ("--device cpu", "flex"),
        ("--max-tokens 64", "context of the model"),
        ("--advantages gae", "values"),
        ("--minibatch 25", "a step has 24 answers"),
        ("--evaluate 41", "at most half of them, 40"),
        ("--evaluate 10001 --level 9", "at most 10000"),
        (
            "--preset clip_cov --microbatch 23",
            "--microbatch 24 or more",
        ),
    ] {
        let error = train(model.path(), &out, arguments).expect_err("refused");
        assert!(error.contains(said), "{arguments}: {error}");
    }
}

/// Those that are compiled in.
#[cfg(any(feature = "ndarray", feature = "wgpu"))]
#[test]
fn other_backends_make_the_steps_of_flex() {
    let model = guesser();
    let folder = tempfile::tempdir().expect("a directory");
    let first_step = |device: &str| -> Value {
        let out = folder.path().join(device);
        let more = format!("--steps 1 --examples 1 --max-tokens 4 --device {device}");
        train(model.path(), &out, &more).unwrap_or_else(|error| panic!("{device}: {error}"));
        let lines = fs::read_to_string(out.join("steps.jsonl")).expect("it is written");
        serde_json::from_str(lines.trim()).expect("it is one line of JSON")
    };
    let expected = first_step("flex");
    assert!(expected["reward"].as_f64() > Some(0.0), "{expected}");
    for device in [
        #[cfg(feature = "ndarray")]
        "ndarray",
        #[cfg(feature = "wgpu")]
        "wgpu",
    ] {
        let step = first_step(device);
        for name in ["reward", "finished", "loss", "valid_tokens"] {
            let of = |step: &Value| step[name].as_f64().expect("a number");
            let difference = (of(&step) - of(&expected)).abs();
            assert!(difference < 1e-4, "{device}, {name}: {step}, {expected}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_utf_8() {
    use std::os::unix::ffi::OsStrExt;

    let model = guesser();
    let folder = tempfile::tempdir().expect("a directory");
    let name = |bytes| folder.path().join(OsStr::from_bytes(bytes));
    let moved = name(b"mod\xff\xfeel");
    fs::rename(model.path(), &moved).expect("it is moved");
    for (more, out) in [
        ("", name(b"run\xff")),
        ("--lora 2 --json", name(b"\xfflora")),
    ] {
        train(&moved, &out, &format!("--steps 1 {more}")).expect("it trains");
        train(&moved, &out, &format!("--steps 2 --resume {more}")).expect("it goes on");
        assert_eq!(steps(&out), [0, 1]);
        for file in ["step-000002/trainer_state.json", "report.html"] {
            assert!(out.join(file).exists(), "{file}");
        }
    }
    let config = name(b"\xfflora").join("step-000002/adapter_config.json");
    let config = fs::read_to_string(config).expect("it is written");
    let config: Value = serde_json::from_str(&config).expect("it is JSON");
    assert_eq!(config["base_model_name_or_path"], Value::Null);

    // What is not there is said, too.
    let error = train(&name(b"\xffnothing"), &name(b"\xff"), "").expect_err("refused");
    assert!(error.contains("config.json: No such file"), "{error}");
}

#[test]
fn benches_run_and_say_what_is_too_long() {
    let model = guesser();
    let bench = |arguments: &str| {
        let words = ["train-language-model"].into_iter();
        let words = words.chain(arguments.split(' ')).map(Into::into);
        let words = words.chain(["--model".into(), model.path().as_os_str().to_owned()]);
        run(Arguments::try_parse_from(words).expect("arguments")).map_err(|it| it.to_string())
    };
    bench("bench --tokens 63").expect("it is measured");
    let error = bench("bench --tokens 64").expect_err("refused");
    assert!(error.contains("context of the model"), "{error}");

    let learning = "bench-learning --sequences 3 --microbatch 2 --rounds 1 --tokens";
    bench(&format!("{learning} 64")).expect("it is measured");
    for tokens in [1, 65] {
        let error = bench(&format!("{learning} {tokens}")).expect_err("refused");
        assert!(
            error.starts_with(&format!("--tokens {tokens}: accepted: 2")),
            "{error}"
        );
    }
}

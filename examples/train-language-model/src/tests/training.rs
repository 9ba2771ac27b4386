//! The training loop and its checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;
use std::sync::Mutex;

use burn::module::Module;
use burn::tensor::Device;
use clap::Parser;
use policy_loss::Preset;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use serde_json::json;
use tempfile::TempDir;

use super::collect;
use super::tiny::{HostTensor, Tiny, VOCABULARY};
#[cfg(target_os = "linux")]
use super::{MODEL, OUT, given};
use crate::checkpoint;
use crate::settings::Settings;
use crate::train::{Rollout, Step, Trainer};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

/// Settings, as they are given on the command line.
pub(super) fn settings(arguments: &str) -> Settings {
    let defaults = "test --questions 16 --answers 8 --max-tokens 4 --microbatch 32 \
                    --learning-rate 0.01 --examples 1";
    let words = defaults
        .split_whitespace()
        .chain(arguments.split_whitespace());
    let arguments = Arguments::try_parse_from(words);
    arguments.unwrap_or_else(|error| panic!("{error}")).settings
}

/// A model that answers sums by chance: its tokens are the numbers 2 to 18, and others that end an
/// answer.
pub fn guesser() -> TempDir {
    let mut tiny = Tiny::new(20, false);
    let head = tiny
        .tensors
        .get_mut("lm_head.weight")
        .expect("its own head");
    head.values.iter_mut().for_each(|value| *value *= 0.1);
    let ends = [0, 1, 2, 20, 21, 22];
    let name = |id: usize| match ends.contains(&id) {
        true => format!("end{id}"),
        false => (id - 1).to_string(),
    };
    let vocabulary: serde_json::Map<_, _> =
        (0..VOCABULARY).map(|id| (name(id), json!(id))).collect();
    tiny.tokenizer["model"]["vocab"] = vocabulary.into();
    tiny.tokenizer["model"]["unk_token"] = json!("end0");
    let special = ends.map(|id| {
        json!({
            "id": id, "content": name(id), "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    tiny.tokenizer["added_tokens"] = json!(special);
    tiny.config["eos_token_id"] = json!(ends);
    tiny.write()
}

/// The seed of a device is that of all threads, and adapters are drawn with it.
pub(super) static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(super) fn begin(model: &Path, settings: &Settings) -> Trainer {
    let _lock = ONE_AT_A_TIME.lock();
    Trainer::new(model, None, settings.clone(), &Device::flex()).expect("it begins")
}

fn resume(
    model: &Path,
    checkpoint: &Path,
    settings: Settings,
) -> Result<Trainer, Box<dyn std::error::Error>> {
    let _lock = ONE_AT_A_TIME.lock();
    checkpoint::resume(model, checkpoint, settings, &Device::flex())
}

/// What is compared of steps, bit by bit.
pub(super) fn steps(trainer: &mut Trainer, count: usize) -> Vec<(f64, f64, usize)> {
    let numbers = |step: Step| (step.reward, step.loss, step.sampled);
    (0..count)
        .map(|_| numbers(trainer.step().expect("it learns")))
        .collect()
}

fn weights_of(trainer: &Trainer) -> Vec<Vec<f32>> {
    collect(&trainer.model, None)
}

pub(super) fn tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    let bytes = fs::read(path).expect("it is there");
    let file = SafeTensors::deserialize(&bytes).expect("it is whole");
    let tensor = |view: safetensors::tensor::TensorView| {
        let (chunks, _) = view.data().as_chunks::<4>();
        let values = chunks
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect();
        let shape = view.shape().to_vec();
        HostTensor { shape, values }
    };
    let all = file
        .iter()
        .map(|(name, view)| (name.to_string(), tensor(view)));
    all.collect()
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_numbers() {
    let model = guesser();
    for arguments in [
        "",
        "--lora 2",
        "--kl 0.1 --minibatch 64 --epochs 2 --preset ppo",
    ] {
        let settings = settings(arguments);
        let mut whole = begin(model.path(), &settings);
        let expected = steps(&mut whole, 3);
        assert!(
            expected.iter().any(|(reward, ..)| *reward > 0.0),
            "{expected:?}"
        );

        let out = tempfile::tempdir().expect("a directory");
        let mut first = begin(model.path(), &settings);
        let before = weights_of(&first);
        let mut numbers = steps(&mut first, 2);
        assert_ne!(weights_of(&first), before, "nothing was learned");
        checkpoint::save(&first, model.path(), out.path()).expect("it is written");
        let newest = checkpoint::newest(out.path()).expect("it is read");
        let newest = newest.expect("there is one");
        let second = resume(model.path(), &newest, settings.clone());
        let mut second = second.expect("it goes on");
        assert_eq!(second.step, 2);
        numbers.extend(steps(&mut second, 1));
        assert_eq!(numbers, expected, "{arguments}");
        assert_eq!(weights_of(&second), weights_of(&whole), "{arguments}");
    }
}

/// The gradient of every parameter; empty for one that is not learned.
fn gradients(trainer: &Trainer, rollout: &Rollout) -> Vec<Vec<f32>> {
    let minibatch: Vec<_> = rollout.experience.iter().collect();
    let update = trainer.update(&minibatch).expect("it has a gradient");
    collect(&trainer.model, Some(&update.gradients))
}

/// A part of a minibatch counts for what it is of the whole.
#[test]
fn microbatches_change_nothing_but_rounding() {
    let model = guesser();
    for arguments in [
        "--preset grpo",
        "--preset dapo --kl 0.1",
        "--preset dr_grpo",
        "--preset kimi",
        "--preset verl_grpo --lora 2",
    ] {
        let run = |microbatch: usize| {
            let arguments = format!("{arguments} --microbatch {microbatch}");
            let mut trainer = begin(model.path(), &settings(&arguments));
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let rollout = trainer.rollout(&mut rng).expect("it samples");
            let gradients = gradients(&trainer, &rollout);
            let step = trainer.step().expect("it learns");
            (gradients, step.loss, step.metrics.valid_tokens)
        };
        let (whole, parts) = (run(1000), run(5));
        assert!((whole.1 - parts.1).abs() < 1e-6, "{arguments}");
        assert_eq!(whole.2, parts.2, "{arguments}");
        let all = |gradients: &[Vec<f32>]| gradients.concat();
        let (whole, parts) = (all(&whole.0), all(&parts.0));
        assert_eq!(whole.len(), parts.len());
        let largest = whole.iter().fold(0.0_f32, |most, it| most.max(it.abs()));
        assert!(largest > 1e-5, "{arguments}: {largest}");
        for (whole, parts) in whole.iter().zip(&parts) {
            let difference = (whole - parts).abs();
            assert!(
                difference < 1e-4 * largest,
                "{arguments}: {whole} is not {parts}"
            );
        }
    }
}

/// Every preset that needs no critic, with what it needs besides.
#[test]
fn every_preset_learns() {
    let model = guesser();
    for preset in Preset::ALL {
        let settings = settings(&format!(
            "--preset {preset} --microbatch 1000 --questions 4"
        ));
        let mut trainer = begin(model.path(), &settings);
        let before = weights_of(&trainer);
        let step = trainer
            .step()
            .unwrap_or_else(|error| panic!("{preset}: {error}"));
        assert!(step.loss.is_finite(), "{preset}");
        assert_eq!(step.metrics.non_finite, 0.0, "{preset}");
        // Were they compared by a macro, thousands of them would be printed.
        let is_changed = weights_of(&trainer) != before;
        assert!(is_changed, "{preset}: nothing was learned");
    }
}

/// The model cannot add, and learns which numbers are sums more often than others: at best it is
/// right one time in nine.
#[test]
fn rewards_rise() {
    let model = guesser();
    for arguments in ["", "--preset cispo"] {
        let mut trainer = begin(model.path(), &settings(arguments));
        let steps: Vec<_> = (0..30)
            .map(|_| trainer.step().expect("it learns").reward)
            .collect();
        let mean = |steps: &[f64]| steps.iter().sum::<f64>() / steps.len() as f64;
        let (first, last) = (mean(&steps[..5]), mean(&steps[25..]));
        assert!(last > 2.0 * first, "{arguments}: {first} to {last}");
    }
}

/// Answers that pass without need change nothing; answers that a penalty pulls at are not left out.
#[test]
fn answers_without_an_advantage_are_left_out_where_they_have_no_gradient() {
    let model = guesser();
    let passed = |arguments: &str| {
        let mut trainer = begin(model.path(), &settings(arguments));
        let step = trainer.step().expect("it learns");
        (step.metrics.valid_tokens as usize, step.sampled)
    };
    for arguments in ["--preset kimi", "--preset verl_grpo", "--kl 0.1"] {
        let (passed, sampled) = passed(arguments);
        assert_eq!(passed, sampled, "{arguments}");
    }
    for arguments in ["--preset grpo", "--preset verl_grpo --kl 0"] {
        let (passed, sampled) = passed(arguments);
        assert!(
            0 < passed && passed < sampled,
            "{arguments}: {passed} of {sampled}"
        );
    }
}

#[test]
fn only_a_penalty_against_the_reference_policy_needs_another_model() {
    let model = guesser();
    let rests_on_a_base =
        |arguments: &str| begin(model.path(), &settings(arguments)).base.is_some();
    for arguments in [
        "--preset prime_rl",
        "--preset prime_rl --kl 0.1",
        "--preset grpo",
    ] {
        assert!(!rests_on_a_base(arguments), "{arguments}");
    }
    for arguments in ["--preset verl_grpo", "--preset grpo --kl 0.1"] {
        assert!(rests_on_a_base(arguments), "{arguments}");
    }
}

#[test]
fn a_chat_template_is_kept_and_another_than_chatml_is_refused() {
    let model = guesser();
    let path = model.path().join("chat_template.jinja");
    let template = "<|im_start|>{{ role }}\n{{ text }}<|im_end|>\n";
    fs::write(&path, template).expect("it is written");
    let out = tempfile::tempdir().expect("a directory");
    let trainer = begin(model.path(), &settings(""));
    let saved = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
    let kept = fs::read_to_string(saved.join("chat_template.jinja")).expect("it is there");
    assert_eq!(kept, template);
    assert!(!saved.join("tokenizer_config.json").exists());

    fs::write(&path, "[INST] {{ text }} [/INST]").expect("it is written");
    let trainer = Trainer::new(model.path(), None, settings(""), &Device::flex());
    let error = trainer.err().expect("refused").to_string();
    assert!(error.contains("not ChatML"), "{error}");
}

#[test]
fn what_was_learned_is_read_as_peft_reads_it() {
    let model = guesser();
    let out = tempfile::tempdir().expect("a directory");
    let mut trainer = begin(model.path(), &settings("--lora 2 --kl 0.1"));
    steps(&mut trainer, 3);
    let saved = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
    let adapters = tensors(&saved.join("adapter_model.safetensors"));
    let config = fs::read(saved.join("adapter_config.json")).expect("it is there");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("it is JSON");
    let scale =
        config["lora_alpha"].as_f64().expect("a number") / config["r"].as_f64().expect("a number");
    let base = tensors(&model.path().join("model.safetensors"));

    // The weights as Hugging Face holds them, with `scale * B A` added.
    let merged = tempfile::tempdir().expect("a directory");
    let whole = trainer.model.valid().materialize();
    crate::weights::save(&whole, merged.path()).expect("it is written");
    let merged = tensors(&merged.path().join("model.safetensors"));
    assert_eq!(adapters.len(), 2 * 7 * super::tiny::LAYERS);
    let mut changed = 0.0_f64;
    for (name, expected) in &merged {
        let layer = name.strip_suffix(".weight").expect("a weight");
        let factor =
            |letter| adapters.get(&format!("base_model.model.{layer}.lora_{letter}.weight"));
        let Some((a, b)) = factor('A').zip(factor('B')) else {
            assert_eq!(expected, &base[name], "{name} is frozen");
            continue;
        };
        let [rows, columns] = expected.shape[..] else {
            panic!("{name} is a matrix");
        };
        assert_eq!(
            (&a.shape[..], &b.shape[..]),
            (&[2, columns][..], &[rows, 2][..])
        );
        for row in 0..rows {
            for column in 0..columns {
                let change: f64 = (0..2)
                    .map(|rank| {
                        f64::from(b.values[row * 2 + rank])
                            * f64::from(a.values[rank * columns + column])
                    })
                    .sum::<f64>()
                    * scale;
                let at = row * columns + column;
                let difference =
                    f64::from(base[name].values[at]) + change - f64::from(expected.values[at]);
                assert!(difference.abs() < 1e-5, "{name}: {difference}");
                changed = changed.max(change.abs());
            }
        }
    }
    assert!(changed > 1e-3, "nothing was learned");
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let model = guesser();
    let out = tempfile::tempdir().expect("a directory");
    let trainer = begin(model.path(), &settings(""));
    let saved = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
    let refused = |base: &Path, arguments: &str| {
        let trainer = resume(base, &saved, settings(arguments));
        trainer.err().expect("refused").to_string()
    };
    for (arguments, said) in [
        ("--lora 2", "--lora none, and --lora is 2 now"),
        ("--seed 1", "--seed 0, and --seed is 1 now"),
        ("--level 3", "--level 1, and --level is 3 now"),
        ("--preset ppo", "--preset grpo, and --preset is ppo now"),
    ] {
        let error = refused(model.path(), arguments);
        assert!(error.contains(said), "{error}");
    }
    let other = Tiny::new(0, true).write();
    let error = refused(other.path(), "");
    assert!(error.contains("of another model"), "{error}");
    fs::write(saved.join("optimizer.bpk"), "hello").expect("it is written");
    let error = refused(model.path(), "");
    assert!(error.contains("optimizer.bpk"), "{error}");
}

/// The shapes of the other base are the same, so that nothing but its numbers tells it apart.
#[test]
fn a_checkpoint_that_rests_on_other_weights_is_refused() {
    let model = guesser();
    let other = guesser();
    let path = other.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("it is there");
    let last = bytes.len() - 4..;
    let value = f32::from_le_bytes(bytes[last.clone()].try_into().expect("four bytes"));
    bytes[last].copy_from_slice(&(value + 0.01).to_le_bytes());
    fs::write(&path, bytes).expect("it is written");
    for (arguments, rests) in [("--lora 2", true), ("--kl 0.1", true), ("", false)] {
        let out = tempfile::tempdir().expect("a directory");
        let trainer = begin(model.path(), &settings(arguments));
        let saved = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
        let on = |base: &Path| {
            let trainer = resume(base, &saved, settings(arguments));
            trainer.map(drop).map_err(|error| error.to_string())
        };
        // The same weights elsewhere, and in a file that says more about them.
        let elsewhere = guesser();
        let path = elsewhere.path().join("model.safetensors");
        let bytes = fs::read(&path).expect("it is there");
        let tensors = SafeTensors::deserialize(&bytes).expect("it is whole");
        let metadata = [("format".to_string(), "pt".to_string())].into();
        safetensors::serialize_to_file(tensors.iter(), Some(metadata), &path).expect("written");
        assert_ne!(fs::read(&path).expect("it is there"), bytes);
        on(elsewhere.path()).expect("the weights are the same");

        // Without a penalty, a run of all weights has left its base behind.
        assert_eq!(on(other.path()).is_err(), rests, "{arguments}");
        if !rests {
            continue;
        }
        let error = on(other.path()).expect_err("refused");
        assert!(
            error.contains("rests on other weights") && error.contains("BLAKE3"),
            "{error}"
        );
        // An earlier version did not write the digest.
        let path = saved.join("trainer_state.json");
        let state = fs::read_to_string(&path).expect("it is there");
        let mut state: serde_json::Value = serde_json::from_str(&state).expect("it is JSON");
        let base = state.as_object_mut().and_then(|state| state.remove("base"));
        assert!(base.is_some_and(|base| base.is_string()));
        fs::write(&path, state.to_string()).expect("it is written");
        on(model.path()).expect("it goes on");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
    let model = guesser();
    let out = tempfile::tempdir().expect("a directory");
    let mut trainer = begin(model.path(), &settings(""));
    let old = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
    steps(&mut trainer, 1);
    // A file stands where the directory has to be.
    fs::write(out.path().join("step-000001.partial"), "").expect("it is written");
    let error = checkpoint::save(&trainer, model.path(), out.path()).expect_err("refused");
    assert!(error.to_string().contains("step-000001"), "{error}");
    let newest = checkpoint::newest(out.path()).expect("it is read");
    assert_eq!(newest, Some(old.clone()));
    resume(model.path(), &old, settings("")).expect("it goes on");

    fs::remove_file(out.path().join("step-000001.partial")).expect("it was there");
    let new = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
    let newest = checkpoint::newest(out.path()).expect("it is read");
    assert_eq!(newest, Some(new));
    assert!(!old.exists(), "older ones are removed");
}

/// The size of a file may be limited, so that writes fail as they do where the disk is full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let model = guesser();
    let settings = settings("");
    let expected = steps(&mut begin(model.path(), &settings), 3);
    let out = tempfile::tempdir().expect("a directory");
    let mut first = begin(model.path(), &settings);
    let mut numbers = steps(&mut first, 1);
    let old = checkpoint::save(&first, model.path(), out.path()).expect("it is written");
    let size = |file| fs::metadata(old.join(file)).expect("it is there").len();
    let (weights, optimizer) = (size("model.safetensors"), size("optimizer.bpk"));
    let between = weights.midpoint(optimizer);
    for (file, limit) in [
        ("tokenizer.json", 0),
        ("model.safetensors", weights / 2),
        ("optimizer.bpk", between),
    ] {
        // The limit is in blocks of 512 bytes. The signal would end the process.
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""])
            .arg((limit / 512).to_string())
            .arg(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("tests::training::save_where_files_stay_small")
            .envs([(MODEL, model.path()), (OUT, out.path())])
            .output()
            .expect("a second process");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{file}: {said}");
        let (_, error) = said.split_once("refused: ").expect("an error");
        let error = error.lines().next().expect("a line");
        let path = out.path().join("step-000002").display().to_string();
        assert!(error.contains(&path), "{file}: {error}");
        assert!(error.contains("os error 27"), "{file}: {error}");
        assert!(error.contains(file), "{file}: {error}");
        let left = fs::read_dir(out.path()).expect("it is there");
        let left: Vec<_> = left
            .map(|entry| entry.expect("it is read").path())
            .collect();
        assert_eq!(left, std::slice::from_ref(&old), "{file}");
    }
    let mut second = resume(model.path(), &old, settings).expect("it goes on");
    numbers.extend(steps(&mut second, 2));
    assert_eq!(numbers, expected);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "runs in the processes that the test of a full disk starts"]
fn save_where_files_stay_small() {
    let [model, out] = given();
    let old = checkpoint::newest(&out).expect("it is read");
    let old = old.expect("there is one");
    let mut trainer = resume(&model, &old, settings("")).expect("it goes on");
    steps(&mut trainer, 1);
    let error = checkpoint::save(&trainer, &model, &out).expect_err("refused");
    println!("refused: {error}");
}

#[test]
fn questions_that_are_held_out_are_never_trained_on() {
    let model = guesser();
    for (arguments, others) in [("--level 1", Some(81 - 40)), ("--task countdown", None)] {
        let trainer = |seed| {
            let arguments = format!("{arguments} --seed {seed} --evaluate 40");
            begin(model.path(), &settings(&arguments))
        };
        let held_out = |trainer: &Trainer| -> Vec<String> {
            let evaluation = trainer.evaluate().expect("it answers").expect("questions");
            let answers = evaluation.answers.into_iter();
            answers.map(|(question, ..)| question).collect()
        };
        let (trainer, other) = (trainer(1), trainer(2));
        let asked = held_out(&trainer);
        assert_eq!(asked, held_out(&other), "{arguments}");
        let asked: BTreeSet<_> = asked.into_iter().collect();
        assert_eq!(asked.len(), 40, "{arguments}");
        // Those of a step, and those that are shown as examples.
        let trained = (0..20)
            .chain([u64::MAX])
            .flat_map(|stream| trainer.draw(200, stream));
        let trained: BTreeSet<_> = trained.map(|problem| problem.question()).collect();
        assert!(trained.is_disjoint(&asked), "{arguments}");
        if let Some(others) = others {
            assert_eq!(trained.len(), others);
        }
    }
    let trainer = begin(model.path(), &settings("--evaluate 0"));
    assert!(trainer.evaluate().expect("nothing fails").is_none());
}

/// An earlier version kept no questions out of the training.
#[test]
fn a_checkpoint_that_holds_nothing_out_goes_on() {
    let model = guesser();
    let out = tempfile::tempdir().expect("a directory");
    let trainer = begin(model.path(), &settings("--evaluate 0"));
    let saved = checkpoint::save(&trainer, model.path(), out.path()).expect("it is written");
    let path = saved.join("trainer_state.json");
    let state = fs::read_to_string(&path).expect("it is there");
    let mut state: serde_json::Value = serde_json::from_str(&state).expect("it is JSON");
    let settings_of = state["settings"].as_object_mut();
    assert!(settings_of.and_then(|it| it.remove("evaluate")).is_some());
    fs::write(&path, state.to_string()).expect("it is written");
    resume(model.path(), &saved, settings("--evaluate 0")).expect("it goes on");
    let error = resume(model.path(), &saved, settings("")).err();
    let error = error.expect("refused").to_string();
    assert!(
        error.contains("--evaluate 0, and --evaluate is 32 now"),
        "{error}"
    );
}

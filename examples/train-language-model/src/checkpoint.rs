//! Directories from which a run goes on, and from which Hugging Face reads what was learned.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::optim::OptimizerRecord;
use burn::tensor::{Bytes, Device};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::adapters;
use crate::settings::Settings;
use crate::template;
use crate::train::Trainer;
use crate::weights;

const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.bpk";
const CONFIG: &str = "config.json";
/// The fields of the configuration that name the type of the weights; the second is that of newer
/// versions of Hugging Face, which read both.
const DTYPES: [&str; 2] = ["torch_dtype", "dtype"];
const TOKENIZER: &str = "tokenizer.json";

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    settings: BTreeMap<String, String>,
    /// [`Trainer::base`]; earlier checkpoints do not say.
    base: Option<String>,
    /// [`Trainer::held_out_before`].
    held_out_before: Option<f64>,
}

/// Where the checkpoint of a step is, in the directory of a run.
fn path_of(out: &Path, step: u64) -> PathBuf {
    out.join(format!("step-{step:06}"))
}

/// The newest checkpoint of a run.
///
/// # Errors
///
/// The directory cannot be read.
pub fn newest(out: &Path) -> Result<Option<PathBuf>, Box<dyn Error>> {
    if !out.exists() {
        return Ok(None);
    }
    Ok(complete(out)?.pop())
}

/// Complete checkpoints, the oldest first.
fn complete(out: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out).map_err(at(out))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("step-"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            found.push((number, path));
        }
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// An error, with the path that it is of.
fn at<E: Display>(path: &Path) -> impl Fn(E) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// Writes a checkpoint of the present step, unless it is there, and removes older ones once it is
/// complete: whatever happens while it is written, the one before is there.
///
/// # Errors
///
/// Something cannot be written.
pub fn save(trainer: &Trainer, base: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let path = path_of(out, trainer.step);
    if path.exists() {
        return Ok(path);
    }
    let partial = path.with_extension("partial");
    let older = complete(out)?;
    let written = write(trainer, base, &partial)
        .and_then(|()| to_disk(&partial))
        .and_then(|()| Ok(fs::rename(&partial, &path)?))
        .and_then(|()| names_to_disk(out));
    if let Err(error) = written {
        // What is left of it would only take up space; the error is what matters.
        let _ = fs::remove_dir_all(&partial);
        return Err(format!("cannot save the checkpoint {}: {error}", path.display()).into());
    }
    // The model may be one of them, and the next checkpoint takes its tokenizer.
    let base = base.canonicalize().map_err(at(base))?;
    let is_base = |old: &PathBuf| old.canonicalize().is_ok_and(|old| base.starts_with(old));
    for old in older.into_iter().filter(|old| !is_base(old)) {
        fs::remove_dir_all(&old).map_err(at(&old))?;
    }
    Ok(path)
}

/// Waits until the files of a directory, and their names, would survive a loss of power.
fn to_disk(directory: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Windows refuses this to a file that is open for reading only.
        let file = File::options().write(true).open(&path);
        file.and_then(|file| file.sync_all()).map_err(at(&path))?;
    }
    names_to_disk(directory)
}

/// Waits until the names in a directory would survive; Windows has no way to.
fn names_to_disk(directory: &Path) -> Result<(), Box<dyn Error>> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn write(trainer: &Trainer, base: &Path, path: &Path) -> Result<(), Box<dyn Error>> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path)?;
    let templates = template::FILES.into_iter();
    let templates = templates.filter(|name| base.join(name).exists());
    for name in templates.chain([TOKENIZER]) {
        let (from, to) = (base.join(name), path.join(name));
        let bytes = fs::read(&from).map_err(at(&from))?;
        fs::write(&to, bytes).map_err(at(&to))?;
    }
    let mut config: Value = json(&base.join(CONFIG))?;
    if let (None, Value::Object(fields)) = (trainer.settings.lora, &mut config) {
        // Whoever reads the weights in the type of the file gets all that was learned.
        fields.retain(|name, _| !DTYPES.contains(&name.as_str()));
        fields.insert(DTYPES[0].into(), "float32".into());
    }
    let file = path.join(CONFIG);
    fs::write(&file, format!("{config:#}\n")).map_err(at(&file))?;
    match trainer.settings.lora {
        Some(rank) => {
            weights::save_adapters(&trainer.model, path)?;
            adapters::write_config(path, rank, base)?;
        }
        None => weights::save(&trainer.model, path)?,
    }
    trainer.optimizer.to_record().save(path.join(OPTIMIZER))?;
    let state = State {
        step: trainer.step,
        settings: trainer.settings.named(),
        base: trainer.base.clone(),
        held_out_before: trainer.held_out_before,
    };
    let file = path.join(STATE);
    Ok(fs::write(&file, serde_json::to_string_pretty(&state)?).map_err(at(&file))?)
}

/// What a file of JSON holds.
///
/// # Errors
///
/// It cannot be read, or is of something else.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = fs::read_to_string(path).map_err(at(path))?;
    serde_json::from_str(&text).map_err(at(path))
}

/// A trainer that goes on where the checkpoint was written.
///
/// # Errors
///
/// The checkpoint is damaged, or of another model or other settings.
pub fn resume(
    base: &Path,
    checkpoint: &Path,
    settings: Settings,
    device: &Device,
) -> Result<Trainer, Box<dyn Error>> {
    let mut state: State = json(&checkpoint.join(STATE))?;
    // Earlier versions kept no questions out of the training.
    let evaluate = state.settings.entry("evaluate".into());
    evaluate.or_insert_with(|| "0".into());
    for (name, value) in settings.named() {
        let saved = state.settings.get(&name);
        if saved != Some(&value) {
            let saved = saved.map_or("unknown", String::as_str);
            return Err(format!(
                "{}: the checkpoint was written with --{name} {saved}, and --{name} is {value} now; \
                 give the same arguments, or another --out",
                checkpoint.display()
            )
            .into());
        }
    }
    let config = |directory: &Path| -> Result<Value, String> {
        let mut config: Value = json(&directory.join(CONFIG))?;
        if let Value::Object(fields) = &mut config {
            fields.retain(|name, _| !DTYPES.contains(&name.as_str()));
        }
        Ok(config)
    };
    if config(base)? != config(checkpoint)? {
        return Err(format!(
            "{}: the checkpoint is of another model than {}: their {CONFIG} differ",
            checkpoint.display(),
            base.display()
        )
        .into());
    }
    let mut trainer = Trainer::new(base, Some(checkpoint), settings, device)?;
    match (&state.base, &trainer.base) {
        (Some(saved), Some(now)) if saved != now => {
            return Err(format!(
                "{}: what was learned rests on other weights than those of {}: their BLAKE3 digests \
                 are {saved} and {now}; give the --model that the run began with",
                checkpoint.display(),
                base.display()
            )
            .into());
        }
        (None, Some(_)) => {
            let _ = writeln!(
                std::io::stderr(),
                "{}: an earlier version wrote it, and whether it rests on the weights of {} is not \
                 known",
                checkpoint.display(),
                base.display()
            );
        }
        _ => {}
    }
    let path = checkpoint.join(OPTIMIZER);
    // Read at once: a record from a file is read when it is needed, and the next checkpoint takes
    // the file's place.
    let bytes = fs::read(&path).map_err(at(&path))?;
    let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(bytes)).map_err(at(&path))?;
    trainer.optimizer = trainer.optimizer.load_record(record);
    trainer.step = state.step;
    trainer.held_out_before = state.held_out_before;
    Ok(trainer)
}

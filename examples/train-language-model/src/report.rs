//! What a person, or a program, sees of a run.

use std::error::Error;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use policy_loss_report::{Curves, Report};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::settings::Settings;
use crate::train::{Evaluation, Step};

/// Answers that are shown.
const SHOWN: usize = 6;

/// The reward on questions that the model never trained on.
#[derive(Clone, Copy, Serialize)]
pub struct HeldOut {
    pub questions: usize,
    /// Before the first step of the run.
    pub before: f64,
    /// After the last one.
    pub after: f64,
}

impl HeldOut {
    /// For people.
    pub fn named(&self) -> (String, String) {
        (
            format!(
                "reward on {} questions that it never trained on",
                self.questions
            ),
            format!("{:.3} before, {:.3} after", self.before, self.after),
        )
    }
}

/// The table, or lines of JSON, and the files of a run.
pub struct Log {
    json: bool,
    bar: ProgressBar,
    lines: File,
    path: PathBuf,
}

impl Log {
    /// Opens `steps.jsonl` in the directory of a run, with the lines of the steps before `step`.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn new(out: &Path, step: u64, steps: u64, json: bool) -> Result<Self, Box<dyn Error>> {
        let path = out.join("steps.jsonl");
        let bad = |error: std::io::Error| format!("{}: {error}", path.display());
        let old = match path.exists() && step > 0 {
            true => fs::read_to_string(&path).map_err(bad)?,
            false => String::new(),
        };
        // Steps after the checkpoint are made again.
        let is_before = |line: &&str| {
            let line: Option<Value> = serde_json::from_str(line).ok();
            let number = line.and_then(|line| line["step"].as_u64());
            number.is_some_and(|number| number < step)
        };
        let partial = path.with_extension("partial");
        let kept = old.lines().filter(is_before);
        let kept = kept.map(|line| format!("{line}\n"));
        fs::write(&partial, kept.collect::<String>()).map_err(bad)?;
        fs::rename(&partial, &path).map_err(bad)?;
        let lines = File::options().append(true).open(&path).map_err(bad)?;
        let bar = match json {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(steps),
        };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}  {eta} left");
        let bar = bar.with_style(style.unwrap_or(ProgressStyle::default_bar()));
        bar.set_position(step);
        bar.reset_eta();
        if !json {
            say!(
                "{:>5} {:>7} {:>8} {:>9} {:>10} {:>10} {:>9} {:>9}",
                "step",
                "reward",
                "finished",
                "loss",
                "clip_ratio",
                "rollout_kl",
                "sampled/s",
                "learned/s"
            );
        }
        Ok(Self {
            json,
            bar,
            lines,
            path,
        })
    }

    /// Takes note of a step.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn step(&mut self, step: &Step) -> Result<(), Box<dyn Error>> {
        let per_second = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
        let sampled = per_second(step.sampled, step.sampling_seconds);
        let learned = per_second(step.learned, step.learning_seconds);
        let mut line = Map::new();
        let mut put = |name: &str, value: f64| line.insert(name.into(), json!(value));
        put("reward", step.reward);
        put("finished", step.finished);
        put("loss", step.loss);
        put("sampled_tokens_per_second", sampled);
        put("learned_tokens_per_second", learned);
        put("seconds", step.sampling_seconds + step.learning_seconds);
        for (name, value) in step.metrics.named() {
            if let Some(value) = value {
                put(name, value);
            }
        }
        line.insert("step".into(), json!(step.number));
        let line = Value::from(line).to_string();
        // At once: whoever follows the file reads whole lines.
        self.lines
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        if self.json {
            say!("{line}");
        }
        self.bar.set_message(format!("reward {:.3}", step.reward));
        self.bar.inc(1);
        if !self.json {
            // `suspend` and not `println`, which is silent where there is no terminal.
            self.bar.suspend(|| {
                say!(
                    "{:5} {:7.3} {:8.2} {:9.4} {:10.4} {:10.2e} {sampled:9.1} {learned:9.1}",
                    step.number,
                    step.reward,
                    step.finished,
                    step.loss,
                    step.metrics.clip_ratio,
                    step.metrics.rollout_kl.unwrap_or(0.0),
                );
            });
        }
        Ok(())
    }

    /// Waits until the lines would survive a loss of power, as a checkpoint does.
    ///
    /// # Errors
    ///
    /// The device refuses it.
    pub fn sync(&self) -> Result<(), Box<dyn Error>> {
        let synced = self.lines.sync_data();
        Ok(synced.map_err(|error| format!("{}: {error}", self.path.display()))?)
    }

    /// Shows answers to some questions, and how good those to all of them are.
    pub fn evaluation(&self, when: &str, evaluation: &Evaluation) {
        let shown = evaluation.answers.iter().take(SHOWN);
        if self.json {
            let answers: Vec<_> = shown
                .map(|(question, answer, reward)| json!([question, answer, reward]))
                .collect();
            let line = json!({
                "evaluation": when,
                "reward": evaluation.reward,
                "answers": answers,
            });
            say!("{line}");
            return;
        }
        self.bar.suspend(|| {
            let questions = evaluation.answers.len();
            say!(
                "{when} training, the most probable answers to {questions} questions that are held \
                 out: reward {:.3}",
                evaluation.reward
            );
            for (question, answer, reward) in shown {
                say!("    {question:24} {answer:?} ({reward})");
            }
        });
    }

    /// Draws the curves of the whole run, those of steps before an interruption included, as one
    /// page, and says where it is.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written.
    pub fn finish(
        self,
        settings: &Settings,
        model: &Path,
        held_out: Option<&HeldOut>,
    ) -> Result<PathBuf, Box<dyn Error>> {
        self.bar.finish_and_clear();
        let mut curves = Curves::new();
        let bad = |error: &dyn Display| format!("{}: {error}", self.path.display());
        let lines = fs::read_to_string(&self.path).map_err(|error| bad(&error))?;
        for line in lines.lines() {
            let line: Map<String, Value> =
                serde_json::from_str(line).map_err(|error| bad(&error))?;
            let step = line.get("step").map(Value::to_string).unwrap_or_default();
            let values = line.iter().filter(|(name, _)| *name != "step");
            let values = values.filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
            curves.push(step, values);
        }
        let title = format!(
            "{} learns {:?} of level {}",
            model.display(),
            settings.task,
            settings.level
        );
        let mut report = Report::new(title).with_curves(curves);
        if let Some((name, value)) = held_out.map(HeldOut::named) {
            report = report.with_fact(name, value);
        }
        for (name, value) in settings.named() {
            report = report.with_fact(name, value);
        }
        let path = self.path.with_file_name("report.html");
        // The page of the steps before stays until this one is whole.
        let partial = path.with_extension("partial");
        fs::write(&partial, report.to_html())
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

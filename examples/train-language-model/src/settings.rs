//! What a run is: everything that its numbers depend on.

use std::collections::BTreeMap;
use std::error::Error;

use clap::Args;
use policy_loss::{AdvantagePreset, Preset};

use crate::sampler::Sampling;
use crate::task::Task;

/// A run. Two runs with the same settings, and the same model, give the same numbers.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// What to learn.
    #[arg(long, value_enum, default_value_t = Task::Sum)]
    pub task: Task,
    /// How hard the questions are: at level n, they have n + 1 numbers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub level: u32,
    /// Questions with their answers that a prompt shows first.
    #[arg(long, default_value_t = 0)]
    pub examples: usize,
    /// The objective by its name, such as ppo, grpo, dapo, gspo or cispo.
    #[arg(long, default_value_t = Preset::Grpo)]
    pub preset: Preset,
    /// How answers to a question are compared: grpo, dr_grpo, rloo, ...
    #[arg(long, default_value_t = AdvantagePreset::Grpo)]
    pub advantages: AdvantagePreset,
    /// Learn low-rank adapters (LoRA) of this rank, instead of all weights.
    #[arg(long, value_name = "RANK", value_parser = positive)]
    pub lora: Option<usize>,
    /// Step size of Adam; 1e-5 by default, and 2e-4 with --lora.
    #[arg(long, value_parser = above_zero)]
    pub learning_rate: Option<f64>,
    /// Questions in a step.
    #[arg(long, default_value_t = 16, value_parser = positive)]
    pub questions: usize,
    /// Answers to each question, which are compared with one another.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub answers: usize,
    /// Answers in an update of the weights; all of a step by default.
    #[arg(long, value_parser = positive)]
    pub minibatch: Option<usize>,
    /// How often the answers of a step are learned from.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub epochs: usize,
    /// Answers in a forward and backward pass. It changes memory and speed, and the numbers only by
    /// rounding.
    #[arg(long, default_value_t = 32, value_parser = positive)]
    pub microbatch: usize,
    /// The coefficient of the KL penalty, in the place of the preset's own; 0 leaves the penalty out.
    /// It keeps close to the model as it was, or with `prime_rl` and `prime_rl_ipo` to the sampler.
    #[arg(long, value_name = "COEFFICIENT", value_parser = not_negative)]
    pub kl: Option<f64>,
    /// What the sampler divides logits by.
    #[arg(long, default_value_t = 1.0, value_parser = above_zero)]
    pub temperature: f64,
    /// Sample among so many of the most probable tokens only.
    #[arg(long, value_parser = positive)]
    pub top_k: Option<usize>,
    /// Sample among the most probable tokens only that have this probability together.
    #[arg(long, value_parser = probability)]
    pub top_p: Option<f64>,
    /// Tokens of an answer at most; by default 16, and 4 more for each level above the first.
    #[arg(long, value_parser = positive)]
    pub max_tokens: Option<usize>,
    /// Questions that are kept out of the training, and answered before it and after it. They are
    /// the same whatever the seed; 0 for none.
    #[arg(long, value_name = "QUESTIONS", default_value_t = 32, value_parser = at_most_10_000)]
    pub evaluate: usize,
    /// The same seed gives the same training.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Settings {
    /// How answers are sampled.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            max_tokens: self.max_tokens(),
            may_end: true,
        }
    }

    /// Tokens of an answer at most.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens.unwrap_or(12 + 4 * self.level as usize)
    }

    /// The step size.
    pub fn learning_rate(&self) -> f64 {
        let default = if self.lora.is_some() { 2e-4 } else { 1e-5 };
        self.learning_rate.unwrap_or(default)
    }

    /// Checks what no argument shows alone.
    ///
    /// # Errors
    ///
    /// More answers in an update than in a step, or too few questions to train on.
    pub fn check(&self) -> Result<(), Box<dyn Error>> {
        if let Some(minibatch) = self.minibatch
            && minibatch > self.step()
        {
            return Err(format!(
                "--minibatch {minibatch}: a step has {} answers, --questions times --answers; \
                 accepted: as many at most",
                self.step()
            )
            .into());
        }
        // As many are left to train on.
        let most = self.task.questions(self.level) / 2;
        if self.evaluate as u64 > most {
            return Err(format!(
                "--evaluate {}: at --level {} there are {} questions; accepted: at most half of them, \
                 {most}",
                self.evaluate,
                self.level,
                self.task.questions(self.level)
            )
            .into());
        }
        Ok(())
    }

    /// Answers in a step.
    fn step(&self) -> usize {
        self.questions.saturating_mul(self.answers)
    }

    /// Answers in an update of the weights.
    pub fn minibatch(&self) -> usize {
        self.minibatch.unwrap_or(self.step())
    }

    /// Updates of the weights in a step.
    pub fn updates(&self) -> usize {
        self.epochs
            .saturating_mul(self.step().div_ceil(self.minibatch()))
    }

    /// Every setting by its argument.
    pub fn named(&self) -> BTreeMap<String, String> {
        let optional = |value: Option<String>| value.unwrap_or_else(|| "none".into());
        [
            ("task", format!("{:?}", self.task).to_lowercase()),
            ("level", self.level.to_string()),
            ("examples", self.examples.to_string()),
            ("preset", self.preset.to_string()),
            ("advantages", self.advantages.to_string()),
            ("lora", optional(self.lora.map(|rank| rank.to_string()))),
            ("learning-rate", self.learning_rate().to_string()),
            ("questions", self.questions.to_string()),
            ("answers", self.answers.to_string()),
            ("minibatch", self.minibatch().to_string()),
            ("epochs", self.epochs.to_string()),
            ("microbatch", self.microbatch.to_string()),
            (
                "kl",
                self.kl.map_or("the preset's".into(), |kl| kl.to_string()),
            ),
            ("temperature", self.temperature.to_string()),
            ("top-k", optional(self.top_k.map(|k| k.to_string()))),
            ("top-p", optional(self.top_p.map(|p| p.to_string()))),
            ("max-tokens", self.max_tokens().to_string()),
            ("evaluate", self.evaluate.to_string()),
            ("seed", self.seed.to_string()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .into()
    }
}

pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        // More of anything does not fit into a machine.
        Ok(value @ 1..=1_000_000) => Ok(value),
        _ => Err("accepted: an integer above 0, at most 1000000".into()),
    }
}

fn at_most_10_000(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value @ 0..=10_000) => Ok(value),
        _ => Err("accepted: an integer, at most 10000".into()),
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0, "a finite number above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "a finite number, at least 0")
}

fn probability(text: &str) -> Result<f64, String> {
    let accepted = "a number above 0, at most 1";
    number(text, |value| value > 0.0 && value <= 1.0, accepted)
}

fn number(text: &str, is_accepted: fn(f64) -> bool, accepted: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && is_accepted(value) => Ok(value),
        _ => Err(format!("accepted: {accepted}")),
    }
}

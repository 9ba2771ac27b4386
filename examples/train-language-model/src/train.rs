//! The training loop: sample, grade, and improve the model on what was sampled.

use std::error::Error;
use std::iter;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use policy_loss::{
    AdvantageBatch, AdvantageEstimator, GlobalTotals, KlBase, KlPenalty, LogProbsConfig,
    MetricValues, Objective, PolicyBatch, PolicyLoss, PolicyLossConfig, PolicyLossMetrics,
    Reduction, Sums, Surrogate, TokenLogProbs, presets,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::adapters;
use crate::batch::{Sequence, TokenBatch};
use crate::error::ModelError;
use crate::model::Llama;
use crate::sampler::{Answer, Sampling, sample};
use crate::settings::Settings;
use crate::task::Problem;
use crate::template;
use crate::tokens::Tokenizer;
use crate::weights;

/// The weight that makes up for what sampler and trainer compute differently is held within this
/// range (truncated importance sampling).
const CORRECTION: policy_loss::RolloutCorrection = presets::tis(0.5, 2.0);
/// A stream of random numbers beside those of the steps, which are numbered from 0.
const EXAMPLES: u64 = u64::MAX;
/// What questions are held out with, in every run.
const HELD_OUT: u64 = 0x5eed;

/// A model on its way.
pub struct Trainer {
    pub settings: Settings,
    pub model: Llama,
    pub optimizer: ModuleOptimizer,
    /// Steps that were made.
    pub step: u64,
    /// A digest of the weights of the model as it was, where adapters or a KL penalty rest on them.
    pub base: Option<String>,
    /// The reward on the questions that are held out, before the first step.
    pub held_out_before: Option<f64>,
    /// The model as it was, where a KL penalty asks for it.
    reference: Option<Llama>,
    tokenizer: Tokenizer,
    /// Questions that are never trained on, and not shown as examples.
    held_out: Vec<Problem>,
    examples: Vec<Problem>,
    estimator: AdvantageEstimator,
    loss: PolicyLoss,
    /// Whether an answer with an advantage of 0 passes as well.
    learns_from_all: bool,
    log_probs: TokenLogProbs,
    device: Device,
}

/// What one step did.
pub struct Step {
    pub number: u64,
    /// Mean reward of what was sampled, before the model learned from it.
    pub reward: f64,
    /// Fraction of the answers that ended by themselves.
    pub finished: f64,
    /// Over all answers of the step.
    pub loss: f64,
    /// Of the answers that the model learned from; `valid_tokens` is how many tokens they have,
    /// once for each epoch.
    pub metrics: MetricValues,
    /// Sampled tokens, and how long it took.
    pub sampled: usize,
    pub sampling_seconds: f64,
    /// Tokens that were learned from, those of their prompts included, and how long it took.
    pub learned: usize,
    pub learning_seconds: f64,
}

/// How good the most probable answers are.
pub struct Evaluation {
    pub reward: f64,
    /// Questions, answers and rewards.
    pub answers: Vec<(String, String, f32)>,
}

/// The graded answers of a step.
pub struct Rollout {
    pub experience: Vec<Experience>,
    reward: f64,
    finished: f64,
    sampled: usize,
    sampling_seconds: f64,
    log_prob_seconds: f64,
}

/// A graded answer.
pub struct Experience {
    prompt: Vec<u32>,
    answer: Answer,
    advantage: f32,
    /// Of the model that sampled it, as the trainer computes them; where there is one update only,
    /// the trainer's own take their place.
    old_log_probs: Option<Vec<f32>>,
    ref_log_probs: Option<Vec<f32>>,
}

/// An update of the weights before it is made, or the part of it that fits into memory at once.
pub struct Update {
    pub gradients: GradientsParams,
    /// Of the answers that passed; none where every answer was as good as the others.
    metrics: Option<PolicyLossMetrics>,
    /// Tokens that passed, those of prompts included.
    tokens: usize,
}

impl Trainer {
    /// A trainer of the model in `directory`, or of what it had become in `checkpoint`.
    ///
    /// # Errors
    ///
    /// The model cannot be read, or the settings have no meaning.
    pub fn new(
        directory: &Path,
        checkpoint: Option<&Path>,
        settings: Settings,
        device: &Device,
    ) -> Result<Self, Box<dyn Error>> {
        settings.check()?;
        template::check(directory)?;
        let loss = objective(&settings).init()?;
        let objective = &loss.config().objective;
        // The limit of a second moment is known when all log-probs are.
        let is_of_parts =
            objective.is_exact_over_shards() && !objective.surrogate.reads_second_moment();
        if !is_of_parts && settings.microbatch < settings.minibatch() {
            return Err(format!(
                "--microbatch {}: the objective of --preset {} has a statistic of all answers of an \
                 update, whose parts would be another objective; accepted: --microbatch {} or more",
                settings.microbatch,
                settings.preset,
                settings.minibatch()
            )
            .into());
        }
        let learns_from_all = learns_from_all(objective);
        // A penalty against the sampler needs no second model.
        let penalty = objective.kl_penalty;
        let needs_reference = penalty.is_some_and(|penalty| penalty.against == KlBase::Reference);
        let log_probs = LogProbsConfig::new().with_temperature(settings.temperature);

        let (base, digest) = match settings.lora.is_some() || needs_reference {
            true => Some(weights::load_with_digest(directory, device)?).unzip(),
            false => (None, None),
        };
        let mut model = match (checkpoint, settings.lora, &base) {
            (Some(checkpoint), None, _) => weights::load(checkpoint, device)?,
            (_, _, Some(base)) => base.clone(),
            (_, _, None) => weights::load(directory, device)?,
        };
        let tokenizer = Tokenizer::load(directory, model.config())?;
        // The prompts show that answers end so; a base model's configuration need not say it.
        if let Some(id) = tokenizer.id(template::END) {
            model.add_end_token(id);
        }
        let reference = base.filter(|_| needs_reference);
        device.seed(settings.seed);
        if let Some(rank) = settings.lora {
            let width = model.config().hidden_size;
            if rank > width {
                return Err(format!(
                    "--lora {rank}: the model has a width of {width}; accepted: as much at most"
                )
                .into());
            }
            model = adapters::attach(model, rank);
            if let Some(checkpoint) = checkpoint {
                model = weights::load_adapters(model, checkpoint, device)?;
            }
        }
        let mut trainer = Self {
            model: adapters::numbered(model).train(),
            reference,
            tokenizer,
            held_out: held_out(&settings),
            examples: Vec::new(),
            estimator: settings.advantages.config().init()?,
            loss,
            learns_from_all,
            log_probs: log_probs.init()?,
            optimizer: AdamConfig::new()
                .with_beta_2(0.95)
                .with_epsilon(1e-8)
                .init(),
            step: 0,
            base: digest,
            held_out_before: None,
            device: device.clone(),
            settings,
        };
        trainer.examples = trainer.draw(trainer.settings.examples, EXAMPLES);
        // What the estimator lacks is said before anything is sampled.
        trainer.advantages(&[1, 1], &[0.0, 1.0], 2)?;
        Ok(trainer)
    }

    /// One step: answers of the model as it is, then one update or several on them.
    ///
    /// # Errors
    ///
    /// The loss refuses the batch, or the device fails.
    pub fn step(&mut self) -> Result<Step, Box<dyn Error>> {
        // Other numbers than those that the questions were drawn with.
        let mut rng = self.rng(self.step);
        rng.set_word_pos(1 << 32);
        let rollout = self.rollout(&mut rng)?;
        let start = Instant::now();
        let (sums, tokens) = self.learn(&rollout.experience, &mut rng)?;
        let objective = &self.loss.config().objective;
        let reduction = objective.reduction;
        // Over all answers, those that did not pass included, once for each epoch. A mean over
        // prompts is refused: the totals say nothing of them.
        let epochs = self.settings.epochs as f64;
        let count = reduction.count(
            epochs * rollout.sampled as f64,
            epochs * rollout.experience.len() as f64,
            sums.valid_prompts,
        );
        let step = Step {
            number: self.step,
            reward: rollout.reward,
            finished: rollout.finished,
            loss: sums.loss / count,
            metrics: MetricValues::of(&sums, objective),
            sampled: rollout.sampled,
            sampling_seconds: rollout.sampling_seconds,
            learned: tokens,
            learning_seconds: rollout.log_prob_seconds + start.elapsed().as_secs_f64(),
        };
        self.step += 1;
        Ok(step)
    }

    /// Graded answers of the model as it is.
    ///
    /// # Errors
    ///
    /// The device fails.
    pub fn rollout(&self, rng: &mut ChaCha8Rng) -> Result<Rollout, Box<dyn Error>> {
        let start = Instant::now();
        let problems = self.draw(self.settings.questions, self.step);
        // Outside autodiff: whatever is sampled is a constant of the objective.
        let policy = self.model.valid().materialize();
        let prompts = self.prompts(&problems)?;
        let (each, sampling) = (self.settings.answers, self.settings.sampling());
        let answers = sample(&policy, &prompts, each, &sampling, &self.device, rng)?;
        let rewards = self.rewards(&problems, &answers)?;
        let sampling_seconds = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let sampled = answers.iter().map(|answer| answer.tokens.len()).sum();
        let finished = answers.iter().filter(|answer| answer.is_finished).count();
        let finished = finished as f64 / answers.len() as f64;
        let mut experience = self.experience(&prompts, answers, &rewards)?;
        self.add_log_probs(&policy, &mut experience)?;
        Ok(Rollout {
            experience,
            reward: mean(&rewards),
            finished,
            sampled,
            sampling_seconds,
            log_prob_seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The most probable answers to the questions that are held out; none where there are none.
    ///
    /// # Errors
    ///
    /// The device fails.
    pub fn evaluate(&self) -> Result<Option<Evaluation>, Box<dyn Error>> {
        let problems = &self.held_out;
        if problems.is_empty() {
            return Ok(None);
        }
        let sampling = Sampling {
            temperature: 0.0,
            ..self.settings.sampling()
        };
        let policy = self.model.valid().materialize();
        // At temperature 0 nothing is drawn.
        let mut rng = self.rng(0);
        let prompts = self.prompts(problems)?;
        // No more at a time than in a step, which the memory has room for.
        let together = self.settings.questions * self.settings.answers;
        let mut answers = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(together.max(1)) {
            answers.extend(sample(
                &policy,
                prompts,
                1,
                &sampling,
                &self.device,
                &mut rng,
            )?);
        }
        let rewards = self.rewards(problems, &answers)?;
        let texts = answers
            .iter()
            .map(|answer| self.tokenizer.decode(&answer.tokens));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let questions = problems.iter().map(Problem::question);
        Ok(Some(Evaluation {
            reward: mean(&rewards),
            answers: questions
                .zip(texts)
                .zip(rewards)
                .map(|((question, text), reward)| (question, text, reward))
                .collect(),
        }))
    }

    /// Random numbers that depend on the seed and on `stream` alone, so that a run which was
    /// interrupted goes on with the same.
    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(stream);
        rng
    }

    /// Questions to train on, with the random numbers of a stream.
    pub fn draw(&self, questions: usize, stream: u64) -> Vec<Problem> {
        let mut rng = self.rng(stream);
        let Settings { task, level, .. } = self.settings;
        iter::repeat_with(|| task.draw(level, &mut rng))
            .filter(|problem| !is_among(&self.held_out, problem))
            .take(questions)
            .collect()
    }

    fn prompts(&self, problems: &[Problem]) -> Result<Vec<Vec<u32>>, ModelError> {
        let task = self.settings.task;
        let prompt = |problem: &Problem| {
            // The question is not among those that are answered before.
            let others = self.examples.iter();
            let others: Vec<_> = others.filter(|it| !it.asks_the_same(problem)).collect();
            task.prompt(problem, &others, &self.tokenizer)
        };
        problems.iter().map(prompt).collect()
    }

    /// An answer that did not end is not graded: it is worth nothing.
    fn rewards(
        &self,
        problems: &[Problem],
        answers: &[Answer],
    ) -> Result<Vec<f32>, Box<dyn Error>> {
        let each = answers.len() / problems.len().max(1);
        let graded = answers.iter().enumerate().map(|(index, answer)| {
            if !answer.is_finished {
                return Ok(0.0);
            }
            let text = self.tokenizer.decode(&answer.tokens)?;
            Ok(problems[index / each].reward(&text))
        });
        graded.collect()
    }

    fn experience(
        &self,
        prompts: &[Vec<u32>],
        answers: Vec<Answer>,
        rewards: &[f32],
    ) -> Result<Vec<Experience>, Box<dyn Error>> {
        let lengths: Vec<usize> = answers.iter().map(|answer| answer.tokens.len()).collect();
        let advantages = self.advantages(&lengths, rewards, self.settings.answers)?;
        let all = answers.into_iter().zip(advantages).enumerate();
        let all = all.map(|(index, (answer, advantage))| Experience {
            prompt: prompts[index / self.settings.answers].clone(),
            answer,
            advantage,
            old_log_probs: None,
            ref_log_probs: None,
        });
        Ok(all.collect())
    }

    /// The advantage of each answer, of which `each` belong to one question.
    fn advantages(
        &self,
        lengths: &[usize],
        rewards: &[f32],
        each: usize,
    ) -> Result<Vec<f32>, Box<dyn Error>> {
        let groups: Vec<i64> = (0..lengths.len())
            .map(|index| (index / each) as i64)
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let valid = lengths
            .iter()
            .flat_map(|length| (0..longest).map(move |column| column < *length));
        let valid = TensorData::new(valid.collect::<Vec<bool>>(), [lengths.len(), longest]);
        let graded = AdvantageBatch::new(Tensor::<1>::from_floats(rewards, &self.device))
            .with_group_ids(groups)
            .with_action_mask(Tensor::from_data(valid, &self.device));
        // The same for every token of an answer, of which there is at least one.
        let advantages = self.estimator.forward(graded)?.advantages;
        Ok(advantages.narrow(1, 0, 1).try_into_vec_as::<f32>()?)
    }

    /// Where an answer that is as good as the others has no gradient, it counts in the totals and
    /// is left out of the passes.
    fn is_learned(&self, experience: &Experience) -> bool {
        experience.advantage != 0.0 || self.learns_from_all
    }

    fn add_log_probs(
        &self,
        policy: &Llama,
        experience: &mut [Experience],
    ) -> Result<(), Box<dyn Error>> {
        let learned = experience.iter_mut().filter(|one| self.is_learned(one));
        let mut learned: Vec<_> = learned.collect();
        for micro in learned.chunks_mut(self.settings.microbatch) {
            let sequences: Vec<_> = micro.iter().map(|one| one.sequence()).collect();
            let batch = TokenBatch::new(&sequences, &self.device);
            if self.settings.updates() > 1 {
                let rows = batch.log_prob_rows(policy, &self.log_probs)?;
                for (one, row) in micro.iter_mut().zip(rows) {
                    one.old_log_probs = Some(row);
                }
            }
            if let Some(reference) = &self.reference {
                let rows = batch.log_prob_rows(reference, &self.log_probs)?;
                for (one, row) in micro.iter_mut().zip(rows) {
                    one.ref_log_probs = Some(row);
                }
            }
        }
        Ok(())
    }

    /// Updates the weights, and gives the sums over the answers that passed and how many tokens they
    /// and their prompts have.
    fn learn(
        &mut self,
        experience: &[Experience],
        rng: &mut ChaCha8Rng,
    ) -> Result<(Sums, usize), Box<dyn Error>> {
        let (mut metrics, mut tokens) = (None, 0);
        // Answers to a question stay together: they share its prompt.
        let mut groups: Vec<_> = experience.chunks(self.settings.answers).collect();
        for _ in 0..self.settings.epochs {
            groups.shuffle(rng);
            let order: Vec<&Experience> = groups.iter().copied().flatten().collect();
            for minibatch in order.chunks(self.settings.minibatch()) {
                let update = self.update(minibatch)?;
                if update.metrics.is_none() {
                    continue;
                }
                tokens += update.tokens;
                metrics = merged(metrics, update.metrics)?;
                let learning_rate = self.settings.learning_rate();
                let model = self.model.clone();
                self.model = self.optimizer.step(learning_rate, model, update.gradients);
            }
        }
        let sums = match metrics {
            Some(metrics) => metrics.sums()?,
            // Every answer was as good as the others to its question.
            None => Sums::default(),
        };
        Ok((sums, tokens))
    }

    /// The gradient of these answers, made of parts that fit into memory.
    ///
    /// # Errors
    ///
    /// The loss refuses the batch.
    pub fn update(&self, minibatch: &[&Experience]) -> Result<Update, Box<dyn Error>> {
        let lengths = minibatch.iter().map(|one| one.answer.tokens.len());
        let totals = GlobalTotals::new()
            .with_tokens(lengths.sum())
            .with_sequences(minibatch.len());
        let learned = minibatch.iter().copied().filter(|one| self.is_learned(one));
        let learned: Vec<_> = learned.collect();
        let mut gradients = GradientsAccumulator::new();
        let (mut metrics, mut tokens) = (None, 0);
        for micro in learned.chunks(self.settings.microbatch) {
            let share = self.share(micro, totals)?;
            gradients.accumulate(&self.model, share.gradients);
            metrics = merged(metrics, share.metrics)?;
            tokens += share.tokens;
        }
        Ok(Update {
            gradients: gradients.grads(),
            metrics,
            tokens,
        })
    }

    /// What these answers are of the minibatch: this is where the policy loss is.
    fn share(&self, micro: &[&Experience], totals: GlobalTotals) -> Result<Update, Box<dyn Error>> {
        let device = self.device.clone().autodiff();
        let sequences: Vec<_> = micro.iter().map(|one| one.sequence()).collect();
        let tokens = TokenBatch::new(&sequences, &device);
        let (hidden, answers) = tokens.answers(&self.model);
        let [_, columns] = answers.dims();
        let padded = |row: fn(&Experience) -> Option<&Vec<f32>>| -> Option<Tensor<2>> {
            let mut values = Vec::with_capacity(micro.len() * columns);
            for (index, one) in micro.iter().enumerate() {
                values.extend(row(one)?.iter().take(columns));
                values.resize((index + 1) * columns, 0.0);
            }
            let data = TensorData::new(values, [micro.len(), columns]);
            Some(Tensor::from_data(data, &device))
        };
        let advantages: Vec<f32> = micro.iter().map(|one| one.advantage).collect();
        let advantages = Tensor::<1>::from_floats(&advantages[..], &device);
        let rollout = padded(|one| Some(&one.answer.log_probs)).ok_or("a rollout has log-probs")?;
        let batch = match padded(|one| one.old_log_probs.as_ref()) {
            Some(old) => PolicyBatch::without_log_probs(old, advantages),
            None => PolicyBatch::on_policy_without_log_probs(advantages),
        };
        let mut batch = batch
            .with_action_mask(tokens.action_mask.clone())
            .with_rollout_log_probs(rollout);
        let objective = &self.loss.config().objective;
        if !objective.surrogate.reads_second_moment() {
            // Else this is all of the update.
            batch = batch.with_totals(totals);
        }
        if let Some(reference) = padded(|one| one.ref_log_probs.as_ref()) {
            batch = batch.with_ref_log_probs(reference);
        }
        let head = self.model.head();
        let output = self
            .loss
            .forward_linear(&self.log_probs, hidden, &head, answers, batch)?;
        let gradients = output.loss.backward();
        Ok(Update {
            gradients: GradientsParams::from_grads(gradients, &self.model),
            metrics: Some(output.metrics),
            tokens: tokens.length,
        })
    }
}

impl Experience {
    fn sequence(&self) -> Sequence<'_> {
        Sequence {
            prompt: &self.prompt,
            answer: &self.answer.tokens,
        }
    }
}

/// Questions that differ from one another, the same whatever the seed of the run.
fn held_out(settings: &Settings) -> Vec<Problem> {
    let mut rng = ChaCha8Rng::seed_from_u64(HELD_OUT);
    let mut problems = Vec::with_capacity(settings.evaluate);
    while problems.len() < settings.evaluate {
        let problem = settings.task.draw(settings.level, &mut rng);
        if !is_among(&problems, &problem) {
            problems.push(problem);
        }
    }
    problems
}

fn is_among(problems: &[Problem], problem: &Problem) -> bool {
    problems.iter().any(|other| other.asks_the_same(problem))
}

/// The objective that the settings ask for.
fn objective(settings: &Settings) -> PolicyLossConfig {
    let mut config = settings.preset.config();
    if !config.objective.corrects_mismatch() {
        config = config.with_rollout_correction(CORRECTION);
    }
    // Answers are as long as the sampler allows, whatever the preset was written for.
    if let Reduction::FixedLength { .. } = config.objective.reduction {
        let length = settings.max_tokens();
        config = config.with_reduction(Reduction::FixedLength { length });
    }
    let penalty = match (settings.kl, config.objective.kl_penalty) {
        (None, penalty) => penalty,
        (Some(0.0), _) => None,
        (Some(coefficient), penalty) => Some(KlPenalty {
            coefficient,
            ..penalty.unwrap_or(KlPenalty::new(coefficient))
        }),
    };
    config.objective.kl_penalty = penalty;
    config
}

/// Whether an answer takes part that is as good as the others: where its advantage of 0 is not
/// all that multiplies the gradient, or where statistics of the batch take it in.
fn learns_from_all(objective: &Objective) -> bool {
    let is_proportional_to_advantage = matches!(
        objective.surrogate,
        Surrogate::Clip(_)
            | Surrogate::PolicyGradient(_)
            | Surrogate::SigmoidGate(_)
            | Surrogate::GeometricMean(_)
            | Surrogate::GammaWeight(_)
            | Surrogate::TrustRegion(_)
            | Surrogate::DynamicClip(_)
            | Surrogate::GradientPreservingClip(_)
    );
    !is_proportional_to_advantage
        || !objective.is_exact_over_shards()
        || objective.entropy_mask.is_some()
        || objective.kl_penalty.is_some()
        || objective.entropy_bonus.is_some()
}

/// Those of two parts together.
fn merged(
    metrics: Option<PolicyLossMetrics>,
    more: Option<PolicyLossMetrics>,
) -> Result<Option<PolicyLossMetrics>, Box<dyn Error>> {
    Ok(match (metrics, more) {
        (Some(metrics), Some(more)) => Some(metrics.merge(&more)?),
        (metrics, more) => metrics.or(more),
    })
}

fn mean(values: &[f32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64
}

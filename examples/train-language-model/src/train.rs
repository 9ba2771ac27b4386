//! The training loop: sample, grade, and improve the model on what was sampled.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use policy_loss::{
    AdvantageBatch, AdvantageEstimator, GlobalTotals, KlPenalty, LogProbsConfig, MetricValues,
    PolicyBatch, PolicyLoss, PolicyLossMetrics, Sums, TokenLogProbs, presets,
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
use crate::tokens::Tokenizer;
use crate::weights;

/// The weight that makes up for what sampler and trainer compute differently is held within this
/// range (truncated importance sampling).
const CORRECTION: policy_loss::RolloutCorrection = presets::tis(0.5, 2.0);
/// Streams of random numbers beside those of the steps, which are numbered from 0.
const EXAMPLES: u64 = u64::MAX;
const EVALUATION: u64 = u64::MAX - 1;

/// A model on its way.
pub struct Trainer {
    pub settings: Settings,
    pub model: Llama,
    pub optimizer: ModuleOptimizer,
    /// Steps that were made.
    pub step: u64,
    /// The model as it was, where a KL penalty asks for it.
    reference: Option<Llama>,
    tokenizer: Tokenizer,
    examples: Vec<Problem>,
    estimator: AdvantageEstimator,
    loss: PolicyLoss,
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
    pub loss: f64,
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

/// A graded answer.
struct Experience {
    prompt: Vec<u32>,
    answer: Answer,
    advantage: f32,
    /// Of the model that sampled it, as the trainer computes them; where there is one update only,
    /// the trainer's own take their place.
    old_log_probs: Option<Vec<f32>>,
    ref_log_probs: Option<Vec<f32>>,
}

/// The part of a minibatch that fits into memory at once.
struct Share {
    gradients: GradientsParams,
    metrics: PolicyLossMetrics,
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
        settings.sampling().check()?;
        let mut config = settings.preset.config();
        if config.objective.rollout_correction.is_none() {
            config = config.with_rollout_correction(CORRECTION);
        }
        if settings.kl > 0.0 {
            config = config.with_kl_penalty(KlPenalty::new(settings.kl));
        }
        let loss = config.init()?;
        let log_probs = LogProbsConfig::new().with_temperature(settings.temperature);

        let trained = match (checkpoint, settings.lora) {
            (Some(checkpoint), None) => checkpoint,
            _ => directory,
        };
        let mut model = weights::load(trained, device)?;
        let tokenizer = Tokenizer::load(directory, model.config())?;
        let reference = match (settings.kl > 0.0, trained == directory) {
            (false, _) => None,
            (true, true) => Some(model.clone()),
            (true, false) => Some(weights::load(directory, device)?),
        };
        device.seed(settings.seed);
        if let Some(rank) = settings.lora {
            model = adapters::attach(model, rank);
            if let Some(checkpoint) = checkpoint {
                model = weights::load_adapters(model, checkpoint, device)?;
            }
        }
        let mut trainer = Self {
            model: adapters::numbered(model).train(),
            reference,
            tokenizer,
            examples: Vec::new(),
            estimator: settings.advantages.config().init()?,
            loss,
            log_probs: log_probs.init()?,
            optimizer: AdamConfig::new()
                .with_beta_2(0.95)
                .with_epsilon(1e-8)
                .init(),
            step: 0,
            device: device.clone(),
            settings,
        };
        trainer.examples = trainer.draw(trainer.settings.examples, EXAMPLES);
        Ok(trainer)
    }

    /// One step: answers of the model as it is, then one update or several on them.
    ///
    /// # Errors
    ///
    /// The loss refuses the batch, or the device fails.
    pub fn step(&mut self) -> Result<Step, Box<dyn Error>> {
        let start = Instant::now();
        let problems = self.draw(self.settings.questions, self.step);
        // Other numbers than those that the questions were drawn with.
        let mut rng = self.rng(self.step);
        rng.set_word_pos(1 << 32);
        // Outside autodiff: whatever is sampled is a constant of the objective.
        let policy = self.model.valid().materialize();
        let prompts = self.prompts(&problems)?;
        let (each, sampling) = (self.settings.answers, self.settings.sampling());
        let answers = sample(&policy, &prompts, each, &sampling, &self.device, &mut rng)?;
        let rewards = self.rewards(&problems, &answers)?;
        let sampling_seconds = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let sampled = answers.iter().map(|answer| answer.tokens.len()).sum();
        let finished = answers.iter().filter(|answer| answer.is_finished).count();
        let finished = finished as f64 / answers.len() as f64;
        let mut experience = self.experience(&prompts, answers, &rewards)?;
        self.add_log_probs(&policy, &mut experience)?;
        drop(policy);
        let (sums, learned) = self.learn(&experience, &mut rng)?;
        let objective = &self.loss.config().objective;
        let step = Step {
            number: self.step,
            reward: mean(&rewards),
            finished,
            loss: sums.mean_loss(objective),
            metrics: MetricValues::of(&sums, objective),
            sampled,
            sampling_seconds,
            learned,
            learning_seconds: start.elapsed().as_secs_f64(),
        };
        self.step += 1;
        Ok(step)
    }

    /// The most probable answers to questions that are the same in every run with the same seed.
    ///
    /// # Errors
    ///
    /// The device fails.
    pub fn evaluate(&self, questions: usize) -> Result<Evaluation, Box<dyn Error>> {
        let problems = self.draw(questions, EVALUATION);
        let sampling = Sampling {
            temperature: 0.0,
            ..self.settings.sampling()
        };
        let policy = self.model.valid().materialize();
        let mut rng = self.rng(EVALUATION);
        let prompts = self.prompts(&problems)?;
        let answers = sample(&policy, &prompts, 1, &sampling, &self.device, &mut rng)?;
        let rewards = self.rewards(&problems, &answers)?;
        let texts = answers
            .iter()
            .map(|answer| self.tokenizer.decode(&answer.tokens));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let questions = problems.iter().map(Problem::question);
        Ok(Evaluation {
            reward: mean(&rewards),
            answers: questions
                .zip(texts)
                .zip(rewards)
                .map(|((question, text), reward)| (question, text, reward))
                .collect(),
        })
    }

    /// Random numbers that depend on the seed and on `stream` alone, so that a run which was
    /// interrupted goes on with the same.
    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(stream);
        rng
    }

    fn draw(&self, questions: usize, stream: u64) -> Vec<Problem> {
        let mut rng = self.rng(stream);
        let Settings { task, level, .. } = self.settings;
        (0..questions).map(|_| task.draw(level, &mut rng)).collect()
    }

    fn prompts(&self, problems: &[Problem]) -> Result<Vec<Vec<u32>>, ModelError> {
        let task = self.settings.task;
        let prompt = |problem| task.prompt(problem, &self.examples, &self.tokenizer);
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
        let groups: Vec<i64> = (0..answers.len())
            .map(|index| (index / self.settings.answers) as i64)
            .collect();
        let longest = answers.iter().map(|answer| answer.tokens.len()).max();
        let valid = answers.iter().flat_map(|answer| {
            (0..longest.unwrap_or(0)).map(move |column| column < answer.tokens.len())
        });
        let shape = [answers.len(), longest.unwrap_or(0)];
        let valid = TensorData::new(valid.collect::<Vec<bool>>(), shape);
        let rewards = Tensor::<1>::from_floats(rewards, &self.device);
        let graded = AdvantageBatch::new(rewards)
            .with_group_ids(groups)
            .with_action_mask(Tensor::from_data(valid, &self.device));
        // The same for every token of an answer, of which there is at least one.
        let advantages = self.estimator.forward(graded)?.advantages;
        let advantages = advantages.narrow(1, 0, 1).try_into_vec_as::<f32>()?;
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

    /// An answer that is as good as the others has no gradient where nothing else is in the loss.
    /// It counts in the totals, and is left out of the passes.
    fn is_learned(&self, experience: &Experience) -> bool {
        experience.advantage != 0.0 || self.settings.kl > 0.0
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
                let rows = self.log_probs_of(policy, &batch)?;
                for (one, row) in micro.iter_mut().zip(rows) {
                    one.old_log_probs = Some(row);
                }
            }
            if let Some(reference) = &self.reference {
                let rows = self.log_probs_of(reference, &batch)?;
                for (one, row) in micro.iter_mut().zip(rows) {
                    one.ref_log_probs = Some(row);
                }
            }
        }
        Ok(())
    }

    fn log_probs_of(
        &self,
        model: &Llama,
        batch: &TokenBatch,
    ) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
        let (hidden, targets) = batch.answers(model);
        let mask = Some(batch.action_mask.clone());
        let output = self
            .log_probs
            .forward_linear(hidden, &model.head(), targets, mask)?;
        let [_, columns] = output.log_probs.dims();
        let values = output.log_probs.try_into_vec_as::<f32>()?;
        Ok(values.chunks(columns).map(<[f32]>::to_vec).collect())
    }

    /// Updates the weights; gives back the sums of the metrics, and the tokens that passed.
    fn learn(
        &mut self,
        experience: &[Experience],
        rng: &mut ChaCha8Rng,
    ) -> Result<(Sums, usize), Box<dyn Error>> {
        let mut metrics: Option<PolicyLossMetrics> = None;
        let mut tokens = 0;
        // Answers to a question stay together: they share its prompt.
        let mut groups: Vec<_> = experience.chunks(self.settings.answers).collect();
        for _ in 0..self.settings.epochs {
            groups.shuffle(rng);
            let order: Vec<&Experience> = groups.iter().copied().flatten().collect();
            for minibatch in order.chunks(self.settings.minibatch()) {
                let lengths = minibatch.iter().map(|one| one.answer.tokens.len());
                let totals = GlobalTotals::new()
                    .with_tokens(lengths.sum())
                    .with_sequences(minibatch.len());
                let learned = minibatch.iter().copied().filter(|one| self.is_learned(one));
                let learned: Vec<_> = learned.collect();
                if learned.is_empty() {
                    continue;
                }
                let mut gradients = GradientsAccumulator::new();
                for micro in learned.chunks(self.settings.microbatch) {
                    let share = self.share(micro, totals)?;
                    gradients.accumulate(&self.model, share.gradients);
                    metrics = Some(match metrics {
                        Some(metrics) => metrics.merge(&share.metrics)?,
                        None => share.metrics,
                    });
                    tokens += share.tokens;
                }
                let learning_rate = self.settings.learning_rate();
                let model = self.model.clone();
                self.model = self.optimizer.step(learning_rate, model, gradients.grads());
            }
        }
        let sums = match metrics {
            Some(metrics) => metrics.sums()?,
            // Every answer was as good as the others to its question.
            None => Sums::default(),
        };
        Ok((sums, tokens))
    }

    /// What these answers are of the minibatch: this is where the policy loss is.
    fn share(&self, micro: &[&Experience], totals: GlobalTotals) -> Result<Share, Box<dyn Error>> {
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
            // The log-probs are replaced by those of the hidden states.
            None => PolicyBatch::on_policy(rollout.clone(), advantages),
        };
        let mut batch = batch
            .with_action_mask(tokens.action_mask.clone())
            .with_rollout_log_probs(rollout)
            .with_totals(totals);
        if let Some(reference) = padded(|one| one.ref_log_probs.as_ref()) {
            batch = batch.with_ref_log_probs(reference);
        }
        let head = self.model.head();
        let output = self
            .loss
            .forward_linear(&self.log_probs, hidden, &head, answers, batch)?;
        let gradients = output.loss.backward();
        Ok(Share {
            gradients: GradientsParams::from_grads(gradients, &self.model),
            metrics: output.metrics,
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

fn mean(values: &[f32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64
}

//! A rollout: graded answers, and everything that the policy loss needs to learn from them.

use std::error::Error;

use burn::module::Module;
use burn::tensor::{Bool, Device, Element, Int, Tensor, TensorData};
use policy_loss::{AdvantageBatch, AdvantageEstimator, LogProbsTokens, TokenLogProbs};
use rand::Rng;

use crate::model::Policy;
use crate::sampler::{Answer, rounded, sample, sequences};
use crate::task::{ANSWER_LENGTH, PROMPT_LENGTH, Prompt, reward};

/// `B` sequences with `T` columns for the answer.
pub struct Rollout {
    /// Prompt and answer, `[B, PROMPT_LENGTH + T]`.
    pub tokens: Tensor<2, Int>,
    /// True where the policy generated a token, up to and including `END`: `[B, T]`.
    pub action_mask: Tensor<2, Bool>,
    /// As the sampler computed them, from rounded weights: `[B, T]`.
    pub rollout_log_probs: Tensor<2>,
    /// As the trainer computes them, from the weights themselves: `[B, T]`.
    pub old_log_probs: Tensor<2>,
    /// Rewards, compared with those of the other answers to the same prompt: `[B, 1]`.
    pub advantages: Tensor<2>,
}

impl Rollout {
    /// Samples `group_size` answers to each prompt and grades them. Returns the mean reward too.
    ///
    /// Sampler and trainer disagree a little about the log-probs, although nothing was learned in
    /// between, because the sampler's weights are rounded. That is the mismatch which a rollout
    /// correction makes up for.
    ///
    /// # Errors
    ///
    /// The device failed to deliver what was sampled, or the library refuses what was made of it.
    pub fn new(
        policy: &Policy,
        log_probs: &TokenLogProbs,
        estimator: &AdvantageEstimator,
        prompts: &[Prompt],
        group_size: usize,
        device: &Device,
        rng: &mut impl Rng,
    ) -> Result<(Self, f64), Box<dyn Error>> {
        // Outside autodiff: whatever a rollout computes is a constant of the objective.
        let trainer = policy.valid();
        // Answers to one prompt stand side by side.
        let groups: Vec<i64> = (0..prompts.len() * group_size)
            .map(|answer| (answer / group_size) as i64)
            .collect();
        let prompts: Vec<_> = prompts.iter().flat_map(|p| vec![p; group_size]).collect();
        let answers = sample(&rounded(&trainer), &prompts, device, rng)?;

        let rewards: Vec<f32> = prompts
            .iter()
            .zip(&answers)
            .map(|(prompt, answer)| reward(prompt, &answer.tokens))
            .collect();
        let tokens = sequences(&prompts, &answers, PROMPT_LENGTH + ANSWER_LENGTH, device);
        let action_mask = Tensor::from_data(
            padded(&answers, |answer| vec![true; answer.tokens.len()]),
            device,
        );
        let (hidden, targets) = trainer.answers(tokens.clone());
        let mask = Some(action_mask.clone());
        let graded = AdvantageBatch::new(Tensor::<1>::from_data(&rewards[..], device));
        let rollout = Self {
            old_log_probs: log_probs
                .forward_linear(
                    hidden,
                    &trainer.head(),
                    LogProbsTokens::new(targets).with_action_mask(mask),
                )?
                .log_probs,
            tokens,
            action_mask,
            rollout_log_probs: Tensor::from_data(
                padded(&answers, |answer| answer.log_probs.clone()),
                device,
            ),
            advantages: estimator.forward(graded.with_group_ids(groups))?.advantages,
        };
        Ok((rollout, f64::from(mean(&rewards))))
    }

    /// The sequences with these indices, as a batch of their own.
    pub fn select(&self, indices: &[i32]) -> Self {
        let indices = Tensor::<1, Int>::from_data(indices, &self.tokens.device());
        Self {
            tokens: self.tokens.clone().select(0, indices.clone()),
            action_mask: self.action_mask.clone().select(0, indices.clone()),
            rollout_log_probs: self.rollout_log_probs.clone().select(0, indices.clone()),
            old_log_probs: self.old_log_probs.clone().select(0, indices.clone()),
            advantages: self.advantages.clone().select(0, indices),
        }
    }
}

/// One row per answer, filled up with zeros on the right: `[B, T]`.
fn padded<E: Element + Default>(answers: &[Answer], row: impl Fn(&Answer) -> Vec<E>) -> TensorData {
    let mut values = Vec::with_capacity(answers.len() * ANSWER_LENGTH);
    for answer in answers {
        let mut row = row(answer);
        row.resize(ANSWER_LENGTH, E::default());
        values.extend(row);
    }
    TensorData::new(values, [answers.len(), ANSWER_LENGTH])
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

//! The training loop: sample, grade, and improve the policy on what was sampled.

use std::error::Error;

use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use policy_loss::{
    LogProbsConfig, PolicyBatch, PolicyLoss, PolicyLossConfig, PolicyLossValues, TokenLogProbs,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::model::Policy;
use crate::rollout::Rollout;
use crate::task::{Prompt, draw_prompt};

/// Prompts per iteration.
const PROMPTS: usize = 32;
/// Answers to each prompt; their rewards are compared with one another.
const GROUP_SIZE: usize = 16;
/// How often each rollout is learned from.
const EPOCHS: usize = 2;
/// Sequences per optimiser step. Several steps on one rollout move the policy away from the one
/// that sampled it, which is why the ratio exists and has to be clipped.
const MINIBATCH: usize = 128;

/// A policy on its way.
pub struct Trainer {
    device: Device,
    policy: Policy,
    loss: PolicyLoss,
    log_probs: TokenLogProbs,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    rng: ChaCha8Rng,
}

/// What one iteration did: the reward before it, and the means over its optimiser steps.
#[derive(Clone, Copy, Default)]
pub struct Iteration {
    /// Mean reward of the rollout.
    pub reward: f64,
    pub loss: f64,
    pub clip_ratio: f64,
    pub ppo_kl: f64,
    pub rollout_kl: f64,
    /// Smallest ratio of all steps.
    pub ratio_min: f64,
    /// Largest ratio of all steps.
    pub ratio_max: f64,
}

impl Trainer {
    /// A trainer of a policy with random weights.
    ///
    /// # Errors
    ///
    /// The configuration of the loss has no meaning.
    pub fn new(
        device: &Device,
        loss: &PolicyLossConfig,
        learning_rate: f64,
        seed: u64,
    ) -> Result<Self, Box<dyn Error>> {
        device.seed(seed);
        Ok(Self {
            policy: Policy::new(&device.clone().autodiff()),
            device: device.clone(),
            loss: loss.init()?,
            log_probs: LogProbsConfig::new().init()?,
            optimizer: AdamConfig::new().init(),
            learning_rate,
            rng: ChaCha8Rng::seed_from_u64(seed),
        })
    }

    /// One iteration: a rollout of the policy as it is, then several optimiser steps on it.
    ///
    /// # Errors
    ///
    /// The loss refuses the batch, or the device fails.
    pub fn iterate(&mut self) -> Result<Iteration, Box<dyn Error>> {
        let prompts: [Prompt; PROMPTS] = std::array::from_fn(|_| draw_prompt(&mut self.rng));
        let (rollout, reward) = Rollout::new(
            &self.policy,
            &self.log_probs,
            &prompts,
            GROUP_SIZE,
            &self.device,
            &mut self.rng,
        )?;

        let mut steps = Vec::new();
        let mut indices: Vec<i32> = (0..(PROMPTS * GROUP_SIZE) as i32).collect();
        for _ in 0..EPOCHS {
            indices.shuffle(&mut self.rng);
            for minibatch in indices.chunks(MINIBATCH) {
                steps.push(self.step(rollout.select(minibatch))?);
            }
        }
        Ok(summarise(reward, &steps))
    }

    /// One optimiser step: this is where the policy loss is.
    fn step(&mut self, rollout: Rollout) -> Result<PolicyLossValues, Box<dyn Error>> {
        // From hidden states to the loss: the logits of all tokens are never held.
        let (hidden, answers) = self.policy.answers(rollout.tokens);
        let batch = PolicyBatch::without_log_probs(rollout.old_log_probs, rollout.advantages)
            .with_action_mask(rollout.action_mask)
            .with_rollout_log_probs(rollout.rollout_log_probs);
        let head = self.policy.head();
        let output = self
            .loss
            .forward_linear(&self.log_probs, hidden, &head, answers, batch)?;

        let gradients = GradientsParams::from_grads(output.loss.backward(), &self.policy);
        self.policy = self
            .optimizer
            .step(self.learning_rate, self.policy.clone(), gradients);
        Ok(output.read()?)
    }
}

fn summarise(reward: f64, steps: &[PolicyLossValues]) -> Iteration {
    let mean = |value: fn(&PolicyLossValues) -> f64| {
        steps.iter().map(value).sum::<f64>() / steps.len() as f64
    };
    let ratios = || {
        steps
            .iter()
            .map(|step| (step.metrics.ratio_min, step.metrics.ratio_max))
    };
    Iteration {
        reward,
        loss: mean(|step| step.loss),
        clip_ratio: mean(|step| step.metrics.clip_ratio),
        ppo_kl: mean(|step| step.metrics.ppo_kl),
        rollout_kl: mean(|step| step.metrics.rollout_kl.unwrap_or(0.0)),
        ratio_min: ratios().map(|(min, _)| min).fold(f64::INFINITY, f64::min),
        ratio_max: ratios().map(|(_, max)| max).fold(0.0, f64::max),
    }
}

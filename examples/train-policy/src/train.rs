//! The training loop: sample, grade, and improve the policy on what was sampled.

use std::error::Error;

use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use policy_loss::{
    AdvantageEstimator, AdvantageEstimatorConfig, LogProbsConfig, MetricValues, PolicyBatch,
    PolicyLoss, PolicyLossConfig, PolicyLossMetrics, TokenLogProbs,
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
    estimator: AdvantageEstimator,
    loss: PolicyLoss,
    log_probs: TokenLogProbs,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    rng: ChaCha8Rng,
}

/// What one iteration did: the reward before it, and the metrics of its optimiser steps together.
#[derive(Clone, Copy)]
pub struct Iteration {
    /// Mean reward of the rollout.
    pub reward: f64,
    pub loss: f64,
    pub metrics: MetricValues,
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
            // How much better an answer is than the others to the same prompt.
            estimator: AdvantageEstimatorConfig::grpo().init()?,
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
            &self.estimator,
            &prompts,
            GROUP_SIZE,
            &self.device,
            &mut self.rng,
        )?;

        let mut steps: Option<PolicyLossMetrics> = None;
        let mut indices: Vec<i32> = (0..(PROMPTS * GROUP_SIZE) as i32).collect();
        for _ in 0..EPOCHS {
            indices.shuffle(&mut self.rng);
            for minibatch in indices.chunks(MINIBATCH) {
                let step = self.step(rollout.select(minibatch))?;
                steps = Some(match steps {
                    Some(steps) => steps.merge(&step)?,
                    None => step,
                });
            }
        }
        // The metrics of all steps as if they were one batch, read back once.
        let sums = steps
            .ok_or("a rollout is learned from at least once")?
            .sums()?;
        let objective = &self.loss.config().objective;
        Ok(Iteration {
            reward,
            loss: sums.mean_loss(objective),
            metrics: MetricValues::of(&sums, objective),
        })
    }

    /// One optimiser step: this is where the policy loss is.
    fn step(&mut self, rollout: Rollout) -> Result<PolicyLossMetrics, Box<dyn Error>> {
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
        Ok(output.metrics)
    }
}

//! The policy loss in a training loop written by hand.
//!
//! A policy answers each symbol of a prompt with a symbol of its own. Right is the one that comes
//! next in the alphabet, which nothing but the reward knows.

use burn::module::Module;
use burn::nn::EmbeddingConfig;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Distribution, Tensor};
use policy_loss::{PolicyBatch, PolicyLossConfig};

const SYMBOLS: usize = 8;
const TOKENS: usize = 6;
const PROMPTS: usize = 8;
const GROUP: usize = 16; // answers to each prompt

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = policy_loss_flex::device()?.autodiff();
    device.seed(1);
    // The smallest of all policies: a row of logits for each symbol that it may read.
    let mut policy = EmbeddingConfig::new(SYMBOLS, SYMBOLS).init(&device);
    let mut optimizer = AdamConfig::new().init();
    let loss = PolicyLossConfig::grpo().init()?;

    for iteration in 0..=50 {
        // Sample: adding Gumbel noise to log-probs and taking the largest draws from them.
        let uniform = |shape: [usize; 3], high| {
            Tensor::<3>::random(shape, Distribution::Uniform(0.0, high), &device)
        };
        let prompts = uniform([PROMPTS, 1, TOKENS], SYMBOLS as f64).int();
        let prompts = prompts
            .repeat_dim(1, GROUP)
            .reshape([PROMPTS * GROUP, TOKENS]);
        let all_log_probs = log_softmax(policy.valid().forward(prompts.clone()), 2);
        let noise = -(-uniform(all_log_probs.dims(), 1.0).log()).log();
        let answers = (all_log_probs.clone() + noise).argmax(2);
        let old_log_probs = all_log_probs.gather(2, answers.clone()).squeeze_dim(2);

        // Grade: an answer is as good as it is better than the others to the same prompt.
        let right = (prompts.clone() + 1) % SYMBOLS as i32;
        let rewards = answers.clone().squeeze_dim(2).equal(right).float();
        let rewards = rewards.mean_dim(1).reshape([PROMPTS, GROUP]);
        let deviation = rewards.clone().var(1).sqrt();
        let advantages = (rewards.clone() - rewards.clone().mean_dim(1)) / (deviation + 1e-6);
        let advantages = advantages.reshape([PROMPTS * GROUP]);

        // Learn: several steps, so that the ratio leaves 1 and there is something to clip.
        let mut clip_ratio = Tensor::zeros([1], &device);
        for _ in 0..4 {
            let log_probs = log_softmax(policy.forward(prompts.clone()), 2);
            let log_probs = log_probs.gather(2, answers.clone()).squeeze_dim(2);
            let batch = PolicyBatch::new(log_probs, old_log_probs.clone(), advantages.clone());
            let output = loss.forward(batch)?;
            let gradients = GradientsParams::from_grads(output.loss.backward(), &policy);
            policy = optimizer.step(0.1, policy, gradients);
            clip_ratio = output.metrics.clip_ratio;
        }
        if iteration % 10 == 0 {
            let reward = rewards.mean().into_scalar::<f32>();
            let clip_ratio = clip_ratio.into_scalar::<f32>();
            println!("iteration {iteration:2}  reward {reward:.3}  clip_ratio {clip_ratio:.3}");
        }
    }
    Ok(())
}

//! The policy loss in a training loop written by hand.
//!
//! A policy answers each symbol of a prompt with a symbol of its own. Right is the one that comes
//! next in the alphabet, which nothing but the reward knows.

use burn::module::Module;
use burn::nn::EmbeddingConfig;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Distribution, Tensor, activation::log_softmax};
use policy_loss::{AdvantageBatch, AdvantageEstimatorConfig, PolicyBatch, PolicyLossConfig};

const SYMBOLS: usize = 8;
const TOKENS: usize = 6; // symbols of a prompt, and of each answer to it
const GROUP: usize = 64; // answers to each prompt

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = policy_loss_flex::device()?.autodiff();
    device.seed(1);
    // The smallest of all policies: a row of logits for each symbol that it may read.
    let mut policy = EmbeddingConfig::new(SYMBOLS, SYMBOLS).init(&device);
    let mut optimizer = AdamConfig::new().init();
    let estimator = AdvantageEstimatorConfig::grpo().init()?;
    let loss = PolicyLossConfig::grpo().init()?;
    let symbols = Distribution::Uniform(0.0, SYMBOLS as f64);

    for iteration in 0..=50 {
        // Sample: the largest of log-probs with Gumbel noise is a draw from them.
        let prompt = Tensor::<2>::random([1, TOKENS], symbols, &device).int();
        let prompts = prompt.repeat_dim(0, GROUP);
        let log_probs = log_softmax(policy.valid().forward(prompts.clone()), 2);
        let uniform = log_probs.random_like(Distribution::Default);
        let answers = (log_probs.clone() - (-uniform.log()).log()).argmax(2);
        let old_log_probs = log_probs.gather(2, answers.clone()).squeeze_dim(2);

        // Grade: an answer is as good as it is better than the others to the same prompt.
        let right = answers
            .clone()
            .squeeze_dim(2)
            .equal((prompts.clone() + 1) % SYMBOLS as i32);
        let rewards = right.float().mean_dim(1).squeeze_dim::<1>(1);
        let graded = AdvantageBatch::new(rewards.clone()).with_group_ids([0; GROUP]);
        let advantages = estimator.forward(graded)?.advantages;

        // Learn: several steps, so that the ratio leaves 1 and there is something to clip.
        for step in 1..=4 {
            let log_probs = log_softmax(policy.forward(prompts.clone()), 2);
            let log_probs = log_probs.gather(2, answers.clone()).squeeze_dim(2);
            let batch = PolicyBatch::new(log_probs, old_log_probs.clone(), advantages.clone());
            let output = loss.forward(batch)?;
            let gradients = GradientsParams::from_grads(output.loss.backward(), &policy);
            policy = optimizer.step(0.1, policy, gradients);
            if iteration % 10 == 0 && step == 4 {
                let reward = rewards.clone().mean().into_scalar::<f32>();
                let clip_ratio = output.metrics.read()?.clip_ratio;
                println!("iteration {iteration:2}  reward {reward:.3}  clip_ratio {clip_ratio:.3}");
            }
        }
    }
    Ok(())
}

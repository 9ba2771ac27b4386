//! A batch like that of a real step: ratios around 1, some of them clipped, and padding.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use policy_loss::{PolicyBatch, PolicyLoss, PolicyLossOutput};

use crate::failure::Failure;

/// The inputs of the loss, made once.
pub struct Inputs {
    log_probs: Tensor<2>,
    old_log_probs: Tensor<2>,
    advantages: Tensor<2>,
    action_mask: Tensor<2, Bool>,
    entropies: Tensor<2>,
}

impl Inputs {
    /// The same numbers for the same shape, on any device.
    pub fn new(batch: usize, tokens: usize, device: &Device) -> Self {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let count = batch * tokens;
        let log_probs: Vec<f32> = (0..count).map(|_| -3.0 * random.unit()).collect();
        let mut around = |center: f32, width: f32| center + width * (random.unit() - 0.5);
        let old_log_probs: Vec<f32> = log_probs.iter().map(|x| around(*x, 0.8)).collect();
        let advantages: Vec<f32> = (0..count).map(|_| around(0.0, 4.0)).collect();
        // Sequences end anywhere in the second half.
        let valid =
            (0..count).map(|i| i % tokens < tokens - (i / tokens * 7) % (tokens / 2).max(1));
        let valid: Vec<bool> = valid.collect();

        let entropies = (0..count).map(|_| random.unit()).collect();

        let tracked = device.clone().autodiff();
        let floats = |values, device: &Device| {
            Tensor::<2>::from_data(TensorData::new(values, [batch, tokens]), device)
        };
        Self {
            log_probs: floats(log_probs, &tracked),
            old_log_probs: floats(old_log_probs, device),
            advantages: floats(advantages, device),
            action_mask: Tensor::from_data(TensorData::new(valid, [batch, tokens]), device),
            entropies: floats(entropies, &tracked),
        }
    }

    /// Whether the device has what the loss asks for.
    pub fn is_accepted_by(&self, loss: &PolicyLoss) -> bool {
        loss.forward(self.batch(self.log_probs.clone())).is_ok()
    }

    /// One forward and backward pass, with everything that comes out of it.
    pub fn step(
        &self,
        loss: &PolicyLoss,
    ) -> Result<(PolicyLossOutput, Option<Tensor<2>>), Failure> {
        let log_probs = self.log_probs.clone().detach().require_grad();
        let output = loss
            .forward(self.batch(log_probs.clone()))
            .map_err(|error| Failure::Other(error.to_string()))?;
        let mut gradients = output.loss.backward();
        Ok((output, log_probs.grad_remove(&mut gradients)))
    }

    /// The three float inputs.
    pub fn floats(&self) -> [Tensor<2>; 3] {
        [&self.log_probs, &self.old_log_probs, &self.advantages]
            .map(|tensor| tensor.clone().without_autodiff())
    }

    /// The mask.
    pub fn mask(&self) -> Tensor<2, Bool> {
        self.action_mask.clone()
    }

    fn batch(&self, log_probs: Tensor<2>) -> PolicyBatch {
        PolicyBatch::new(
            log_probs,
            self.old_log_probs.clone(),
            self.advantages.clone(),
        )
        .with_action_mask(self.action_mask.clone())
        // For the objectives that read them.
        .with_rollout_log_probs(self.old_log_probs.clone())
        .with_ref_log_probs(self.old_log_probs.clone())
        .with_entropies(self.entropies.clone().detach().require_grad())
    }
}

/// xorshift64: enough for inputs, the same everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

//! The policy: a small causal transformer, put together from Burn's own modules.

use burn::module::Module;
use burn::nn::attention::generate_autoregressive_mask;
use burn::nn::transformer::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor};
use policy_loss::LinearHead;

use crate::task::{ANSWER_LENGTH, PROMPT_LENGTH, VOCABULARY};

const WIDTH: usize = 64;
const FEED_FORWARD: usize = 128;
const HEADS: usize = 4;
const LAYERS: usize = 2;

/// A causal transformer over prompt and answer.
#[derive(Module, Debug)]
pub struct Policy {
    tokens: Embedding,
    positions: Embedding,
    transformer: TransformerEncoder,
    norm: LayerNorm,
    head: Linear,
}

impl Policy {
    /// A policy with random weights.
    pub fn new(device: &Device) -> Self {
        Self {
            tokens: EmbeddingConfig::new(VOCABULARY, WIDTH).init(device),
            positions: EmbeddingConfig::new(PROMPT_LENGTH + ANSWER_LENGTH, WIDTH).init(device),
            transformer: TransformerEncoderConfig::new(WIDTH, FEED_FORWARD, HEADS, LAYERS)
                .with_norm_first(true)
                .with_dropout(0.0)
                .init(device),
            norm: LayerNormConfig::new(WIDTH).init(device),
            head: LinearConfig::new(WIDTH, VOCABULARY).init(device),
        }
    }

    /// The log-probs of every token that could come next, after each of `tokens`.
    ///
    /// # Shapes
    ///
    /// - `tokens`: `[batch, length]`
    /// - output: `[batch, length, vocabulary]`
    pub fn next_log_probs(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        log_softmax(self.head.forward(self.hidden(tokens)), 2)
    }

    /// What the head turns into logits, at each of the answers that follow the prompts in `tokens`;
    /// and the answers.
    ///
    /// # Shapes
    ///
    /// - `tokens`: `[batch, PROMPT_LENGTH + ANSWER_LENGTH]`
    /// - outputs: `[batch, ANSWER_LENGTH, WIDTH]` and `[batch, ANSWER_LENGTH]`
    pub fn answers(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, Tensor<2, Int>) {
        let answers = tokens.clone().narrow(1, PROMPT_LENGTH, ANSWER_LENGTH);
        // The last token has no successor; the token before the first answer token predicts it.
        let inputs = tokens.narrow(1, 0, PROMPT_LENGTH + ANSWER_LENGTH - 1);
        let hidden = self
            .hidden(inputs)
            .narrow(1, PROMPT_LENGTH - 1, ANSWER_LENGTH);
        (hidden, answers)
    }

    /// The head, from which the loss is computed without logits.
    pub fn head(&self) -> LinearHead {
        LinearHead::new(self.head.weight.val())
            .with_bias(self.head.bias.as_ref().map(|bias| bias.val()))
    }

    /// The last hidden states, `[batch, length, WIDTH]`.
    fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let device = tokens.device();
        let positions = Tensor::<1, Int>::arange(0..length as i64, &device).unsqueeze::<2>();
        let embedded = self.tokens.forward(tokens) + self.positions.forward(positions);
        let causal = generate_autoregressive_mask(batch, length, &device);
        let hidden = self
            .transformer
            .forward(TransformerEncoderInput::new(embedded).mask_attn(causal));
        self.norm.forward(hidden)
    }
}

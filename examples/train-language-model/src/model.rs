//! The policy: a language model of the Llama architecture, put together from Burn's own modules.
//!
//! Fields have the names of Hugging Face, so that the path of a parameter is its name in the file.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor};
use policy_loss::LinearHead;

use crate::config::LlamaConfig;

/// Added to the score of what a token does not see.
const HIDDEN: f32 = -1e9;

/// A language model.
#[derive(Module, Debug)]
pub struct Llama {
    model: Decoder,
    /// Absent where the embedding is the head as well.
    lm_head: Option<Linear>,
    #[module(skip)]
    config: LlamaConfig,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

#[derive(Module, Debug)]
struct FeedForward {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// The keys and values of the tokens so far, for each layer.
pub struct Cache {
    layers: Vec<LayerCache>,
    /// Tokens that it holds.
    length: usize,
    /// Tokens that it can hold.
    capacity: usize,
}

#[derive(Default)]
struct LayerCache {
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
}

/// Where tokens stand in their sequences, and which of the others each of them sees.
///
/// A row may hold several answers to one prompt, one behind the other: each sees the prompt and
/// itself, and its positions go on where those of the prompt end.
pub struct Places {
    /// `[B, T]`, counted from 0 in each sequence.
    pub positions: Tensor<2, Int>,
    /// `[B, S]`; `S` is `T` and the length of the cache together. A token sees itself, and those
    /// before it whose segment is [`PROMPT`] or its own. What has a segment that no token has, such
    /// as padding, is seen by nothing but itself.
    pub segments: Tensor<2, Int>,
}

/// The segment of what every later token of a row sees.
pub const PROMPT: i32 = 0;

/// What every layer needs to know of [`Places`].
struct View {
    /// Cosine and sine of each rotation, `[B, 1, T, head_size / 2]`.
    cosines: Tensor<4>,
    sines: Tensor<4>,
    /// 0 where a token looks, [`HIDDEN`] where it does not: `[B, 1, T, S]`.
    bias: Tensor<4>,
    /// Tokens that stand before these.
    past: usize,
    capacity: usize,
}

impl Llama {
    /// A model with random weights, none of which is made before it is used.
    pub fn new(config: LlamaConfig, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        let norm = || {
            RmsNormConfig::new(hidden)
                .with_epsilon(config.rms_norm_eps)
                .init(device)
        };
        let queries = config.num_attention_heads * config.head_size();
        let keys = config.key_value_heads() * config.head_size();
        let layer = |_| Layer {
            input_layernorm: norm(),
            self_attn: Attention {
                q_proj: linear(hidden, queries),
                k_proj: linear(hidden, keys),
                v_proj: linear(hidden, keys),
                o_proj: linear(queries, hidden),
            },
            post_attention_layernorm: norm(),
            mlp: FeedForward {
                gate_proj: linear(hidden, config.intermediate_size),
                up_proj: linear(hidden, config.intermediate_size),
                down_proj: linear(config.intermediate_size, hidden),
            },
        };
        Self {
            model: Decoder {
                embed_tokens: EmbeddingConfig::new(config.vocab_size, hidden).init(device),
                layers: (0..config.num_hidden_layers).map(layer).collect(),
                norm: norm(),
            },
            lm_head: (!config.tie_word_embeddings).then(|| linear(hidden, config.vocab_size)),
            config,
        }
    }

    /// The numbers of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Lets another token end an answer, too.
    pub fn add_end_token(&mut self, id: u32) {
        self.config.add_end_token(id);
    }

    /// The last hidden states, which the head turns into logits.
    ///
    /// With a cache, `tokens` follow those that it holds, and are added to it.
    ///
    /// # Shapes
    ///
    /// - `tokens`: `[B, T]`
    /// - output: `[B, T, hidden_size]`
    pub fn hidden(
        &self,
        tokens: Tensor<2, Int>,
        places: Places,
        cache: Option<&mut Cache>,
    ) -> Tensor<3> {
        let mut no_cache = Vec::new();
        let (past, capacity, layers) = match cache {
            Some(cache) => {
                let past = cache.length;
                cache.length += tokens.dims()[1];
                (past, cache.capacity, &mut cache.layers)
            }
            None => (0, 0, &mut no_cache),
        };
        let view = View::new(&self.config, places, past, capacity);
        let mut hidden = self.model.embed_tokens.forward(tokens);
        for (index, layer) in self.model.layers.iter().enumerate() {
            hidden = layer.forward(hidden, &self.config, &view, layers.get_mut(index));
        }
        self.model.norm.forward(hidden)
    }

    /// The logits of the next token, `[B, vocab_size]`, of hidden states `[B, hidden_size]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.model.embed_tokens.weight.val().transpose()),
        }
    }

    /// The head, from which log-probs and loss are computed without logits.
    pub fn head(&self) -> LinearHead {
        match &self.lm_head {
            Some(head) => LinearHead::new(head.weight.val()),
            None => LinearHead::tied(self.model.embed_tokens.weight.val()),
        }
    }

    /// A cache for at most `capacity` tokens of each sequence.
    pub fn cache(&self, capacity: usize) -> Cache {
        Cache {
            layers: self
                .model
                .layers
                .iter()
                .map(|_| LayerCache::default())
                .collect(),
            length: 0,
            capacity,
        }
    }
}

impl Cache {
    /// Whether it holds no token yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The rows with these numbers, in this order; a row may be taken more than once.
    pub fn select(&mut self, rows: Tensor<1, Int>) {
        for layer in &mut self.layers {
            for slot in [&mut layer.keys, &mut layer.values] {
                *slot = slot.take().map(|all| all.select(0, rows.clone()));
            }
        }
    }
}

impl Layer {
    fn forward(
        &self,
        hidden: Tensor<3>,
        config: &LlamaConfig,
        view: &View,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(hidden.clone());
        let hidden = hidden + self.self_attn.forward(normed, config, view, cache);
        let normed = self.post_attention_layernorm.forward(hidden.clone());
        hidden + self.mlp.forward(normed)
    }
}

impl Attention {
    fn forward(
        &self,
        hidden: Tensor<3>,
        config: &LlamaConfig,
        view: &View,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let [batch, tokens, _] = hidden.dims();
        let (heads, size) = (config.num_attention_heads, config.head_size());
        let shared = config.key_value_heads();
        let split = |x: Tensor<3>, heads| x.reshape([batch, tokens, heads, size]).swap_dims(1, 2);
        let queries = view.rotate(split(self.q_proj.forward(hidden.clone()), heads));
        let keys = view.rotate(split(self.k_proj.forward(hidden.clone()), shared));
        let values = split(self.v_proj.forward(hidden), shared);
        let (keys, values) = match cache {
            Some(cache) => cache.append(keys, values, view),
            None => (keys, values),
        };
        let length = keys.dims()[2];
        // The heads of queries that share keys and values stand one behind the other as if they
        // were further tokens, so that nothing has to be repeated.
        let together = [batch, shared, heads / shared * tokens, size];
        let scores = queries.reshape(together).matmul(keys.transpose()) * (size as f64).powf(-0.5);
        let scores = scores.reshape([batch, heads, tokens, length]) + view.bias.clone();
        let [.., rows, _] = together;
        let weights = softmax(scores, 3).reshape([batch, shared, rows, length]);
        let mixed = weights.matmul(values).reshape([batch, heads, tokens, size]);
        let mixed = mixed.swap_dims(1, 2).reshape([batch, tokens, heads * size]);
        self.o_proj.forward(mixed)
    }
}

impl FeedForward {
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let gate = silu(self.gate_proj.forward(hidden.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(hidden))
    }
}

impl View {
    fn new(config: &LlamaConfig, places: Places, past: usize, capacity: usize) -> Self {
        let [batch, length] = places.segments.dims();
        let device = places.segments.device();
        let tokens = length - past;
        let half = config.head_size() / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|pair| config.rope_theta().powf(-(pair as f64) / half as f64) as f32)
            .collect();
        let frequencies = Tensor::<1>::from_floats(&frequencies[..], &device);
        let positions = places.positions.float().reshape([batch, 1, tokens, 1]);
        let angles = positions * frequencies.reshape([1, 1, 1, half]);

        let everywhere = [batch, 1, tokens, length];
        let seen = places.segments.clone().reshape([batch, 1, 1, length]);
        let own = places.segments.narrow(1, past, tokens);
        let own = own.reshape([batch, 1, tokens, 1]).expand(everywhere);
        let of_others = seen
            .clone()
            .not_equal_elem(PROMPT)
            .expand(everywhere)
            .bool_and(seen.expand(everywhere).not_equal(own));
        let ahead = Tensor::<2, Bool>::tril_mask([tokens, length], past as i64, &device);
        let ahead = ahead.reshape([1, 1, tokens, length]).expand(everywhere);
        Self {
            cosines: angles.clone().cos(),
            sines: angles.sin(),
            bias: of_others.bool_or(ahead).float() * HIDDEN,
            past,
            capacity,
        }
    }

    /// Rotates the first half of each head with the second, as Hugging Face does; Burn's
    /// `RotaryEncoding` rotates neighbours.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let (low, high) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let (cosines, sines) = (self.cosines.clone(), self.sines.clone());
        let first = low.clone() * cosines.clone() - high.clone() * sines.clone();
        let second = high * cosines + low * sines;
        Tensor::cat(vec![first, second], 3)
    }
}

impl LayerCache {
    /// Adds keys and values, and gives back all of them.
    fn append(
        &mut self,
        keys: Tensor<4>,
        values: Tensor<4>,
        view: &View,
    ) -> (Tensor<4>, Tensor<4>) {
        let write = |slot: &mut Option<Tensor<4>>, new: Tensor<4>| {
            let [batch, heads, tokens, size] = new.dims();
            let device = new.device();
            // Taken out, so that nothing else holds it and it is written in place.
            let all = slot
                .take()
                .unwrap_or_else(|| Tensor::zeros([batch, heads, view.capacity, size], &device));
            let end = view.past + tokens;
            let all = all.slice_assign([0..batch, 0..heads, view.past..end, 0..size], new);
            let used = all.clone().narrow(2, 0, end);
            *slot = Some(all);
            used
        };
        (write(&mut self.keys, keys), write(&mut self.values, values))
    }
}

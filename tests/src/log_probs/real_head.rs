//! A real language-model head: 32 of 256 positions of generated text, and 8192 words.

use safetensors::SafeTensors;

const FILE: &[u8] = include_bytes!("../../data/lm_head_smollm2.safetensors");

/// One of so many positions is used: the products of a test build are slow.
const SHARE: usize = 8;

fn rows<T: Copy>(all: Vec<T>, width: usize) -> Vec<T> {
    let rows = all.chunks(width).step_by(SHARE);
    rows.flatten().copied().collect()
}

/// Hidden states, head, and what they come to in `f64`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct RealHead {
    /// Tokens, length of a hidden state, vocabulary.
    pub shape: [usize; 3],
    /// `[N, H]`.
    pub hidden: Vec<f64>,
    /// `[V, H]`: the head is tied to the embedding.
    pub weight: Vec<f64>,
    pub targets: Vec<i64>,
    pub log_probs: Vec<f64>,
    pub entropies: Vec<f64>,
    pub log_sum_exp: Vec<f64>,
    /// The gradient that reaches each log-prob.
    pub log_prob_gradient: Vec<f64>,
    pub hidden_gradient: Vec<f64>,
}

impl RealHead {
    /// Reads the file.
    ///
    /// # Panics
    ///
    /// The file is damaged.
    pub fn read() -> Self {
        let file = SafeTensors::deserialize(FILE).expect("the head can be parsed");
        let bytes = |name: &str| file.tensor(name).expect("the head holds it").data();
        let doubles = |name: &str| -> Vec<f64> {
            let (chunks, _) = bytes(name).as_chunks::<8>();
            chunks.iter().map(|c| f64::from_le_bytes(*c)).collect()
        };
        let hidden = bytes("h").as_chunks::<4>().0.iter();
        let weight = bytes("W").as_chunks::<2>().0.iter();
        let targets = bytes("targets").as_chunks::<4>().0.iter();
        Self {
            shape: [256 / SHARE, 576, 8192],
            hidden: rows(
                hidden.map(|c| f64::from(f32::from_le_bytes(*c))).collect(),
                576,
            ),
            weight: weight
                .map(|c| half::f16::from_le_bytes(*c).to_f64())
                .collect(),
            targets: rows(
                targets.map(|c| i64::from(i32::from_le_bytes(*c))).collect(),
                1,
            ),
            log_probs: rows(doubles("logp"), 1),
            entropies: rows(doubles("entropy"), 1),
            log_sum_exp: rows(doubles("logsumexp"), 1),
            log_prob_gradient: rows(doubles("upstream_g"), 1),
            hidden_gradient: rows(doubles("dh"), 576),
        }
    }
}

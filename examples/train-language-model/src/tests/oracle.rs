//! The same model as plain loops in f64, written from the description of the architecture.

use super::tiny::{EPSILON, HEAD_SIZE, HEADS, HIDDEN, LAYERS, SHARED, THETA, Tiny, VOCABULARY};

/// For each token but the first, the log-probs of the whole vocabulary after the tokens before it.
pub fn next_log_probs(tiny: &Tiny, tokens: &[u32]) -> Vec<Vec<f64>> {
    let mut states: Vec<Vec<f64>> = tokens
        .iter()
        .map(|token| row(tiny, "model.embed_tokens", *token as usize))
        .collect();
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let normed: Vec<_> = states
            .iter()
            .map(|state| norm(tiny, &name("input_layernorm"), state))
            .collect();
        let project = |part: &str| -> Vec<Vec<f64>> {
            normed
                .iter()
                .map(|x| product(tiny, &name(part), x))
                .collect()
        };
        let queries = project("self_attn.q_proj");
        let keys = project("self_attn.k_proj");
        let values = project("self_attn.v_proj");
        for at in 0..tokens.len() {
            let mut mixed = vec![0.0; HEADS * HEAD_SIZE];
            for head in 0..HEADS {
                let group = head / (HEADS / SHARED);
                let query = rotated(&queries[at], head, at);
                let scores: Vec<f64> = (0..=at)
                    .map(|other| {
                        let key = rotated(&keys[other], group, other);
                        let dot: f64 = query.iter().zip(&key).map(|(a, b)| a * b).sum();
                        (dot / (HEAD_SIZE as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                for (other, score) in scores.iter().enumerate() {
                    for index in 0..HEAD_SIZE {
                        mixed[head * HEAD_SIZE + index] +=
                            score / total * values[other][group * HEAD_SIZE + index];
                    }
                }
            }
            let change = product(tiny, &name("self_attn.o_proj"), &mixed);
            add(&mut states[at], &change);
        }
        for state in &mut states {
            let normed = norm(tiny, &name("post_attention_layernorm"), state);
            let gate = product(tiny, &name("mlp.gate_proj"), &normed);
            let up = product(tiny, &name("mlp.up_proj"), &normed);
            let inner: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            let change = product(tiny, &name("mlp.down_proj"), &inner);
            add(state, &change);
        }
    }
    let head = match tiny.tensors.contains_key("lm_head.weight") {
        true => "lm_head",
        false => "model.embed_tokens",
    };
    states[..tokens.len() - 1]
        .iter()
        .map(|state| {
            let logits = product(tiny, head, &norm(tiny, "model.norm", state));
            assert_eq!(logits.len(), VOCABULARY);
            let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
            logits.iter().map(|logit| logit - total.ln()).collect()
        })
        .collect()
}

fn row(tiny: &Tiny, name: &str, index: usize) -> Vec<f64> {
    let tensor = &tiny.tensors[&format!("{name}.weight")];
    let width = *tensor.shape.last().expect("a matrix or a vector");
    let row = &tensor.values[index * width..(index + 1) * width];
    row.iter().copied().map(f64::from).collect()
}

fn product(tiny: &Tiny, name: &str, x: &[f64]) -> Vec<f64> {
    let rows = tiny.tensors[&format!("{name}.weight")].shape[0];
    (0..rows)
        .map(|index| {
            row(tiny, name, index)
                .iter()
                .zip(x)
                .map(|(a, b)| a * b)
                .sum()
        })
        .collect()
}

fn norm(tiny: &Tiny, name: &str, x: &[f64]) -> Vec<f64> {
    assert_eq!(x.len(), HIDDEN);
    let square = x.iter().map(|x| x * x).sum::<f64>() / HIDDEN as f64;
    let gains = row(tiny, name, 0);
    x.iter()
        .zip(gains)
        .map(|(x, gain)| x / (square + EPSILON).sqrt() * gain)
        .collect()
}

/// One head at a position: its number `i` is rotated together with number `i + HEAD_SIZE / 2`.
fn rotated(heads: &[f64], head: usize, position: usize) -> Vec<f64> {
    let x = &heads[head * HEAD_SIZE..(head + 1) * HEAD_SIZE];
    let half = HEAD_SIZE / 2;
    let mut out = vec![0.0; HEAD_SIZE];
    for pair in 0..half {
        let angle = position as f64 * THETA.powf(-2.0 * pair as f64 / HEAD_SIZE as f64);
        out[pair] = x[pair] * angle.cos() - x[pair + half] * angle.sin();
        out[pair + half] = x[pair + half] * angle.cos() + x[pair] * angle.sin();
    }
    out
}

fn add(to: &mut [f64], change: &[f64]) {
    for (to, change) in to.iter_mut().zip(change) {
        *to += change;
    }
}

//! The policy loss of hidden states, with its gradients, in one sweep over the chunks.
//!
//! What the gradient of a chunk's logits needs from the objective is the gradient of its log-probs.
//! Where no token's gradient depends on another token's log-prob, the objective itself yields it: it is
//! computed on the whole batch, in which the chunk's log-probs stand in their places and the others
//! may be anything. That takes nanoseconds a token, where the head takes a fraction of a
//! millisecond, and needs no formula of any objective here.

use burn::tensor::Tensor;

use super::chunks;
use super::linear::scattered;
use super::prepared::{Place, Work};
use super::seam::{Chunk, Known};
use crate::{BatchError, PolicyBatch, PolicyLoss, PolicyLossOutput};

/// Whether there is anything to gain from this. A block of words needs what is known of whole rows
/// before.
pub fn pays(work: &Work) -> bool {
    let is_whole = work.settings.chunk_words >= work.settings.words;
    work.is_fused && work.head.is_tracked() && is_whole
}

/// The loss of a batch that was checked.
pub fn forward(
    loss: &PolicyLoss,
    work: Work,
    place: &Place<2>,
    batch: &PolicyBatch,
) -> Result<PolicyLossOutput, BatchError> {
    let (shape, dtype, places) = (place.outer, place.dtype, &place.chosen.places);
    let count = shape.iter().product();
    let (tokens, settings, head) = (work.tokens, work.settings, work.head);
    let plain = head.clone().without_autodiff();
    let [picked, _] = plain.hidden.dims();
    let place = |values: Tensor<1>, start: usize, length: usize, all: Tensor<1>| {
        let end = start + length;
        match places {
            Some(places) => {
                let places = places.clone().slice(start..end);
                // Nothing but 0 stood there.
                all + scattered(values, places, count, dtype)
            }
            None => all.slice_assign(start..end, values),
        }
    };
    let mut known = Known::of(&head, settings);
    let mut all = Tensor::<1>::zeros([count], (&plain.hidden.device(), dtype));
    for range in chunks(picked, settings.chunk_tokens) {
        let (start, length) = (range.start, range.len());
        let mut head = plain.clone();
        head.hidden = head.hidden.slice(range.clone());
        let chunk = Chunk::forward(head, tokens.slice(range), settings);
        all = place(chunk.values().reshape([length]), start, length, all);
        let gradient = gradient(loss, batch, all.clone().reshape(shape))?.reshape([count]);
        let gradient: Tensor<1> = match places {
            Some(places) => gradient.select(0, places.clone().slice(start..start + length)),
            None => gradient.slice(start..start + length),
        };
        known = known.add(chunk, gradient.reshape([1, length]), settings);
    }

    let output = with_log_probs(loss, batch, all.reshape(shape))?;
    Ok(PolicyLossOutput {
        loss: known.attach(output.loss, head),
        ..output
    })
}

/// The gradient of each log-prob.
fn gradient(
    loss: &PolicyLoss,
    batch: &PolicyBatch,
    log_probs: Tensor<2>,
) -> Result<Tensor<2>, BatchError> {
    let leaf = log_probs.autodiff().require_grad();
    let output = with_log_probs(loss, batch, leaf.clone())?;
    let mut gradients = output.loss.backward();
    let gradient = leaf.grad_remove(&mut gradients);
    Ok(match gradient {
        Some(gradient) => gradient.without_autodiff(),
        None => leaf.without_autodiff().zeros_like(),
    })
}

fn with_log_probs(
    loss: &PolicyLoss,
    batch: &PolicyBatch,
    log_probs: Tensor<2>,
) -> Result<PolicyLossOutput, BatchError> {
    loss.forward(PolicyBatch {
        log_probs: Some(log_probs),
        ..batch.clone()
    })
}

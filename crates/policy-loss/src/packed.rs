//! Sequences that lie one behind the other in a single row.

use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::BatchError;
use crate::checked::CheckedBatch;

/// How the tokens of a packed row `[1, N]` lie in a padded batch `[B, T]`.
pub(crate) struct Packing {
    shape: [usize; 2],
    /// For each token of the row, its place in the padded batch, row by row.
    places: Vec<usize>,
}

impl Packing {
    /// Sequence `b` takes row `b` of the padded batch, its tokens in their order.
    /// `name` is what has this shape.
    pub fn new(
        name: &'static str,
        ids: &[usize],
        [rows, tokens]: [usize; 2],
    ) -> Result<Self, BatchError> {
        if rows != 1 {
            return Err(BatchError::Shape {
                tensor: name,
                expected: "[1, N], because `sequence_ids` are given".into(),
                got: vec![rows, tokens],
            });
        }
        if ids.len() != tokens {
            return Err(BatchError::Shape {
                tensor: "sequence_ids",
                expected: format!("[{tokens}], one for each token of the row"),
                got: vec![ids.len()],
            });
        }
        if let Some(index) = ids.iter().position(|id| *id >= tokens) {
            return Err(BatchError::SequenceId {
                value: ids[index],
                index,
                tokens,
            });
        }
        let sequences = ids.iter().max().map_or(0, |last| last + 1);
        let mut lengths = vec![0; sequences];
        let columns: Vec<usize> = ids
            .iter()
            .map(|id| {
                lengths[*id] += 1;
                lengths[*id] - 1
            })
            .collect();
        let longest = lengths.iter().max().copied().unwrap_or(0);
        let places = ids.iter().zip(columns);
        Ok(Self {
            shape: [sequences, longest],
            places: places.map(|(id, column)| id * longest + column).collect(),
        })
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.shape[0]
    }

    /// The tokens of the padded batch.
    pub fn padded_tokens(&self) -> usize {
        self.shape.iter().product()
    }

    /// The padded batch.
    pub fn pad(self, batch: CheckedBatch) -> CheckedBatch {
        let [sequences, longest] = self.shape;
        // Padding shows the first token, and is masked.
        let mut sources = vec![0i64; sequences * longest];
        let mut filled = vec![false; sequences * longest];
        for (token, place) in self.places.iter().enumerate() {
            sources[*place] = token as i64;
            filled[*place] = true;
        }
        let device = batch.log_probs.device().without_autodiff();
        let sources =
            Tensor::<1, Int>::from_data(TensorData::new(sources, [sequences * longest]), &device);
        let filled = TensorData::new(filled, self.shape);
        let filled = Tensor::<2, Bool>::from_data(filled, &device);
        let tokens = self.places.len();
        let place = |x: Tensor<2>| {
            x.reshape([tokens])
                .select(0, sources.clone())
                .reshape(self.shape)
        };
        let constant = |x: Tensor<2>| place(x.without_autodiff());
        let action_mask = match batch.action_mask {
            None => filled,
            Some(mask) => {
                let mask = mask.without_autodiff().reshape([tokens]);
                let mask = mask.int().select(0, sources.clone()).equal_elem(1);
                mask.reshape(self.shape).bool_and(filled)
            }
        };
        CheckedBatch {
            log_probs: place(batch.log_probs),
            old_log_probs: constant(batch.old_log_probs),
            advantages: match batch.advantages.dims() == [1, tokens] {
                true => constant(batch.advantages),
                false => batch.advantages,
            },
            action_mask: Some(action_mask),
            rollout_log_probs: batch.rollout_log_probs.map(constant),
            ref_log_probs: batch.ref_log_probs.map(constant),
            entropies: batch.entropies.map(place),
            segment_ids: batch.segment_ids.map(|ids| {
                let ids = ids.without_autodiff().reshape([tokens]);
                ids.select(0, sources.clone()).reshape(self.shape)
            }),
            packing: Some(self),
            ..batch
        }
    }

    /// `[B, T]` back in the row that it came from, `[1, N]`.
    pub fn unpad(&self, x: Tensor<2>) -> Tensor<2> {
        let places: Vec<i64> = self.places.iter().map(|place| *place as i64).collect();
        let tokens = places.len();
        let device = x.device().without_autodiff();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [tokens]), &device);
        let [sequences, longest] = self.shape;
        x.reshape([sequences * longest])
            .select(0, places)
            .reshape([1, tokens])
    }
}

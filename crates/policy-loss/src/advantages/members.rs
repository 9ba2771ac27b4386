//! Which sequences form a group, as index tensors.

use std::collections::HashMap;

use burn::tensor::{Bool, DType, Int, Tensor, TensorData};

/// The groups of a batch: `G` rows of `S` places, `S` being the size of the largest one.
///
/// Statistics of a group are then reductions along a row. Nothing is multiplied by a 0 / 1 matrix:
/// that would turn one infinite reward into a NaN in every group, and on some devices round the
/// rewards first.
pub(crate) struct Members {
    /// `[G * S]`, the sequence at each place; an absent one repeats some sequence.
    sequences: Tensor<1, Int>,
    /// `[B]`, the place of each sequence.
    places: Tensor<1, Int>,
    shape: [usize; 2],
    /// `[G, S]`, true where there is no sequence, or one without a valid token.
    pub absent: Tensor<2, Bool>,
    /// `[G, S]`, the number of valid tokens of each sequence.
    pub lengths: Tensor<2>,
    /// `[G, 1]`, how many sequences hold a valid token.
    pub count: Tensor<2>,
}

impl Members {
    /// `group_ids` may be any numbers in any order, `per_sequence` counts the valid tokens of each
    /// sequence, `[B, 1]`; the batch is not empty.
    pub fn new(group_ids: &[i64], per_sequence: &Tensor<2>) -> Self {
        let device = per_sequence.device();
        let Layout {
            sequences,
            places,
            shape,
        } = layout(group_ids);
        let vacant: Vec<bool> = sequences.iter().map(Option::is_none).collect();
        let sequences: Vec<i64> = sequences.iter().map(|i| i.unwrap_or(0)).collect();
        let vacant = Tensor::from_data(TensorData::new(vacant, shape), &device);
        let indices = |values: Vec<i64>| {
            let length = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [length]), &device)
        };
        let mut members = Self {
            sequences: indices(sequences),
            places: indices(places),
            shape,
            absent: vacant,
            lengths: per_sequence.clone(),
            count: per_sequence.clone(),
        };
        let lengths = members.gather(per_sequence.clone());
        members.lengths = members.present(lengths);
        members.absent = members.lengths.clone().equal_elem(0);
        members.count = number(members.absent.clone().bool_not(), per_sequence.dtype());
        members
    }

    /// One value a sequence, `[B, 1]`, at the places of the sequences, `[G, S]`.
    pub fn gather(&self, values: Tensor<2>) -> Tensor<2> {
        let length = values.dims()[0];
        let values = values.reshape([length]).select(0, self.sequences.clone());
        values.reshape(self.shape)
    }

    /// The opposite of [`gather`](Self::gather).
    pub fn scatter(&self, values: Tensor<2>) -> Tensor<2> {
        let [groups, size] = self.shape;
        let values = values.reshape([groups * size]);
        let values = values.select(0, self.places.clone());
        let length = values.dims()[0];
        values.reshape([length, 1])
    }

    /// 0 where a sequence is absent.
    pub fn present(&self, values: Tensor<2>) -> Tensor<2> {
        values.mask_fill(self.absent.clone(), 0)
    }

    /// The mean over the sequences of each group, `[G, 1]`, of values that are 0 elsewhere.
    pub fn mean(&self, present: Tensor<2>) -> Tensor<2> {
        present.sum_dim(1) / self.count.clone().clamp_min(1)
    }

    /// One value a group, `[G, 1]`, at every place of it.
    pub fn spread(&self, values: Tensor<2>) -> Tensor<2> {
        values.expand(self.shape)
    }

    /// The sum over the sequences of each group, token by token: of `[B, T]` it is `[G, T]`.
    pub fn sum_of_tokens(&self, values: Tensor<2>) -> Tensor<2> {
        let [_, tokens] = values.dims();
        let [groups, size] = self.shape;
        let values = values.select(0, self.sequences.clone());
        let absent = self.absent.clone().reshape([groups * size, 1]);
        let values = values.mask_fill(absent.expand([groups * size, tokens]), 0);
        let sums = values.reshape([groups, size, tokens]).sum_dim(1);
        sums.reshape([groups, tokens])
    }

    /// Values of the tokens of each group, `[G, T]`, at those of each of its sequences, `[B, T]`.
    pub fn tokens_of_sequences(&self, values: Tensor<2>) -> Tensor<2> {
        let [_, tokens] = values.dims();
        let [groups, size] = self.shape;
        let values = values.reshape([groups, 1, tokens]);
        let values = values.expand([groups, size, tokens]);
        values
            .reshape([groups * size, tokens])
            .select(0, self.places.clone())
    }

    /// Where a sequence has no other one to be compared with, `[G, S]`.
    pub fn alone(&self) -> Tensor<2, Bool> {
        self.spread(self.count.clone()).lower_equal_elem(1)
    }
}

/// How many hold in each row, `[G, 1]`.
pub(crate) fn number(condition: Tensor<2, Bool>, dtype: DType) -> Tensor<2> {
    condition.float().cast(dtype).sum_dim(1)
}

struct Layout {
    sequences: Vec<Option<i64>>,
    places: Vec<i64>,
    shape: [usize; 2],
}

fn layout(group_ids: &[i64]) -> Layout {
    let mut rows = HashMap::new();
    let mut groups: Vec<Vec<i64>> = Vec::new();
    let mut columns = Vec::with_capacity(group_ids.len());
    for (sequence, id) in group_ids.iter().enumerate() {
        let row = *rows.entry(*id).or_insert(groups.len());
        if row == groups.len() {
            groups.push(Vec::new());
        }
        columns.push((row, groups[row].len()));
        groups[row].push(sequence as i64);
    }
    let size = groups.iter().map(Vec::len).max().unwrap_or(0);
    let place = |(row, column): (usize, usize)| (row * size + column) as i64;
    Layout {
        places: columns.into_iter().map(place).collect(),
        sequences: groups
            .iter()
            .flat_map(|group| (0..size).map(|i| group.get(i).copied()))
            .collect(),
        shape: [groups.len(), size],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_need_no_order() {
        let Layout {
            sequences,
            places,
            shape,
        } = layout(&[7, -1, 7, i64::MIN, 7, -1]);
        assert_eq!(shape, [3, 3]);
        let absent = None;
        assert_eq!(sequences[..3], [Some(0), Some(2), Some(4)]);
        assert_eq!(sequences[3..6], [Some(1), Some(5), absent]);
        assert_eq!(sequences[6..], [Some(3), absent, absent]);
        assert_eq!(places, [0, 3, 1, 6, 2, 4]);
    }
}

//! The tokens that a sampler chose from.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::TensorData;

use crate::BatchError;

/// What a sampler kept of the vocabulary at each token, as top-k, top-p and min-p do before they
/// draw: lists of token ids, one after another, and where each of them begins. A clone copies
/// nothing.
///
/// An id may stand in a list twice, in any order. A list may be empty: of padding, or where only the
/// target was possible.
///
/// ```
/// use policy_loss::KeptTokens;
///
/// // At the first token the sampler had three choices, at the second one, at the third two.
/// let kept = KeptTokens::new(vec![4, 9, 1, 7, 0, 9], vec![0, 3, 4, 6]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptTokens {
    ids: Arc<[u32]>,
    offsets: Arc<[usize]>,
}

impl KeptTokens {
    /// The list of token `i`, counted row by row, is `ids[offsets[i]..offsets[i + 1]]`.
    ///
    /// # Shapes
    ///
    /// - `offsets`: one number more than there are tokens, masked ones included
    pub fn new(ids: impl Into<Arc<[u32]>>, offsets: impl Into<Arc<[usize]>>) -> Self {
        Self {
            ids: ids.into(),
            offsets: offsets.into(),
        }
    }

    /// Fails unless there is a list of known words for each of `tokens` tokens.
    pub(super) fn check(&self, tokens: usize, vocabulary: usize) -> Result<(), BatchError> {
        if self.offsets.len() != tokens + 1 {
            return Err(BatchError::Shape {
                tensor: "kept_tokens.offsets",
                expected: format!("[{}], one more than there are tokens", tokens + 1),
                got: vec![self.offsets.len()],
            });
        }
        let all = self.ids.len();
        let mut least = 0;
        for (index, &offset) in self.offsets.iter().enumerate() {
            let (first, last) = match index {
                0 => (0, 0),
                _ if index == tokens => (all, all),
                _ => (least, all),
            };
            if offset < first || offset > last {
                return Err(BatchError::OutOfRange {
                    field: "kept_tokens.offsets",
                    value: format!("{offset} at index {index}"),
                    accepted: match index {
                        0 => "0 there".into(),
                        _ if index == tokens => format!("{all} there, the number of ids"),
                        _ => format!("{first} to {last} there: they never fall"),
                    },
                });
            }
            least = offset;
        }
        match self.ids.iter().position(|id| *id as usize >= vocabulary) {
            Some(index) => Err(BatchError::OutOfRange {
                field: "kept_tokens.ids",
                value: format!("{} at index {index}", self.ids[index]),
                accepted: format!("0 to {vocabulary}, exclusive"),
            }),
            None => Ok(()),
        }
    }

    /// The list of a token.
    fn of(&self, token: usize) -> &[u32] {
        &self.ids[self.offsets[token]..self.offsets[token + 1]]
    }

    fn tokens(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The lists of these tokens, each in order and without repetitions.
    pub(super) fn select(&self, tokens: impl Iterator<Item = usize>) -> Self {
        let (mut ids, mut offsets) = (Vec::new(), vec![0]);
        for token in tokens {
            let mut list = self.of(token).to_vec();
            list.sort_unstable();
            list.dedup();
            ids.extend(list);
            offsets.push(ids.len());
        }
        Self::new(ids, offsets)
    }

    /// As [`select`](Self::select), of all tokens.
    pub(super) fn sorted(&self) -> Self {
        self.select(0..self.tokens())
    }

    /// The lists of some tokens that follow each other.
    pub(super) fn slice(&self, tokens: &Range<usize>) -> Self {
        Self {
            ids: self.ids.clone(),
            offsets: self.offsets[tokens.start..=tokens.end].into(),
        }
    }

    /// What the list of a token, which is sorted, holds of `words`.
    fn among(&self, token: usize, words: &Range<usize>) -> &[u32] {
        let list = self.of(token);
        let place = |word: usize| list.partition_point(|id| (*id as usize) < word);
        &list[place(words.start)..place(words.end)]
    }

    /// Which of `words` are kept, `[N, V]`.
    pub(super) fn mask(&self, words: &Range<usize>) -> TensorData {
        let tokens = self.tokens();
        let mut mask = vec![false; tokens * words.len()];
        for token in 0..tokens {
            for &id in self.among(token, words) {
                mask[token * words.len() + id as usize - words.start] = true;
            }
        }
        TensorData::new(mask, [tokens, words.len()])
    }

    /// Places among `words`, `[N, K]`: what each list, which is sorted, holds of them, and then -1.
    /// With a column for the target the rows are whole vectors.
    pub(super) fn places(&self, words: &Range<usize>) -> TensorData {
        const VECTOR: usize = 4;
        let within = |token: usize| self.among(token, words);
        let tokens = self.tokens();
        let longest = (0..tokens).map(|token| within(token).len()).max();
        let columns = (longest.unwrap_or(0) + 1).next_multiple_of(VECTOR) - 1;
        let mut places = vec![-1; tokens * columns];
        for token in 0..tokens {
            let row = &mut places[token * columns..];
            for (place, &id) in row.iter_mut().zip(within(token)) {
                *place = i64::from(id) - words.start as i64;
            }
        }
        TensorData::new(places, [tokens, columns])
    }
}

#[cfg(test)]
mod tests {
    use super::KeptTokens;

    #[test]
    fn lists_are_those_of_their_tokens() {
        let kept = KeptTokens::new(vec![7, 2, 7, 0, 5, 1], vec![0, 3, 3, 5, 6]).sorted();
        let lists: Vec<_> = (0..4).map(|token| kept.of(token)).collect();
        assert_eq!(lists, [&[2, 7][..], &[], &[0, 5], &[1]]);
        assert_eq!(kept.slice(&(2..4)).of(1), [1]);
        assert_eq!(kept.select([2, 0].into_iter()).of(1), [2, 7]);
        let mask = kept.mask(&(0..8)).try_to_vec::<bool>().expect("of bools");
        let of_first: Vec<_> = (0..8).filter(|word| mask[*word]).collect();
        assert_eq!(of_first, [2, 7]);
        let mask = kept.mask(&(2..6)).try_to_vec::<bool>().expect("of bools");
        let places: Vec<_> = (0..16).filter(|place| mask[*place]).collect();
        assert_eq!(places, [0, 11], "of four words a token");
        let places = kept.places(&(2..6));
        let none = [-1; 3];
        assert_eq!(
            places.try_to_vec::<i64>().expect("of integers"),
            [[0, -1, -1], none, [3, -1, -1], none].concat()
        );
        // A column for the target makes it a whole vector.
        let five = KeptTokens::new(vec![0, 1, 2, 3, 4], vec![0, 5]);
        assert_eq!(five.places(&(0..9)).shape()[1], 7);
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        for (ids, offsets, message) in [
            (
                vec![0],
                vec![0, 1],
                "`kept_tokens.offsets` has shape [2]; expected [3]",
            ),
            (
                vec![0],
                vec![1, 1, 1],
                "`kept_tokens.offsets` is 1 at index 0; accepted: 0 there",
            ),
            (
                vec![0, 1],
                vec![0, 2, 1],
                "`kept_tokens.offsets` is 1 at index 2; accepted: 2 there",
            ),
            (
                vec![0],
                vec![0, 5, 1],
                "`kept_tokens.offsets` is 5 at index 1; accepted: 0 to 1",
            ),
            (
                vec![0, 3],
                vec![0, 1, 2],
                "`kept_tokens.ids` is 3 at index 1; accepted: 0 to 3,",
            ),
        ] {
            let error = KeptTokens::new(ids, offsets)
                .check(2, 3)
                .expect_err("refused");
            assert!(error.to_string().starts_with(message), "{error}");
        }
        let fall = KeptTokens::new(vec![0, 1, 2], vec![0, 2, 1, 3]).check(3, 3);
        let error = fall.expect_err("refused").to_string();
        assert!(error.contains("1 at index 2; accepted: 2 to 3"), "{error}");
        assert_eq!(KeptTokens::new(vec![], vec![0]).check(0, 3), Ok(()));
    }
}

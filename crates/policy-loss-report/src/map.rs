//! A batch as cells of a picture.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// Rows of the map; of more sequences some are left out.
const ROWS: usize = 512;
/// Bytes of the page that the map may take.
const BYTES: usize = 1_200_000;
/// The code of no valid token, and of a value that is no number.
const NOTHING: u8 = 0;
const NOT_A_NUMBER: u8 = 255;
/// The code of 0; those around it are in proportion to the value.
const ZERO: f64 = 127.0;
const STEPS: f64 = 126.0;

/// How a batch `[B, T]` becomes cells: which sequences, and how many tokens each.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Layout {
    /// Of the sequences that are shown, their numbers in the batch.
    pub rows: Vec<usize>,
    pub columns: usize,
    /// Tokens that a cell stands for.
    pub tokens_per_cell: usize,
    #[serde(skip)]
    tokens: usize,
}

impl Layout {
    /// For `channels` pictures of one batch.
    pub fn new([batch, tokens]: [usize; 2], channels: usize) -> Self {
        let step = batch.div_ceil(ROWS).max(1);
        let rows: Vec<usize> = (0..batch).step_by(step).collect();
        // A byte takes 4/3 characters.
        let cells = BYTES * 3 / 4 / channels.max(1);
        let columns = (cells / rows.len().max(1)).max(1);
        let tokens_per_cell = tokens.div_ceil(columns).max(1);
        Self {
            rows,
            columns: tokens.div_ceil(tokens_per_cell),
            tokens_per_cell,
            tokens,
        }
    }

    /// The places of the tokens of each cell, cell by cell.
    fn cells(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.rows.iter().flat_map(move |row| {
            let (start, end) = (row * self.tokens, (row + 1) * self.tokens);
            (start..end)
                .step_by(self.tokens_per_cell)
                .map(move |first| first..(first + self.tokens_per_cell).min(end))
        })
    }

    /// A picture of values: each cell shows the one of its valid tokens that is furthest from 0.
    pub fn channel(&self, values: &[f64], valid: &[bool]) -> Channel {
        let mut sizes: Vec<f64> = values
            .iter()
            .zip(valid)
            .filter_map(|(value, valid)| valid.then_some(value.abs()))
            .filter(|size| size.is_finite())
            .collect();
        sizes.sort_unstable_by(f64::total_cmp);
        // One token in two hundred must not leave all others without colour.
        let most = sizes.len().saturating_sub(1 + sizes.len() / 200);
        let largest = sizes.last().copied().unwrap_or(0.0);
        let scale = sizes.get(most).copied().unwrap_or(0.0);
        let is_infinite = |(value, valid): (&f64, &bool)| *valid && value.is_infinite();
        let scale = match scale > 0.0 {
            true => scale,
            false if largest > 0.0 => largest,
            // Beside nothing but 0, what is infinite has a colour, too.
            false => f64::from(u8::from(values.iter().zip(valid).any(is_infinite))),
        };
        let code = |cell: std::ops::Range<usize>| {
            let valid = cell.filter(|place| valid[*place]);
            let furthest = valid.map(|place| values[place]).max_by(|one, other| {
                // A NaN is furthest of all.
                one.abs().total_cmp(&other.abs())
            });
            match furthest {
                None => NOTHING,
                Some(value) if value.is_nan() => NOT_A_NUMBER,
                Some(_) if scale == 0.0 => ZERO as u8,
                Some(value) => (ZERO + (STEPS * (value / scale).clamp(-1.0, 1.0)).round()) as u8,
            }
        };
        let codes: Vec<u8> = self.cells().map(code).collect();
        Channel {
            scale,
            codes: STANDARD.encode(codes),
        }
    }

    /// A picture of marks: each cell has those of all its tokens.
    pub fn marks(&self, marks: &[u8]) -> String {
        let codes = self.cells().map(|cell| {
            marks[cell]
                .iter()
                .fold(0, |together, marks| together | marks)
        });
        STANDARD.encode(codes.collect::<Vec<u8>>())
    }
}

/// Values of cells, a byte each.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Channel {
    /// The value of the strongest colour.
    scale: f64,
    /// 0: no valid token; 1 to 253: -scale to scale; 255: not a number.
    codes: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_the_token_furthest_from_zero() {
        let mut layout = Layout::new([2, 5], 1);
        assert_eq!((layout.columns, layout.tokens_per_cell), (5, 1));
        layout.tokens_per_cell = 2;
        layout.columns = 3;
        let values = [1.0, -2.0, 9.0, 0.0, 0.5, f64::NAN, 1.0, 0.0, 0.0, 2.0];
        let mut valid = [true; 10];
        valid[2] = false;
        valid[8..].fill(false);
        let channel = layout.channel(&values, &valid);
        let codes = STANDARD.decode(channel.codes).expect("base64");
        assert_eq!(channel.scale, 2.0);
        assert_eq!(codes, [1, 127, 159, 255, 127, 0]);
        let marks = STANDARD.decode(layout.marks(&[1, 2, 0, 0, 4, 0, 0, 8, 0, 1]));
        assert_eq!(marks.expect("base64"), [3, 0, 4, 0, 8, 1]);
    }

    #[test]
    fn a_large_batch_stays_within_the_bytes() {
        for (shape, channels) in [([256, 4096], 5), ([256, 4096], 20), ([5000, 3000], 8)] {
            let layout = Layout::new(shape, channels);
            let cells = layout.cells().count();
            assert_eq!(cells, layout.rows.len() * layout.columns);
            assert!(cells * channels * 4 / 3 <= BYTES);
            assert!(layout.columns * layout.tokens_per_cell >= shape[1]);
        }
        let whole = Layout::new([64, 160], 8);
        assert_eq!((whole.rows.len(), whole.tokens_per_cell), (64, 1));
    }
}

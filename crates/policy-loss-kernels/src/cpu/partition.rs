//! How a batch is divided among threads: by its shape alone, so that sums are the same
//! for any number of threads.

use std::ops::Range;

use rayon::prelude::*;

/// Tokens in a chunk: its inputs and outputs fit the second-level cache of a core.
const CHUNK: usize = 16 * 1024;

/// Rows longer than this are divided; shorter ones are visited by one thread, while they
/// are in its cache.
const LONG_ROW: usize = 2 * CHUNK;

/// From this many tokens on, waking other threads pays.
const PARALLEL: usize = 96 * 1024;

/// Consecutive tokens that one thread visits, and the rows that they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub rows: Range<usize>,
    pub tokens: Range<usize>,
}

/// Chunks that pay no heed to rows.
pub fn flat(total: usize) -> Vec<Chunk> {
    pieces(0, 0..total).collect()
}

/// Pieces of one row.
fn pieces(row: usize, tokens: Range<usize>) -> impl Iterator<Item = Chunk> {
    let end = tokens.end;
    tokens.step_by(CHUNK).map(move |start| Chunk {
        rows: row..row + 1,
        tokens: start..end.min(start + CHUNK),
    })
}

/// Whether the chunks of [`by_row`] are pieces of rows, and not whole rows.
pub fn divides_rows(row_length: usize) -> bool {
    row_length > LONG_ROW
}

/// Chunks of whole rows, or of pieces of one row each.
pub fn by_row(rows: usize, row_length: usize) -> Vec<Chunk> {
    if row_length == 0 {
        return Vec::new();
    }
    if divides_rows(row_length) {
        let of_row = |row| pieces(row, row * row_length..(row + 1) * row_length);
        return (0..rows).flat_map(of_row).collect();
    }
    let rows_in_chunk = (CHUNK / row_length).max(1);
    (0..rows)
        .step_by(rows_in_chunk)
        .map(|first| {
            let last = rows.min(first + rows_in_chunk);
            Chunk {
                rows: first..last,
                tokens: first * row_length..last * row_length,
            }
        })
        .collect()
}

/// Visits every item, on all threads if there are enough tokens, and returns the results
/// in the order of the items.
pub fn each<T: Send, S, R: Send>(
    tokens: usize,
    items: &mut [T],
    scratch: impl Fn() -> S + Send + Sync,
    visit: impl Fn(&mut S, &mut T) -> R + Send + Sync,
) -> Vec<R> {
    if tokens >= PARALLEL && items.len() > 1 {
        items.par_iter_mut().map_init(scratch, visit).collect()
    } else {
        let mut scratch = scratch();
        items
            .iter_mut()
            .map(|item| visit(&mut scratch, item))
            .collect()
    }
}

/// Logits from which on waking other threads pays.
const PARALLEL_LOGITS: usize = 64 * 1024;

/// Visits rows of logits, on all threads if there are enough.
pub fn rows<T: Send, R: Send>(
    logits: usize,
    rows: impl Iterator<Item = T>,
    visit: impl Fn(T) -> R + Send + Sync,
) -> Vec<R> {
    if logits < PARALLEL_LOGITS {
        return rows.map(visit).collect();
    }
    let rows: Vec<T> = rows.collect();
    rows.into_par_iter().map(visit).collect()
}

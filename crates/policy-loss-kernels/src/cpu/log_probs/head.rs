//! A language-model head over a chunk of tokens: a block of the vocabulary at a time, so that what
//! one product writes is still in the cache when the softmax and the next product read it.

use super::super::lanes::Real;
use super::super::partition;
use super::super::vector_unit::vector_unit;
use super::matrix::multiply;
use super::statistics::Moments;
use super::{Matrix, MatrixMut, RowGradient, Softmax, Statistics, Token, gradient, place, real};

/// A head and the hidden states of some tokens.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, T> {
    /// `[tokens, hidden]`.
    pub hidden: Matrix<'a, T>,
    /// `[hidden, vocabulary]`.
    pub weight: Matrix<'a, T>,
    /// `[vocabulary]`.
    pub bias: Option<&'a [T]>,
}

/// Where the gradients of a head go; what is absent is not computed.
#[derive(Debug)]
pub struct HeadGradients<'a, T> {
    /// `[tokens, hidden]`, row by row; replaced.
    pub hidden: Option<&'a mut [T]>,
    /// `[hidden, vocabulary]`; added to.
    pub weight: Option<MatrixMut<'a, T>>,
    /// `[vocabulary]`; added to.
    pub bias: Option<&'a mut [T]>,
}

/// Bytes of a chunk's logits that one block of the vocabulary holds.
const BLOCK_BYTES: usize = 4 << 20;

/// Columns of a block: enough for the products, few enough for the cache.
fn block_columns<T>(tokens: usize) -> usize {
    let columns = BLOCK_BYTES / size_of::<T>() / tokens.max(1);
    columns.clamp(512, 8192).next_multiple_of(64)
}

/// Computes the logits of a chunk, with the statistics of each row.
///
/// Every element of `logits`, `[tokens, vocabulary]`, is replaced.
///
/// # Panics
///
/// The shapes do not fit.
pub fn head_logits<T: Real>(
    head: Head<'_, T>,
    softmax: Softmax,
    rows: &[Token],
    logits: &mut [T],
) -> Vec<Statistics> {
    let [tokens, _] = head.hidden.shape();
    let [_, vocabulary] = head.weight.shape();
    assert_eq!(rows.len(), tokens, "rows");
    assert_eq!(logits.len(), tokens * vocabulary, "logits");
    let arch = vector_unit();
    let mut moments = vec![Moments::new(); tokens];
    let columns = block_columns::<T>(tokens);
    for start in (0..vocabulary).step_by(columns) {
        let count = columns.min(vocabulary - start);
        if let Some(bias) = head.bias {
            for row in logits.chunks_mut(vocabulary) {
                row[start..start + count].copy_from_slice(&bias[start..start + count]);
            }
        }
        let block = MatrixMut::new(&mut *logits, [tokens, vocabulary], [vocabulary, 1]);
        multiply(
            block.columns(start, count),
            head.bias.is_some(),
            head.hidden,
            head.weight.columns(start, count),
        );
        let visit = |((logits, moments), row): ((&[T], &mut Moments), &Token)| {
            let range = start..start + count;
            let target = place(row.target, range.clone());
            moments.visit(arch, softmax, row.scale, &logits[range], target);
        };
        let logits = logits.chunks(vocabulary);
        partition::rows(tokens * count, logits.zip(&mut moments).zip(rows), visit);
    }
    let statistics = moments
        .into_iter()
        .map(|moments| moments.statistics(softmax));
    statistics.collect()
}

/// Computes the gradients of a chunk from its logits, which are used up.
///
/// A token whose log-prob and entropy receive no gradient is left out: nothing of it is read.
///
/// # Panics
///
/// The shapes do not fit.
pub fn head_gradients<T: Real>(
    head: Head<'_, T>,
    rows: &[RowGradient],
    logits: &mut [T],
    mut gradients: HeadGradients<'_, T>,
) {
    let [tokens, width] = head.hidden.shape();
    let [_, vocabulary] = head.weight.shape();
    assert_eq!(rows.len(), tokens, "rows");
    assert_eq!(logits.len(), tokens * vocabulary, "logits");
    if vocabulary == 0 || rows.iter().all(RowGradient::is_active) {
        return of_active(head, rows, logits, gradients);
    }
    let places: Vec<usize> = (0..tokens).filter(|&i| rows[i].is_active()).collect();
    let mut hidden = Vec::with_capacity(places.len() * width);
    let mut active = Vec::with_capacity(places.len());
    for (to, &from) in places.iter().enumerate() {
        hidden.extend((0..width).map(|column| *head.hidden.at(from, column)));
        active.push(rows[from]);
        let from = from * vocabulary;
        logits.copy_within(from..from + vocabulary, to * vocabulary);
    }
    let mut compact = gradients
        .hidden
        .is_some()
        .then(|| vec![real(0.0); hidden.len()]);
    let head = Head {
        hidden: Matrix::of_rows(&hidden, [places.len(), width]),
        ..head
    };
    let target = gradients.hidden.take();
    let gradients = HeadGradients {
        hidden: compact.as_deref_mut(),
        ..gradients
    };
    let logits = &mut logits[..places.len() * vocabulary];
    of_active(head, &active, logits, gradients);
    if let (Some(target), Some(compact)) = (target, compact) {
        target.fill(real(0.0));
        for (from, to) in places.into_iter().enumerate() {
            let row = &compact[from * width..(from + 1) * width];
            target[to * width..(to + 1) * width].copy_from_slice(row);
        }
    }
}

fn of_active<T: Real>(
    head: Head<'_, T>,
    rows: &[RowGradient],
    logits: &mut [T],
    mut gradients: HeadGradients<'_, T>,
) {
    let [tokens, width] = head.hidden.shape();
    let [_, vocabulary] = head.weight.shape();
    let arch = vector_unit();
    if vocabulary == 0 || tokens == 0 {
        if let Some(hidden) = gradients.hidden {
            hidden.fill(real(0.0));
        }
        return;
    }
    let columns = block_columns::<T>(tokens);
    for start in (0..vocabulary).step_by(columns) {
        let count = columns.min(vocabulary - start);
        let range = start..start + count;
        let replace = |(logits, row): (&mut [T], &RowGradient)| {
            let is_valid = place(row.token.target, 0..vocabulary).is_some();
            let target = place(row.token.target, range.clone());
            let logits = &mut logits[range.clone()];
            gradient::replace(arch, row, is_valid, logits, target);
        };
        let of_rows = logits.chunks_mut(vocabulary).zip(rows);
        partition::rows(tokens * count, of_rows, replace);
        let block = Matrix::of_rows(logits, [tokens, vocabulary]).columns(start, count);
        let weight = head.weight.columns(start, count);
        if let Some(hidden) = gradients.hidden.as_deref_mut() {
            let hidden = MatrixMut::new(hidden, [tokens, width], [width, 1]);
            multiply(hidden, start > 0, block, weight.transposed());
        }
        if let Some(target) = gradients.weight.as_mut() {
            let target = target.reborrow().columns(start, count);
            multiply(target, true, head.hidden.transposed(), block);
        }
        if let Some(bias) = gradients.bias.as_deref_mut() {
            for row in logits.chunks(vocabulary) {
                for (sum, &value) in bias[range.clone()].iter_mut().zip(&row[range.clone()]) {
                    *sum = *sum + value;
                }
            }
        }
    }
}

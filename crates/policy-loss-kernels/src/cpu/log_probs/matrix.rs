//! Matrices as the `gemm` crate takes them: a slice with strides, checked once.

use super::super::lanes::Real;
use gemm::Parallelism;

/// A matrix in somebody else's memory, in any layout.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    values: &'a [T],
    shape: [usize; 2],
    strides: [usize; 2],
}

/// A matrix in somebody else's memory, in any layout, that is added to.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    values: &'a mut [T],
    shape: [usize; 2],
    strides: [usize; 2],
}

/// The number of elements between the first and the last, both included.
fn extent(shape: [usize; 2], strides: [usize; 2]) -> usize {
    match shape.contains(&0) {
        true => 0,
        false => 1 + (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1],
    }
}

impl<'a, T> Matrix<'a, T> {
    /// A matrix whose element `[i, j]` is `values[i * strides[0] + j * strides[1]]`.
    ///
    /// # Panics
    ///
    /// An element lies outside of the values.
    #[must_use]
    pub fn new(values: &'a [T], shape: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(extent(shape, strides) <= values.len(), "a matrix too large");
        Self {
            values,
            shape,
            strides,
        }
    }

    /// A matrix that is stored row by row.
    ///
    /// # Panics
    ///
    /// There are fewer values than the shape asks for.
    #[must_use]
    pub fn of_rows(values: &'a [T], shape: [usize; 2]) -> Self {
        Self::new(values, shape, [shape[1], 1])
    }

    /// Rows and columns.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The same values with rows for columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        let ([rows, columns], [down, right]) = (self.shape, self.strides);
        Self {
            shape: [columns, rows],
            strides: [right, down],
            ..self
        }
    }

    /// Some of the columns.
    pub(super) fn columns(self, start: usize, count: usize) -> Self {
        let [rows, columns] = self.shape;
        assert!(start + count <= columns, "columns outside of a matrix");
        let offset = (start * self.strides[1]).min(self.values.len());
        Self::new(&self.values[offset..], [rows, count], self.strides)
    }

    pub(super) fn at(&self, row: usize, column: usize) -> &T {
        &self.values[row * self.strides[0] + column * self.strides[1]]
    }
}

impl<'a, T> MatrixMut<'a, T> {
    /// As [`Matrix::new`].
    ///
    /// # Panics
    ///
    /// An element lies outside of the values, or two elements share a place.
    #[must_use]
    pub fn new(values: &'a mut [T], shape: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(extent(shape, strides) <= values.len(), "a matrix too large");
        let [rows, columns] = shape;
        let apart = (strides[1] >= 1 && strides[0] >= columns * strides[1])
            || (strides[0] >= 1 && strides[1] >= rows * strides[0]);
        assert!(apart || rows * columns <= 1, "elements share a place");
        Self {
            values,
            shape,
            strides,
        }
    }

    /// The same matrix, for a shorter time.
    pub(super) fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut {
            values: self.values,
            shape: self.shape,
            strides: self.strides,
        }
    }

    /// Some of the columns.
    pub(super) fn columns(self, start: usize, count: usize) -> Self {
        let [rows, columns] = self.shape;
        assert!(start + count <= columns, "columns outside of a matrix");
        let offset = (start * self.strides[1]).min(self.values.len());
        MatrixMut::new(&mut self.values[offset..], [rows, count], self.strides)
    }
}

/// Multiply-adds from which on several threads pay.
const PARALLEL: usize = 192 * 192 * 192;

/// `target += left * right`, or `target = left * right`.
///
/// # Panics
///
/// The shapes do not fit.
#[allow(unsafe_code)]
pub(super) fn multiply<T: Real>(
    target: MatrixMut<'_, T>,
    is_added: bool,
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
) {
    let [rows, columns] = target.shape;
    let depth = left.shape[1];
    assert_eq!(left.shape, [rows, depth], "the left factor");
    assert_eq!(right.shape, [depth, columns], "the right factor");
    if rows == 0 || columns == 0 {
        return;
    }
    let work = rows.saturating_mul(columns).saturating_mul(depth);
    let parallelism = match work >= PARALLEL {
        true => Parallelism::Rayon(0),
        false => Parallelism::None,
    };
    let stride = |stride: usize| stride as isize;
    // SAFETY: the constructors have checked that every element lies within its slice and that no
    // two elements of the target share a place; the target is borrowed mutably, so that the
    // factors lie elsewhere. `T` is f32 or f64, which `gemm` has kernels for.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            target.values.as_mut_ptr(),
            stride(target.strides[1]),
            stride(target.strides[0]),
            is_added,
            left.values.as_ptr(),
            stride(left.strides[1]),
            stride(left.strides[0]),
            right.values.as_ptr(),
            stride(right.strides[1]),
            stride(right.strides[0]),
            T::from_f64(if is_added { 1.0 } else { 0.0 }),
            T::from_f64(1.0),
            false,
            false,
            false,
            parallelism,
        );
    }
}

//! The forms of tensors: views of other ones, that do not lie in memory row by row, and types, also
//! mixed.

use burn::tensor::{DType, Tensor};

use crate::busy::busy;
use crate::case::{Case, HostAdvantages};
use crate::compare::{assert_outcome, bits};
use crate::configs::describe;
use crate::runner::{Outcome, Runner, values};

/// How a `[B, T]` tensor is cut out of another one.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// The transpose of a `[T, B]` tensor.
    Transposed,
    /// The inside of a larger tensor.
    Sliced,
}

/// What lies around a sliced tensor: rows above and below, columns left and right.
const MARGINS: [usize; 2] = [1, 3];

impl Layout {
    /// The tensor to cut from, row by row; `around` fills what is not cut out.
    fn host<E: Copy>(self, values: &[E], [rows, columns]: [usize; 2], around: E) -> Vec<E> {
        let at = |row: usize, column: usize| values[row * columns + column];
        match self {
            Self::Transposed => (0..rows * columns)
                .map(|i| at(i % rows, i / rows))
                .collect(),
            Self::Sliced => {
                let [_, width] = self.shape([rows, columns]);
                let [height, _] = self.shape([rows, columns]);
                let inside = |i: usize, margin: usize, length: usize| {
                    i.checked_sub(margin).filter(|i| *i < length)
                };
                (0..height * width)
                    .map(|i| {
                        let row = inside(i / width, MARGINS[0], rows);
                        let column = inside(i % width, MARGINS[1], columns);
                        row.zip(column)
                            .map_or(around, |(row, column)| at(row, column))
                    })
                    .collect()
            }
        }
    }

    fn shape(self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Transposed => [columns, rows],
            Self::Sliced => [rows + 2 * MARGINS[0], columns + 2 * MARGINS[1]],
        }
    }
}

/// Cuts a `[B, T]` view out of `whole`.
macro_rules! view {
    ($layout:expr, $whole:expr, $shape:expr) => {
        match $layout {
            Layout::Transposed => $whole.transpose(),
            Layout::Sliced => $whole.slice([
                MARGINS[0]..MARGINS[0] + $shape[0],
                MARGINS[1]..MARGINS[1] + $shape[1],
            ]),
        }
    };
}

/// Every input is a view; the gradient reaches the tensor behind it, and only what was cut out.
pub fn views(runner: &Runner) {
    for layout in [Layout::Transposed, Layout::Sliced] {
        for config in runner.some_configs() {
            for dtype in runner.exact_dtypes() {
                let case = busy(3).with_config(config);
                let what = format!("{runner}, {dtype:?}, {layout:?}, {}", describe(&config));
                let outcome = viewed(runner, layout, &case, dtype);
                let mut expected = case.rounded(dtype, dtype).answer();
                let shape = [case.sequences, case.tokens];
                expected.gradient = layout.host(&expected.gradient, shape, 0.0);
                assert_outcome(&what, dtype, &outcome, &expected);
            }
        }
    }
}

fn viewed(runner: &Runner, layout: Layout, case: &Case, dtype: DType) -> Outcome {
    let shape = [case.sequences, case.tokens];
    // NaN around a slice: reading beyond its edge is seen.
    let cut = |values: &[f64]| -> Tensor<2> {
        let values = layout.host(values, shape, f64::NAN);
        let whole: Tensor<2> = runner.tensor(&values, layout.shape(shape), dtype);
        view!(layout, whole, shape)
    };
    let leaf = layout.host(&case.log_probs, shape, f64::NAN);
    let leaf: Tensor<2> = runner.tracked(&leaf, layout.shape(shape), dtype);
    let mask = case.action_mask.as_ref().expect("busy has one");
    let mask = runner.mask(&layout.host(mask, shape, true), layout.shape(shape));
    let turns = case.segment_ids.as_ref().expect("busy has some");
    let turns = runner.integers(&layout.host(turns, shape, 77), layout.shape(shape));
    let log_probs = view!(layout, leaf.clone(), shape);
    let batch = runner
        .batch_of(case, log_probs, |_, values, _| cut(values))
        .with_action_mask(view!(layout, mask, shape))
        .with_segment_ids(view!(layout, turns, shape));
    let output = runner.forward(&case.name, &runner.init(&case.config), batch);
    runner.read(&output, &leaf, None)
}

/// One row of memory, seen as many rows: the gradients of all of them end up in it.
pub fn expanded(runner: &Runner) {
    let mut one = Case::new("expanded", [1, 6]);
    one.log_probs = vec![-0.2, -1.5, -0.9, -0.1, -2.0, -0.4];
    let mut many = Case::new("expanded", [4, 6]);
    many.log_probs = one.log_probs.repeat(4);
    // No two log-ratios are alike but for their rounding.
    let curve = |i: i32| -1.5 + 0.05 * f64::from(i) + 0.0007 * f64::from(i * i);
    many.old_log_probs = (0..24).map(curve).collect();
    many.advantages = HostAdvantages::Token([1.0, -1.0, 0.5, 2.0, -0.5, 0.3].repeat(4));
    many.action_mask = Some([true, true, false, true, true, true].repeat(4));
    many.rollout_log_probs = Some([-1.0, -1.1, -0.8, -0.7, -1.2, -0.9].repeat(4));
    many.ref_log_probs = Some([-0.9, -1.3, -0.7, -0.8, -1.1, -0.6].repeat(4));
    many.entropies = Some([0.9, 1.3, 0.7, 0.8, 1.1, 0.6].repeat(4));
    for config in runner.some_configs() {
        let many = many.clone().with_config(config);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, expanded, {}", describe(&config));
            let leaf = runner.leaf(&one, dtype);
            let expand = |row: &[f64]| -> Tensor<2> {
                runner.tensor(&row[..6], [1, 6], dtype).expand([4, 6])
            };
            let mask = many.action_mask.as_ref().expect("given");
            let log_probs = leaf.clone().expand([4, 6]);
            let batch = runner
                .batch_of(&many, log_probs, |name, values, shape| match name {
                    "old_log_probs" => runner.tensor(values, shape, dtype),
                    _ => expand(values),
                })
                .with_action_mask(runner.mask(&mask[..6], [1, 6]).expand([4, 6]));
            let output = runner.forward("expanded", &runner.init(&config), batch);
            let outcome = runner.read(&output, &leaf, None);
            let mut expected = many.rounded(dtype, dtype).answer();
            let column = |t: usize| (0..4).map(|row| expected.gradient[row * 6 + t]).sum();
            expected.gradient = (0..6).map(column).collect();
            assert_outcome(&what, dtype, &outcome, &expected);
        }
    }
}

/// A leaf that is itself stored column by column: its gradient has the shape of the leaf.
pub fn strided_leaf(runner: &Runner) {
    let case = busy(3);
    let shape = [case.sequences, case.tokens];
    for dtype in runner.exact_dtypes() {
        let stored = Layout::Transposed.host(&case.log_probs, shape, 0.0);
        let stored: Tensor<2> = runner.tensor(&stored, [case.tokens, case.sequences], dtype);
        let mut leaf = stored.transpose();
        if runner.is_tracked() {
            leaf = leaf.require_grad();
        }
        assert_eq!(values(leaf.clone()).len(), case.log_probs.len());
        let batch = runner.batch(&case, leaf.clone(), dtype);
        let output = runner.forward(&case.name, &runner.init(&case.config), batch);
        let what = format!("{runner}, {dtype:?}, a strided leaf");
        let contiguous = runner.outcome(&case, dtype);
        assert_eq!(
            bits(&runner.read(&output, &leaf, None)),
            bits(&contiguous),
            "{what}"
        );
    }
}

/// Every pair of types, `log_probs` in one and all other inputs in the other: the arithmetic is
/// f64 where `log_probs` are, else f32, whatever the rest is.
pub fn mixed_types(runner: &Runner) {
    let dtypes = [runner.exact_dtypes(), runner.half_dtypes()].concat();
    for log_probs in &dtypes {
        for others in &dtypes {
            for config in runner.some_configs() {
                let case = busy(1).with_config(config);
                let config = describe(&config);
                let what = format!("{runner}, {log_probs:?} among {others:?}, {config}");
                let outcome = runner.outcome_mixed(&case, *log_probs, *others);
                let arithmetic = match log_probs {
                    DType::F64 => DType::F64,
                    _ => DType::F32,
                };
                assert_eq!(outcome.dtype, arithmetic, "{what}: the type of the loss");
                let rounded = case.rounded(*log_probs, *others);
                assert_outcome(&what, *log_probs, &outcome, &rounded.answer());
            }
        }
    }
}

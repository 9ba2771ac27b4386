//! Log-probs of logits: what is known of each row, and the gradient of the logits, each in one
//! kernel. A row of logits is visited by one cube.

mod kernels;

use cubecl::prelude::*;

use super::{Buffer, geometry};
use kernels::{CUBE_SIZE, visit_rows, write_gradient};

/// Cubes in a launch: every device allows as many in one direction. Kernels loop over what is left.
const MOST_CUBES: usize = 65_535;

/// Logits, `rows * vocabulary` of them, and a target and a scale for each row.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Of any float type.
    pub logits: Buffer,
    /// `rows` integers.
    pub targets: Buffer,
    /// `rows` numbers that logits are multiplied by first, of the [arithmetic's](super::arithmetic)
    /// type.
    pub scales: Buffer,
    /// Number of rows.
    pub rows: usize,
    /// Number of logits in a row.
    pub vocabulary: usize,
    /// Whether entropies are computed.
    pub entropy: bool,
    /// Whether sums of squared probabilities are.
    pub squares: bool,
}

impl Logits {
    /// How many values there are of each row.
    fn values(&self) -> usize {
        1 + usize::from(self.entropy) + usize::from(self.squares)
    }
}

/// What is known of each row, of the [arithmetic's](super::arithmetic) type.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The log-probs of the targets, then, if they are computed, the entropies, then the sums of
    /// squared probabilities. A log-prob is NaN where its target is not in the vocabulary.
    pub values: Buffer,
    /// The largest scaled logits, then `log(sum(exp(z - largest)))`.
    pub moments: Buffer,
}

/// What is known of each row.
///
/// # Panics
///
/// If a buffer is too short, there is no logit, or there are 2^31 or more.
#[must_use]
pub fn statistics(client: &Client, logits: &Logits) -> Statistics {
    let arithmetic = super::arithmetic(logits.logits.element);
    let rows = logits.rows;
    let length = rows * logits.vocabulary;
    assert_countable(length);
    let width = geometry::width(client, logits.logits.element.size(), logits.vocabulary);
    let values = rows * logits.values();
    let outputs = Statistics {
        values: Buffer::empty(client, values, arithmetic),
        moments: Buffer::empty(client, 2 * rows, arithmetic),
    };
    // SAFETY: the kernel reads `rows` rows of `vocabulary / width` vectors, `rows` targets and as
    // many scales, and writes `rows` elements of each statistic; `argument` has checked that buffers
    // are as long.
    #[allow(unsafe_code)]
    unsafe {
        visit_rows::launch_unchecked(
            client,
            cubes(rows),
            CubeDim::new_1d(CUBE_SIZE),
            width,
            logits.logits.argument(length),
            logits.targets.argument(rows),
            logits.scales.argument(rows),
            outputs.values.argument(values),
            outputs.moments.argument(2 * rows),
            rows,
            logits.vocabulary / width,
            // A parameter, because WGSL has no way to write it.
            InputScalar::new(f64::NAN, arithmetic),
            logits.entropy,
            logits.squares,
            [logits.logits.element, logits.targets.element, arithmetic],
        );
    }
    outputs
}

/// Which words of a vocabulary logits are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// The first of them.
    pub first: usize,
    /// How many there are, those that the logits are not of included.
    pub vocabulary: usize,
}

/// The gradient of the logits of some words, given the gradient of the values, in their layout, as
/// elements of type `into`; in the memory of the logits if that is their type and nothing else
/// refers to it. A row without a gradient gets exactly 0.
///
/// # Panics
///
/// If a buffer is too short, there is no logit, or there are 2^31 or more.
#[must_use]
pub fn gradient(
    client: &Client,
    logits: Logits,
    words: Words,
    statistics: &Statistics,
    upstream: &Buffer,
    entropy_gradient: bool,
    into: ElemType,
) -> Buffer {
    let (rows, here) = (logits.rows, logits.vocabulary);
    let arithmetic = super::arithmetic(logits.logits.element);
    let element = logits.logits.element;
    let squares_row = match logits.squares {
        true => logits.values() - 1,
        false => 0,
    };
    let length = rows * here;
    assert_countable(length);
    let width = geometry::width(client, element.size(), here);
    let values = rows * logits.values();
    let input = logits.logits.argument(length);
    let in_place =
        into == element && logits.logits.handle.can_mut() && logits.logits.length() == length;
    let (output, output_argument) = match in_place {
        true => (logits.logits, BufferArg::alias(0, length)),
        false => {
            let output = Buffer::empty(client, length, into);
            let argument = output.argument(length);
            (output, argument)
        }
    };
    // SAFETY: as above; the output has as many elements as the logits.
    #[allow(unsafe_code)]
    unsafe {
        write_gradient::launch_unchecked(
            client,
            cubes(rows),
            CubeDim::new_1d(CUBE_SIZE),
            width,
            input,
            output_argument,
            logits.targets.argument(rows),
            logits.scales.argument(rows),
            statistics.values.argument(values),
            statistics.moments.argument(2 * rows),
            upstream.argument(values),
            rows,
            here / width,
            words.first,
            words.vocabulary,
            // A parameter, because WGSL has no way to write it.
            InputScalar::new(f64::NAN, arithmetic),
            entropy_gradient,
            squares_row,
            [element, into, logits.targets.element, arithmetic],
        );
    }
    output
}

/// The kernels count in 32 bits.
fn assert_countable(length: usize) {
    assert!(i32::try_from(length).is_ok(), "{length} logits at once");
}

fn cubes(rows: usize) -> CubeCount {
    CubeCount::Static(rows.clamp(1, MOST_CUBES) as u32, 1, 1)
}

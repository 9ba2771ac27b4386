//! The two kernels.

use cubecl::prelude::*;

use crate::cube::lanes::{Division, Lanes};
use crate::kind::Kind;

/// Units in a cube.
pub const CUBE_SIZE: u32 = 256;

/// All units of a cube work on one row of logits.
const WHOLE_CUBE: Division = Division {
    cube_size: CUBE_SIZE,
    lanes: CUBE_SIZE,
};

/// Below it, `exp` is 0 in f32, and next to nothing in f64.
const LOG_OF_NOTHING: f64 = -104.0;

#[cube(launch_unchecked)]
pub fn visit_rows<L: Float, I: Int, A: Float, N: Size>(
    logits: &[Vector<L, N>],
    targets: &[I],
    scales: &[A],
    values: &mut [A],
    moments: &mut [A],
    rows: usize,
    vectors: usize,
    not_a_number: InputScalar,
    #[comptime] entropy: bool,
    #[comptime] squares: bool,
    #[define(L, I, A)] _types: [ElemType; 3],
) {
    let step = comptime!(CUBE_SIZE as usize);
    let mut lanes = Lanes::<A>::new(comptime!(WHOLE_CUBE));
    let mut row = CUBE_POS;
    while row < rows {
        let start = row * vectors;
        let scale = Vector::<A, N>::new(scales[row]);
        // The smallest number, not an infinity, which WGSL has no way to write.
        let mut largest = Vector::<A, N>::new(A::new(f32::MIN));
        let mut index = UNIT_POS as usize;
        while index < vectors {
            let z = Vector::<A, N>::cast_from(logits[start + index]) * scale;
            largest = select_many(z.greater_than(&largest), z, largest);
            index += step;
        }
        let mut largest_lane = largest.extract(0usize);
        #[unroll]
        for lane in 1..N::value() {
            let other = largest.extract(lane);
            largest_lane = select(other > largest_lane, other, largest_lane);
        }
        let largest = lanes.fold(Kind::Largest, largest_lane);

        let mut sum = Vector::<A, N>::new(A::new(0.0));
        let mut weighted = Vector::<A, N>::new(A::new(0.0));
        let mut squared = Vector::<A, N>::new(A::new(0.0));
        let mut index = UNIT_POS as usize;
        while index < vectors {
            let z = Vector::<A, N>::cast_from(logits[start + index]) * scale;
            let distance = z - Vector::new(largest);
            let exponential = distance.exp();
            sum += exponential;
            if comptime!(entropy) {
                weighted += exponential * at_least_nothing(distance);
            }
            if comptime!(squares) {
                squared += exponential * exponential;
            }
            index += step;
        }
        let sum = lanes.sum(sum.vector_sum());
        let mut weighted_sum = A::new(0.0);
        if comptime!(entropy) {
            weighted_sum = lanes.sum(weighted.vector_sum());
        }
        let mut squared_sum = A::new(0.0);
        if comptime!(squares) {
            squared_sum = lanes.sum(squared.vector_sum());
        }
        if UNIT_POS == 0 {
            let log_sum = logarithm::<A>(sum);
            let target = i32::cast_from(targets[row]);
            let is_known = target >= 0 && target < (vectors * N::value()) as i32;
            let place = select(is_known, target, 0) as usize;
            let vector = Vector::<A, N>::cast_from(logits[start + place / N::value()]) * scale;
            let mut z = vector.extract(0usize);
            #[unroll]
            for lane in 1..N::value() {
                z = select(place % N::value() == lane, vector.extract(lane), z);
            }
            let log_prob = z - largest - log_sum;
            values[row] = select(is_known, log_prob, not_a_number.get::<A>());
            if comptime!(entropy) {
                values[rows + row] = log_sum - weighted_sum / sum;
            }
            if comptime!(squares) {
                let place = comptime!(1 + entropy as usize) * rows + row;
                values[place] = squared_sum / (sum * sum);
            }
            moments[row] = largest;
            moments[rows + row] = log_sum;
        }
        row += CUBE_COUNT;
    }
}

#[cube(launch_unchecked)]
pub fn write_gradient<L: Float, O: Float, I: Int, A: Float, N: Size>(
    logits: &[Vector<L, N>],
    output: &mut [Vector<O, N>],
    targets: &[I],
    scales: &[A],
    values: &[A],
    moments: &[A],
    upstream: &[A],
    rows: usize,
    vectors: usize,
    first: usize,
    vocabulary: usize,
    not_a_number: InputScalar,
    #[comptime] entropy_gradient: bool,
    // The row of the sums of squared probabilities; 0 where there is none.
    #[comptime] squares_row: usize,
    #[define(L, O, I, A)] _types: [ElemType; 4],
) {
    let step = comptime!(CUBE_SIZE as usize);
    let zero = A::new(0.0);
    let mut row = CUBE_POS;
    while row < rows {
        let start = row * vectors;
        let scale = scales[row];
        let largest = moments[row];
        let log_sum = moments[rows + row];
        let gradient = upstream[row] * scale;
        // Not of the product: a scale may be NaN.
        let mut is_idle = upstream[row] == zero;
        let mut of_entropy = zero;
        let mut entropy = zero;
        if comptime!(entropy_gradient) {
            is_idle = is_idle && upstream[rows + row] == zero;
            of_entropy = upstream[rows + row] * scale;
            entropy = values[rows + row];
        }
        let mut of_squares = zero;
        let mut squares = zero;
        if comptime!(squares_row > 0) {
            let place = squares_row * rows + row;
            is_idle = is_idle && upstream[place] == zero;
            of_squares = upstream[place] * scale * A::new(2.0);
            squares = values[place];
        }
        let target = i32::cast_from(targets[row]);
        let is_known = target >= 0 && target < vocabulary as i32;
        // Below 0, or beyond the last, where the target is not one of these words.
        let place = target - first as i32;
        // Every element of a row whose target is nowhere.
        let nowhere = select(is_known, zero, not_a_number.get::<A>());

        let mut index = UNIT_POS as usize;
        while index < vectors {
            let z = Vector::<A, N>::cast_from(logits[start + index]) * Vector::new(scale);
            let log_prob = z - Vector::new(largest) - Vector::new(log_sum);
            let mut factor = Vector::new(gradient);
            if comptime!(entropy_gradient) {
                let inner = at_least_nothing(log_prob) + Vector::new(entropy);
                let inner = inner * Vector::new(of_entropy);
                let absent = Vector::new(of_entropy == zero);
                factor += select_many(absent, Vector::new(zero), inner);
            }
            let probability = log_prob.exp();
            if comptime!(squares_row > 0) {
                let inner = (probability - Vector::new(squares)) * Vector::new(of_squares);
                let absent = Vector::new(of_squares == zero);
                factor -= select_many(absent, Vector::new(zero), inner);
            }
            let mut own = Vector::new(nowhere) - probability * factor;
            #[unroll]
            for lane in 0..N::value() {
                let is_target = (index * N::value() + lane) as i32 == place;
                let before = own.extract(lane);
                own.insert(lane, select(is_target, before + gradient, before));
            }
            // Selected at the end: whatever the row holds, it has no part in anything.
            let own = select_many(Vector::new(is_idle), Vector::new(zero), own);
            output[start + index] = Vector::cast_from(own);
            index += step;
        }
        row += CUBE_COUNT;
    }
}

/// A logit of -inf has probability 0, and 0 * -inf would be NaN. NaN stays, which the built-in `max` of
/// a device need not keep.
#[cube]
fn at_least_nothing<A: Float, N: Size>(x: Vector<A, N>) -> Vector<A, N> {
    let least = Vector::new(A::new(comptime!(LOG_OF_NOTHING as f32)));
    select_many(x.less_than(&least), least, x)
}

#[cube]
fn logarithm<A: Float>(x: A) -> A {
    Vector::<A, Const<1>>::new(x).ln().extract(0usize)
}
